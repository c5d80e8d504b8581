"""`spiral launch`: what the rendered files hold, and what they must not hold."""

import gzip
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from jinja2 import UndefinedError
from jsonschema import Draft202012Validator, ValidationError
from ray.autoscaler._private.util import prepare_config, validate_config
from typer.testing import CliRunner

from spiral.cli.main import app
from spiral.config import UserError
from spiral.launch import render

GOLDEN = Path(__file__).parent / "golden"
SECRETS = {"WANDB_API_KEY": "w4ndb-s3cret", "HF_TOKEN": "hf-s3cret", "RAY_AUTH_TOKEN": "r4y-s3cret" * 4}


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A working directory, and an environment with keys."""
    monkeypatch.chdir(tmp_path)
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)


def shown(*arguments: str) -> str:
    """What --dry-run prints, with the directories of this test and this Python replaced."""
    result = CliRunner().invoke(app, ["launch", *arguments, "--dry-run"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout.replace(str(Path.cwd()), "/shared/work").replace(str(Path(sys.executable).parent), "/venv/bin")


RAY_UP = [
    ["smoke", "--hosts", "10.0.0.1,10.0.0.2", "--ssh-user", "me"],
    ["spiral_qwen3_4b", "--region", "us-east-1", "--gpus-per-node", "8", "--image", "registry.example/spiral:0.1.0"],
    ["smoke", "--region", "us-east-1", "--nodes", "3"],
]
SLURM = ["slurm", "spiral_qwen3_4b", "steps=100", "--nodes", "1", "--gpus-per-node", "8"]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("slurm.sbatch", [*SLURM, "--time", "12:00:00", "--partition", "gpu", "--account", "team"]),
        ("slurm-seeds.sbatch", ["slurm", "smoke", "--nodes", "2", "--cpus-per-node", "4", "--seeds", "0-9"]),
        ("rayjob.yaml", ["kuberay", "smoke", "--image", "registry.example/spiral:0.1.0", "--nodes", "2"]),
        ("ray-up.yaml", ["ray-up", *RAY_UP[1]]),
        ("local.sh", ["local", "quickstart", "steps=20"]),
        ("local-seeds.sh", ["local", "quickstart", "--seeds", "1,3-5"]),
    ],
)
def test_the_rendered_file_is_the_one_in_golden(name: str, arguments: list[str]) -> None:
    text = shown(*arguments)
    assert text == (GOLDEN / name).read_text(), f"if this is intended, write it to {GOLDEN / name}"
    assert not [secret for secret in SECRETS.values() if secret in text]
    if name.endswith(".yaml"):
        return
    checked = subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True, check=False)
    assert checked.returncode == 0, checked.stderr


KUBERAY = ["kuberay", "spiral_qwen3_4b", "steps=100", "--image", "registry.example/spiral:0.1.0"]
MACHINES = ["--nodes", "2", "--gpus-per-node", "4"]


def closed(schema: Any) -> Any:
    """The schema with unknown fields refused, which Kubernetes removes without a word."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    parts = {name: closed(part) for name, part in schema.items()}
    is_open = "additionalProperties" in parts or parts.get("x-kubernetes-preserve-unknown-fields")
    return parts if "properties" not in parts or is_open else parts | {"additionalProperties": False}


@pytest.fixture(scope="module")
def ray_job() -> Draft202012Validator:
    """The schema of KubeRay's RayJob, v1, without its descriptions.

    From helm-chart/kuberay-operator/crds of ray-project/kuberay at feeaf72 (Apache License 2.0).
    """
    schema = closed(json.loads(gzip.decompress((Path(__file__).parent / "schemas" / "rayjob.v1.json.gz").read_bytes())))
    schema["properties"]["metadata"] = {"type": "object"}  # Kubernetes has a schema of its own for it
    return Draft202012Validator(schema)


@pytest.mark.parametrize("machines", [MACHINES, ["--nodes", "1", "--gpus-per-node", "8"]])
def test_a_ray_job_is_what_kuberay_takes(ray_job: Draft202012Validator, machines: list[str]) -> None:
    text = shown(*KUBERAY, *machines)
    job = yaml.safe_load(text)
    assert [error.message for error in ray_job.iter_errors(job)] == []
    assert len(job["spec"]["rayClusterSpec"].get("workerGroupSpecs", [])) == (machines == MACHINES)
    job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["imagePolicy"] = "x"
    assert "'imagePolicy' was unexpected" in next(ray_job.iter_errors(job)).message
    assert not [secret for secret in SECRETS.values() if secret in text]


def pods(job: Any) -> list[dict[str, Any]]:
    """The pods of a RayJob, whose templates KubeRay's schema only knows in part."""
    cluster = job["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster.get("workerGroupSpecs", [])]
    return [{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, **group["template"]} for group in groups]


KUBERNETES = "1.37"


@pytest.mark.parametrize("machines", [MACHINES, ["--nodes", "1"]])
def test_the_pods_of_a_ray_job_are_what_kubernetes_takes(machines: list[str]) -> None:
    found = pods(yaml.safe_load(shown(*KUBERAY[:1], "smoke", *KUBERAY[3:], *machines)))
    assert len(found) == (2 if machines == MACHINES else 1)
    for pod in found:
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)
    found[0]["spec"]["containers"][0]["imagePolicy"] = "x"
    with pytest.raises(kubernetes_validate.ValidationError, match="imagePolicy"):
        kubernetes_validate.validate(found[0], KUBERNETES, strict=True)


def test_the_claim_and_the_secret_of_the_docs_are_what_a_ray_job_asks_for() -> None:
    """They are what Kubernetes takes, and have the names that the pods use."""
    page = (Path(__file__).parents[2] / "docs" / "cluster.md").read_text()
    (block,) = [text for text in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL) if "apiVersion: v1" in text]
    objects = {tree["kind"]: tree for tree in yaml.safe_load_all(block)}
    for tree in objects.values():
        kubernetes_validate.validate(tree, KUBERNETES, strict=True)
    (pod,) = pods(yaml.safe_load(shown("kuberay", "smoke", "--image", "x:1")))
    claim = pod["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"]
    secret = pod["spec"]["containers"][0]["envFrom"][0]["secretRef"]["name"]
    assert objects["PersistentVolumeClaim"]["metadata"]["name"] == claim
    assert objects["Secret"]["metadata"]["name"] == secret
    assert objects["PersistentVolumeClaim"]["spec"]["accessModes"] == ["ReadWriteMany"], (
        "pods on several nodes mount it"
    )


def test_the_ray_job_resumes_what_is_on_the_volume() -> None:
    entrypoint = yaml.safe_load(shown(*KUBERAY, *MACHINES, "--restart", "5"))["spec"]["entrypoint"]
    program, option, script = shlex.split(entrypoint)
    assert (program, option) == ("bash", "-c")
    begin = "set -- train spiral_qwen3_4b steps=100 run.dir=/runs"
    assert script.startswith("if [ -e /runs/spiral_qwen3_4b/config.yaml ]; then set -- resume /runs/spiral_qwen3_4b;")
    assert f"else {begin}; fi; exec spiral" in script


@pytest.mark.parametrize("arguments", RAY_UP)
def test_a_cluster_file_is_what_ray_up_takes(arguments: list[str]) -> None:
    """By the schema and the checks of the installed Ray."""
    text = shown("ray-up", *arguments)
    cluster = yaml.safe_load(text)
    validate_config(prepare_config(cluster))
    with pytest.raises(ValidationError):
        validate_config(prepare_config(cluster) | {"head_node": {"InstanceTyp": "x"}, "worker_adress": "x"})
    assert not [secret for secret in SECRETS.values() if secret in text]


def test_a_cluster_file_needs_machines() -> None:
    assert "name the machines with --hosts, or a region" in refused("ray-up", "smoke")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--image", ""], "--image '': expected letters, digits"),
        (["--image", "x:1", "--secret", "a b"], "--secret 'a b': expected letters, digits"),
        (["--image", "x:1", "run.name=my run"], "run.name 'my run': Kubernetes takes up to 40 letters, digits and -"),
    ],
)
def test_names_that_kubernetes_does_not_take_are_refused(arguments: list[str], message: str) -> None:
    assert message in refused("kuberay", "smoke", *arguments)


def test_values_are_quoted_for_the_shell() -> None:
    text = shown("local", "quickstart", "run.name=a b", "wandb.project=$(touch /tmp/owned)")
    assert "run_dir='/shared/work/runs/a b'" in text
    assert "'wandb.project=$(touch /tmp/owned)'" in text


def refused(*arguments: str) -> str:
    with pytest.raises(UserError) as error:
        CliRunner().invoke(app, ["launch", *arguments, "--dry-run"], catch_exceptions=False)
    return str(error.value)


def test_a_run_that_does_not_fit_the_machines_is_refused() -> None:
    assert "needs 8 GPUs" in refused(*SLURM[:-1], "4")
    assert "--nodes 1 --gpus-per-node 4 are 4" in refused(*SLURM[:-1], "4")


@pytest.mark.parametrize(
    ("option", "value"), [("--partition", "gpu\n#SBATCH --wrap=x"), ("--time", "1 day"), ("--interface", "ib0;reboot")]
)
def test_options_that_would_add_to_the_file_are_refused(option: str, value: str) -> None:
    assert "expected letters, digits" in refused("slurm", "smoke", option, value)


@pytest.mark.parametrize("options", [[], ["--interface", "ib0"]])
def test_the_command_for_a_nodes_address_survives_the_shell(options: list[str]) -> None:
    lines = shown("slurm", "smoke", *options).splitlines()
    (assignment,) = [line for line in lines if line.startswith("own_address=")]
    script = f'{assignment}; bash -n -c "$own_address" && printf %s "$own_address"'
    command = subprocess.run(["bash", "-c", script], text=True, capture_output=True, check=True).stdout
    begin = "ip -4 -o addr show dev ib0 | awk '{print $4}' | cut -d/ -f1" if options else "hostname -I"
    assert command == begin + ' | tr " " "\\n" | grep -m 1 "[.]"'


@pytest.mark.parametrize(("restarts", "requeued"), [(None, True), ("1", True), ("2", False), ("7", False)])
def test_a_job_goes_back_into_the_queue_a_limited_number_of_times(
    restarts: str | None, requeued: bool, tmp_path: Path
) -> None:
    """Whatever keeps the run from starting: an exit code of 75 at once would otherwise go on for ever."""
    text = shown("slurm", "smoke", "--requeues", "2")
    (function,) = re.findall(r"^requeue\(\) \{.*?^\}$", text, re.DOTALL | re.MULTILINE)
    (tmp_path / "scontrol").write_text('#!/bin/sh\necho "scontrol $*"\n')
    (tmp_path / "scontrol").chmod(0o755)
    count = {} if restarts is None else {"SLURM_RESTART_COUNT": restarts}
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "8", **count}
    script = f"set -euo pipefail\n{function}\nrequeue"
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (75, "")
    assert ("scontrol requeue 8" in done.stdout) == requeued
    assert ("has been requeued 2 times, which --requeues permits: submit it again" in done.stdout) != requeued


def test_directives_with_spaces_are_quoted() -> None:
    lines = shown("slurm", "smoke", "run.name=two words").splitlines()
    assert "#SBATCH --job-name='spiral-two words'" in lines
    assert "#SBATCH --output='/shared/work/runs/two words-%j.log'" in lines


def test_an_image_may_be_named_by_its_digest() -> None:
    image = "registry.example/spiral@sha256:" + "0" * 64
    assert f'image: "{image}"' in shown("kuberay", "smoke", "--image", image)


def test_seeds_that_are_no_numbers_are_refused() -> None:
    assert "--seeds 'all': expected numbers and ranges" in refused("slurm", "smoke", "--seeds", "all")


def test_without_the_scheduler_the_error_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="sbatch is not on this machine; run this where it is installed, or look"):
        CliRunner().invoke(app, ["launch", "slurm", "smoke", f"run.dir={tmp_path / 'runs'}"], catch_exceptions=False)


def test_a_template_must_not_miss_a_value() -> None:
    values: dict[str, Any] = {"name": "x"}
    with pytest.raises(UndefinedError, match="'nodes' is undefined"):
        render("slurm.sbatch", values)
