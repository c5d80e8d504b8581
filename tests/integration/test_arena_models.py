"""`spiral arena` with models in real engines."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from spiral.types import POLICY
from tests.integration.conftest import ok, spiral


def test_models_play_each_other_and_scripts_in_rounds(model_dir: Path, tmp_path: Path) -> None:
    players = [f"one={model_dir}", f"two={model_dir}", f"three={model_dir}", "random"]
    options = ["--set", "generators.max_model_len=512", "--set", "rollout.max_tokens=8", "--engines", "2"]
    command = ["arena", *players, "--game", "kuhn_poker", "--pairs", "10", "--dir", str(tmp_path / "arena"), *options]
    done = ok(spiral(*command))
    report = json.loads((tmp_path / "arena/report.json").read_text())
    (game,) = report["games"]
    assert [meeting["void"] for meeting in game["meetings"]] == [0] * 6, game["notes"]
    assert [meeting["score"]["num_pairs"] for meeting in game["meetings"]] == [10] * 6
    assert all(line["illegal_rate"] < 0.5 for line in game["lines"])
    assert POLICY not in report["rules"]["players"]
    for name in ("one", "two", "three", "random"):
        assert name in done.stdout
    assert done.stderr.count("starting an engine for") >= 3

    again = ok(spiral(*command))  # everything is there: no engine starts
    assert "starting an engine" not in again.stderr
    assert len((tmp_path / "arena/results.jsonl").read_text().splitlines()) == 6 * 10 * 2


@pytest.fixture
def served(model_dir: Path, tmp_path: Path) -> Iterator[str]:
    """vLLM's OpenAI-compatible server, with the tiny model as `tiny`. (The CPU build's `vllm serve` does not start.)"""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model_dir)]
    command += ["--served-model-name", "tiny", "--dtype", "float32"]
    with (tmp_path / "serve.log").open("w") as log:
        server = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port), "--max-model-len", "512", "--enforce-eager"],
            env={k: v for k, v in os.environ.items() if k != "VLLM_ENABLE_V1_MULTIPROCESSING"},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 240
        while True:
            try:
                urllib.request.urlopen(f"{url}/health", timeout=5)
                break
            except (urllib.error.URLError, OSError):
                assert server.poll() is None, (tmp_path / "serve.log").read_text()[-2000:]
                assert time.monotonic() < deadline, "vLLM's server did not start"
                time.sleep(1)
        yield f"{url}/v1"
    finally:
        server.terminate()
        server.wait(60)


def test_a_model_behind_an_openai_compatible_server_plays(served: str, tmp_path: Path) -> None:
    options = ["--set", "rollout.max_tokens=8", "--price", "tiny=1,1"]
    ok(
        spiral(
            "arena",
            f"tiny@{served}",
            "random",
            "--game",
            "kuhn_poker",
            "--pairs",
            "20",
            "--dir",
            str(tmp_path / "arena"),
            *options,
        )
    )
    report = json.loads((tmp_path / "arena/report.json").read_text())
    assert report["games"][0]["meetings"][0]["void"] == 0
    assert report["games"][0]["lines"][0]["illegal_rate"] < 0.5
    use = report["endpoints"]["tiny"]
    assert use["calls"] >= 40 and use["errors"] == 0
    assert use["cost"] == pytest.approx((use["prompt_tokens"] + use["completion_tokens"]) / 1e6)
