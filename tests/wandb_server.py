"""A stand-in for W&B's server on loopback: as much of its GraphQL, file stream and storage as wandb, `wandb sync` and
wandb-workspaces ask for. It keeps what it receives in memory, and can be made to hang or to fail.
"""

import base64
import gzip
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, Self
from urllib.parse import unquote

ENTITY = "tester"
KEY = "0123456789abcdef0123456789abcdef01234567"
"""An API key of the right length."""
FIELDS = ("displayName", "groupName", "notes", "jobType", "tags")

Json = dict[str, Any]


@dataclass
class StoredRun:
    """What the server knows of a run."""

    id: str
    history: list[Json] = field(default_factory=list)
    events: list[Json] = field(default_factory=list)  # system metrics
    summary: Json = field(default_factory=dict)
    config: Json = field(default_factory=dict)
    fields: Json = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    alerts: list[Json] = field(default_factory=list)
    exit_codes: list[int] = field(default_factory=list)

    @property
    def steps(self) -> list[int]:
        """The steps of its rows, in the order in which they came."""
        return [row["step"] for row in self.history]

    def tables(self) -> dict[int, Json]:
        """The transcripts that its rows refer to and whose files have come, by step."""
        refs = {row["_step"]: row["transcripts"] for row in self.history if "transcripts" in row}
        return {step: json.loads(self.files[ref["path"]]) for step, ref in refs.items() if ref["path"] in self.files}


@dataclass
class StoredArtifact:
    """A version of an artifact."""

    id: str
    name: str
    type: str
    digest: str
    aliases: set[str]
    metadata: Json
    state: str = "PENDING"
    manifest: Json = field(default_factory=dict)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """A client that is killed breaks its connections."""


class WandbServer:
    """A context manager: a server on a free port, and what it has received. `state` says how it behaves."""

    def __init__(self) -> None:
        self.runs: dict[str, StoredRun] = {}
        self.views: dict[str, Json] = {}  # by internal name
        self.artifacts: list[StoredArtifact] = []
        self.operations: list[str] = []
        self.unknown: list[str] = []  # operations that the tests do not expect
        self.state: Literal["up", "hangs", "fails"] = "up"
        self._lock = threading.RLock()
        self._released = threading.Event()
        self._server = _Server(("127.0.0.1", 0), _handler(self))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def environment(self) -> dict[str, str]:
        """Variables with which wandb talks to this server, and to nothing else."""
        return {
            "WANDB_BASE_URL": self.url,
            "WANDB_API_KEY": KEY,
            "WANDB_MODE": "online",
            "WANDB_ERROR_REPORTING": "false",
        }

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._released.set()
        self._server.shutdown()
        self._server.server_close()

    def come_back(self) -> None:
        """Answer again, also those who wait."""
        self.state = "up"
        self._released.set()
        self._released = threading.Event()

    def hold(self) -> None:
        """Wait if the server hangs."""
        if self.state == "hangs":
            self._released.wait()

    def receive(self, path: str, body: bytes) -> Json:
        """The answer to a request."""
        with self._lock:
            if path == "/graphql":
                request = json.loads(body)
                return self._answer(request["query"], request.get("variables") or {})
            if path.endswith("/file_stream"):
                return self._stream(self._run(path.split("/")[-2]), json.loads(body))
            if path.startswith("/storage/run/"):
                _, _, _, run_id, name = path.split("/", 4)
                self._run(run_id).files[unquote(name)] = body
            elif path.startswith("/storage/manifest/"):
                self._artifact(path.split("/")[-1]).manifest = json.loads(body)
            elif not path.startswith("/storage/artifact/"):
                self.unknown.append(path)
            return {}

    def _run(self, run_id: str) -> StoredRun:
        return self.runs.setdefault(run_id, StoredRun(run_id))

    def _artifact(self, artifact_id: str) -> StoredArtifact:
        return next(artifact for artifact in self.artifacts if artifact.id == artifact_id)

    def _stream(self, run: StoredRun, request: Json) -> Json:
        """Lines of a run's files, each file from an offset on. Lines that are there already are not added again."""
        for name, chunk in request.get("files", {}).items():
            lines = [json.loads(line) for line in chunk["content"]] if name != "output.log" else []
            kept = {"wandb-history.jsonl": run.history, "wandb-events.jsonl": run.events}.get(name)
            if kept is not None:
                assert chunk["offset"] <= len(kept), f"{name}: a gap before line {chunk['offset']}"
                kept.extend(lines[len(kept) - chunk["offset"] :])
            elif name == "wandb-summary.json" and lines:
                run.summary |= lines[-1]
        if request.get("complete"):
            run.exit_codes.append(request["exitcode"])
        return {}

    # --- GraphQL: one method per operation, which gets its variables

    def _answer(self, query: str, variables: Json) -> Json:
        found = re.search(r"\b(?:query|mutation)\s+(\w+)", query)
        name = found[1] if found else query
        self.operations.append(name)
        method: Callable[[Json], Json] | None = getattr(self, f"_on_{name}", None)
        if method is None:
            self.unknown.append(f"{query} {variables}")
            return {"errors": [{"message": f"unknown operation {name}"}]}
        return {"data": method(variables)}

    def _on_Viewer(self, _: Json) -> Json:
        return {"viewer": {"id": "u", "entity": ENTITY, "username": ENTITY, "flags": "{}", "teams": {"edges": []}}}

    def _on_GetDefaultEntity(self, _: Json) -> Json:
        return {"viewer": {"id": "u", "entity": ENTITY}}

    def _on_ServerFeaturesQuery(self, _: Json) -> Json:
        return {"serverInfo": {"features": []}}

    def _on_OrganizationCoreWeaveOrganizationID(self, _: Json) -> Json:
        return {"entity": {"organization": {"coreWeaveOrganizationId": None}}}

    def _on_RunResumeStatus(self, variables: Json) -> Json:
        run = self.runs.get(variables["name"])
        bucket = run and {
            "id": run.id,
            "name": run.id,
            "summaryMetrics": json.dumps(run.summary),
            "displayName": run.fields.get("displayName"),
            "logLineCount": 0,
            "historyLineCount": len(run.history),
            "eventsLineCount": len(run.events),
            "historyTail": json.dumps([json.dumps(row) for row in run.history[-1:]]),
            "eventsTail": json.dumps([json.dumps(row) for row in run.events[-1:]]),
            "config": json.dumps(run.config),
            "tags": run.fields.get("tags") or [],
            "notes": run.fields.get("notes"),
            "wandbConfig": json.dumps({"t": 1}),
        }
        project = variables["project"]
        return {"model": {"id": "p", "name": project, "entity": {"id": "e", "name": ENTITY}, "bucket": bucket}}

    def _on_UpsertBucket(self, variables: Json) -> Json:
        run_id = variables["name"] or base64.b64decode(variables["id"]).decode()
        is_new = run_id not in self.runs
        run = self._run(run_id)
        run.fields |= {name: variables[name] for name in FIELDS if variables.get(name) is not None}
        if variables.get("config"):
            run.config = json.loads(variables["config"])
        if variables.get("summaryMetrics"):
            run.summary = json.loads(variables["summaryMetrics"])
        project = {"id": "p", "name": variables["project"], "entity": {"id": "e", "name": ENTITY}}
        bucket = {
            "id": base64.b64encode(run_id.encode()).decode(),
            "name": run_id,
            "displayName": run.fields.get("displayName"),
            "description": None,
            "config": json.dumps(run.config),
            "sweepName": None,
            "project": project,
            "historyLineCount": len(run.history),
        }
        return {"upsertBucket": {"bucket": bucket, "inserted": is_new}}

    def _on_CreateRunFiles(self, variables: Json) -> Json:
        run_id = variables["run"]
        files = [{"name": n, "uploadUrl": f"{self.url}/storage/run/{run_id}/{n}"} for n in variables["files"]]
        return {"createRunFiles": {"runID": run_id, "uploadHeaders": [], "files": files}}

    def _on_NotifyScriptableRunAlert(self, variables: Json) -> Json:
        self._run(variables["runName"]).alerts.append(variables)
        return {"notifyScriptableRunAlert": {"success": True}}

    # --- artifacts: a version is found again by its digest

    def _on_CreateArtifact(self, variables: Json) -> Json:
        given = variables["input"]
        name, digest = given["artifactCollectionName"], given["digest"]
        versions = [artifact for artifact in self.artifacts if artifact.name == name]
        same = next((artifact for artifact in versions if artifact.digest == digest), None)
        artifact = same or StoredArtifact(
            id=f"artifact{len(self.artifacts)}",
            name=name,
            type=given["artifactTypeName"],
            digest=digest,
            aliases=set(),
            metadata=json.loads(given.get("metadata") or "{}"),
        )
        if not same:
            self.artifacts.append(artifact)
        for alias in given.get("aliases") or []:
            for other in versions:
                other.aliases.discard(alias["alias"])
            artifact.aliases.add(alias["alias"])
        latest = {"id": versions[-1].id, "versionIndex": len(versions) - 1} if versions else None
        sequence = {"id": name, "latestArtifact": latest}
        answer = {"id": artifact.id, "state": artifact.state, "artifactSequence": sequence}
        return {"createArtifact": {"artifact": answer}}

    def _on_ArtifactType(self, variables: Json) -> Json:
        """No artifact is found: the client then takes the type that it was given."""
        return {"project": {"artifact": None}}

    def _on_CreateArtifactManifest(self, variables: Json) -> Json:
        url = f"{self.url}/storage/manifest/{variables['artifactID']}"
        file = {"id": "f", "name": "m", "displayName": "m", "uploadUrl": url, "uploadHeaders": []}
        return {"createArtifactManifest": {"artifactManifest": {"id": variables["artifactID"], "file": file}}}

    def _on_UpdateArtifactManifest(self, variables: Json) -> Json:
        url = f"{self.url}/storage/manifest/{variables['artifactManifestID']}"
        file = {"id": "f", "name": "m", "displayName": "m", "uploadUrl": url, "uploadHeaders": []}
        return {"updateArtifactManifest": {"artifactManifest": {"id": variables["artifactManifestID"], "file": file}}}

    def _on_CreateArtifactFiles(self, variables: Json) -> Json:
        edges = [
            {
                "node": {
                    "id": "f",
                    "name": given["name"],
                    "displayName": given["name"],
                    "storagePath": given["name"],
                    "uploadUrl": f"{self.url}/storage/artifact/{given['artifactID']}/{given['name']}",
                    "uploadHeaders": [],
                    "uploadMultipartUrls": None,
                    "artifact": {"id": given["artifactID"]},
                }
            }
            for given in variables["input"]["artifactFiles"]
        ]
        return {"createArtifactFiles": {"files": {"edges": edges}}}

    def _on_CommitArtifact(self, variables: Json) -> Json:
        artifact = self._artifact(variables["artifactID"])
        artifact.state = "COMMITTED"
        return {"commitArtifact": {"artifact": {"id": artifact.id, "digest": artifact.digest}}}

    # --- views

    def _on_UpsertView2(self, variables: Json) -> Json:
        """A view is found by its id alone: without one, another view is made."""
        is_new = not variables.get("id")
        view_id = variables.get("id") or base64.b64encode(b"View:%d" % len(self.views)).decode()
        name = variables["name"]
        self.views[view_id] = {"id": view_id, **{k: variables[k] for k in ("name", "displayName", "spec")}}
        return {"upsertView": {"view": {"id": view_id, "name": name}, "inserted": is_new}}

    def _on_GetProjects(self, variables: Json) -> Json:
        node = {
            "__typename": "Project",
            "id": "p",
            "name": "spiral",
            "entityName": variables["entity"],
            "createdAt": "2026-01-01T00:00:00Z",
            "isBenchmark": False,
            "user": None,
        }
        page = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}
        return {"models": {"pageInfo": page, "edges": [{"node": node}]}}

    def _on_ProjectInternalId(self, _: Json) -> Json:
        return {"project": {"id": "p", "internalId": base64.b64encode(b"Project:1").decode()}}

    def _on_upsertView(self, variables: Json) -> Json:
        """A report is a view whose project is in the answer."""
        view_id = self._on_UpsertView2(variables)["upsertView"]["view"]["id"]
        project = {"id": "p", "name": variables["projectName"], "entityName": variables["entityName"]}
        self.views[view_id] |= {"description": variables["description"], "project": project}
        return {"upsertView": {"view": self.views[view_id], "inserted": True}}

    def _on_SpecificReport(self, variables: Json) -> Json:
        view = self.views.get(variables["reportId"])
        return {"view": view and dict(view)}

    def _on_View(self, variables: Json) -> Json:
        found = [view for view in self.views.values() if view["name"] == variables["viewName"]]
        return {"project": {"allViews": {"edges": [{"node": view} for view in found]}}}


def _handler(server: WandbServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") == "chunked":
                data = b""
                while size := int(self.rfile.readline().strip() or b"0", 16):
                    data += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
            else:
                data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            return gzip.decompress(data) if self.headers.get("Content-Encoding") == "gzip" else data

        def _reply(self) -> None:
            body = self._body()
            server.hold()
            status, data = 503, b"{}"
            if server.state == "up":
                status, data = 200, json.dumps(server.receive(self.path, body)).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_POST = do_PUT = do_GET = _reply

    return Handler
