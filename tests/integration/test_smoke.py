"""A whole run with Ray, vLLM, TextArena and W&B (offline), through the command line."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from spiral.run import Run
from tests.integration.conftest import Installation, ok, rows, spiral, trained_matches

SmokeRun = tuple[Path, subprocess.CompletedProcess[str]]

KEYS = """
train/loss train/grad_norm train/learning_rate train/kl train/entropy train/rho_mean train/rho_clipped_frac
train/logprob_diff_max train/num_tokens train/num_samples
rollout/episodes rollout/turns_mean rollout/completion_tokens_mean rollout/illegal_rate rollout/forfeit_rate
rollout/void rollout/dropped_stale rollout/staleness_mean
game/kuhn_poker/role0/return_mean game/kuhn_poker/role1/baseline game/textarena/TicTacToe-v0/draw_rate
perf/step_s perf/rollout_s perf/learn_s perf/sync_s perf/generated_tokens_per_s perf/trained_tokens_per_s
train/rho_p10 train/rho_p50 train/rho_p90 train/advantage_p10 train/advantage_p50 train/advantage_p90
game/kuhn_poker/role0/return_ci95 game/kuhn_poker/finished_rate game/kuhn_poker/forfeit_rate
game/kuhn_poker/turn_cap_rate game/kuhn_poker/turns_p50 game/kuhn_poker/turn_tokens_p50 game/kuhn_poker/illegal_rate
game/kuhn_poker/entropy game/kuhn_poker/kl
game/kuhn_poker/distinct_openings game/kuhn_poker/top_opening_rate game/kuhn_poker/distinct_ngrams
perf/other_s perf/games_per_hour
""".split()


def test_every_step_has_a_row_with_every_metric(smoke_run: SmokeRun) -> None:
    table = rows(smoke_run[0])
    assert [(row["step"], row["policy_version"]) for row in table] == [(i, i) for i in range(5)]
    for row in table[1:]:
        assert set(KEYS) - set(row) == set()


def test_the_time_of_a_step_is_accounted_for(smoke_run: SmokeRun) -> None:
    for row in rows(smoke_run[0])[1:]:
        stages = [row[f"perf/{stage}_s"] for stage in ("rollout", "learn", "sync", "other")]
        assert sum(stages) == pytest.approx(row["perf/step_s"])
        assert 0 <= row["perf/other_s"] < 0.5 * row["perf/step_s"]


def test_the_data_is_read_as_the_docs_say(smoke_run: SmokeRun, tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs/monitoring.md").read_text()
    (block,) = re.findall(r"```bash\n(python - <<.*?)```", page, re.DOTALL)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/quickstart").symlink_to(smoke_run[0])
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    run = subprocess.run(
        ["bash", "-ec", block],
        cwd=tmp_path,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    for heading in ("eval/kuhn_poker/nash_conv", "advantage", "jacks"):
        assert heading in run.stdout


def test_the_run_says_that_it_is_finished(smoke_run: SmokeRun, installation: Installation) -> None:
    (listed,) = json.loads(ok(installation.spiral("runs", str(smoke_run[0]), "--json")).stdout)
    assert (listed["state"], listed["step"], listed["steps"]) == ("finished", 4, 4)
    assert {best["key"] for best in listed["best"]} >= {"eval/kuhn_poker/nash_conv"}


def test_sampler_and_learner_agree_after_every_sync(smoke_run: SmokeRun) -> None:
    diffs = [row["train/logprob_diff_max"] for row in rows(smoke_run[0])[1:]]
    assert len(diffs) == 4
    assert max(diffs) <= 1e-4


def test_evaluation_is_there_and_sound(smoke_run: SmokeRun) -> None:
    evaluated = [row for row in rows(smoke_run[0]) if "eval/kuhn_poker/nash_conv" in row]
    assert [row["step"] for row in evaluated] == [0, 2, 4]
    for row in evaluated:
        assert 0 <= row["eval/kuhn_poker/nash_conv"] <= 4
        assert 0 <= row["eval/kuhn_poker/illegal_mass"] <= 1
        assert -1 <= row["eval/textarena/TicTacToe-v0/vs_random/score"] <= 1
        assert row["eval/textarena/TicTacToe-v0/vs_random/ci95"] > 0
    assert evaluated[0]["eval/kuhn_poker/nash_conv"] >= 0.6


def test_episodes_are_what_was_trained_on(smoke_run: SmokeRun) -> None:
    run_dir = smoke_run[0]
    assert sorted(trained_matches(run_dir)) == list(range(4 * 64))
    for step in (1, 4):
        episodes = Run.open(run_dir).episodes(step)
        assert {episode.match.game for episode in episodes} == {"kuhn_poker", "textarena/TicTacToe-v0"}
        sampled = [turn.completion for episode in episodes for turn in episode.turns]
        assert all(c is not None and c.min_version == c.max_version == step - 1 for c in sampled)


def test_eval_of_a_run_repeats_its_last_row(smoke_run: SmokeRun, installation: Installation) -> None:
    """NashConv exactly; the same paired matches, though sampled anew."""
    last = rows(smoke_run[0])[-1]
    done = ok(installation.spiral("eval", "runs/smoke", "--pairs", "20", "--json"))
    result = json.loads(done.stdout)
    assert result["metrics"]["eval/kuhn_poker/nash_conv"] == pytest.approx(last["eval/kuhn_poker/nash_conv"], abs=1e-5)
    assert set(result["metrics"]) == {key for key in last if key.startswith("eval/")}
    assert result["duration_s"] > 0


def test_checkpoint_is_a_model_that_transformers_loads(smoke_run: SmokeRun) -> None:
    checkpoint = smoke_run[0] / "checkpoints" / "step_000004"
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    assert model.config.vocab_size == len(tokenizer)
    assert json.loads((checkpoint / "state.json").read_text())["step"] == 4


def test_the_run_leaves_config_plot_logs_and_an_offline_wandb_run(smoke_run: SmokeRun) -> None:
    run_dir, done = smoke_run
    assert {
        "config.yaml",
        "metrics.jsonl",
        "plot.png",
        "logs",
        "episodes",
        "checkpoints",
        "wandb",
        "evaluations",
        "environment.json",
    } <= {path.name for path in run_dir.iterdir()}
    assert list(run_dir.glob("wandb/offline-run-*/*.wandb"))
    assert "spiral upload" in done.stdout
    assert "before and after" in done.stdout
    assert "Traceback" not in done.stderr


def test_replay_shows_an_episode(smoke_run: SmokeRun) -> None:
    shown = spiral("replay", str(smoke_run[0]), "--game", "textarena/TicTacToe-v0", "--count", "1")
    assert shown.returncode == 0
    assert "Current Board" in shown.stdout
    assert "player 1" in shown.stdout


def test_a_conversation_is_one_sample_a_role_and_two_ranks_train_it(model_dir: Path, tmp_path: Path) -> None:
    """Two learner ranks over gloo score merged turns with the sampler's logprobs; a single rank continues.

    Each move has the return of one continuation, in a game that can be copied and in one that is played again.
    """
    options = ["rollout.context=conversation", "learner.cpu_ranks=2", "learner.local_batch_size=32"]
    options += ["rollout.branches=1", "learner.advantage=branch"]
    ok(spiral("train", "smoke", f"run.dir={tmp_path}", "steps=2", "eval.every=0", *options))
    run_dir = tmp_path / "smoke"
    assert {"learner_0.log", "learner_1.log"} <= {path.name for path in (run_dir / "logs").iterdir()}
    for row in rows(run_dir):
        turns = row["rollout/turns_mean"] * (row["rollout/episodes"] - row["rollout/void"])
        assert row["train/num_samples"] < 0.75 * turns
    episodes = Run.open(run_dir).episodes(2)
    assert all(len(turn.continuations) == 1 for episode in episodes for turn in episode.turns)
    assert any(turn.continuations != episode.returns[:1] for episode in episodes for turn in episode.turns)
    longest = max(episodes, key=lambda episode: len(episode.turns) * (episode.end_reason != "void"))
    first, second = [turn for turn in longest.turns if turn.role == 0][:2]
    assert first.completion is not None
    so_far = (*first.prompt_ids, *first.completion.token_ids)
    assert tuple(second.prompt_ids[: len(so_far)]) == so_far

    ok(spiral("resume", str(run_dir), "learner.cpu_ranks=1", "learner.local_batch_size=64", "steps=3"))
    table = [row for row in rows(run_dir) if row["step"] > 0]
    assert [row["step"] for row in table] == [1, 2, 3]
    assert max(row["train/logprob_diff_max"] for row in table) <= 1e-4
    assert sorted(trained_matches(run_dir)) == list(range(3 * 64))


def past_selves(run_dir: Path, step: int) -> dict[int, dict[str, Any]]:
    """The past selves that a checkpoint knows, by version."""
    state = json.loads((run_dir / "checkpoints" / f"step_{step:06d}" / "state.json").read_text())
    return {one["version"]: one for one in state["past"]}


def test_a_lora_run_trains_resumes_and_is_exported(model_dir: Path, tmp_path: Path) -> None:
    """Only adapters travel and are kept; merged they are a model like any other. Learner and engine take turns.

    Half of the matches are against past selves, which a resumed run has again.
    """
    lora = ["learner.lora_rank=8", "learner.learning_rate=1e-3", "steps=2", "eval.pairs=5", "generators.colocated=true"]
    past = ["league.opponents={policy: 1, past: 1}", "league.past_every=1", "league.past_keep=2"]
    past += ["league.past_draw=pfsp_hard", "checkpoint.every=1"]
    ok(spiral("train", "smoke", f"run.dir={tmp_path}", *lora, *past))
    run_dir = tmp_path / "smoke"
    before = past_selves(run_dir, 2)
    assert set(before) == {0, 1, 2}, "two, and the one that was retired in the last step"
    assert rows(run_dir)[0]["eval/kuhn_poker/nash_conv"] >= 0.6
    assert all(row["perf/turn_s"] > 0 and row["rollout/staleness_mean"] == 0 for row in rows(run_dir)[1:])
    ok(spiral("resume", str(run_dir), "steps=3", "eval.every=0"))
    assert [row["step"] for row in rows(run_dir)] == [0, 1, 2, 3]
    assert max(row["train/logprob_diff_max"] for row in rows(run_dir)[1:]) <= 1e-4
    assert "sound" in ok(spiral("verify", str(run_dir))).stdout
    after = past_selves(run_dir, 3)
    assert set(after) == {0, 2, 3}
    assert all(after[version]["checksum"] == before[version]["checksum"] for version in (0, 2))
    assert after[0]["episodes"] + after[2]["episodes"] > before[0]["episodes"] + before[2]["episodes"]
    assert {path.name for path in (run_dir / "league").iterdir()} == {f"policy@{version}" for version in range(4)}
    assert [row["league/pool_size"] for row in rows(run_dir)[1:]] == [1, 2, 2]
    assert all(row["game/kuhn_poker/vs_past/episodes"] > 0 for row in rows(run_dir)[1:])
    sampled_by = {
        (episode.match.players[turn.role], turn.completion.max_version if turn.completion else None)
        for episode in Run.open(run_dir).episodes(3)
        for turn in episode.turns
    }
    assert sampled_by == {("policy", 2), ("policy@0", -1), ("policy@2", -1)}
    checkpoint = run_dir / "checkpoints" / "step_000003"
    assert {"adapter_config.json", "adapter_model.safetensors"} <= {path.name for path in checkpoint.iterdir()}
    assert not (checkpoint / "model.safetensors").exists()
    changed = spiral("resume", str(run_dir), "steps=4", "learner.lora_rank=4")
    assert changed.returncode == 2
    assert "learner.lora_rank cannot change" in changed.stderr

    for name, options in (("adapter", []), ("merged", ["--merge"])):
        ok(spiral("export", str(run_dir), "--to", str(tmp_path / name), *options))
    assert not list((tmp_path / "merged").glob("adapter*"))
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    adapted = AutoModelForCausalLM.from_pretrained(tmp_path / "adapter")
    plain = AutoModelForCausalLM.from_pretrained(model_dir)
    with torch.no_grad():
        one, other, before = (model(torch.tensor([[5, 6, 7]])).logits for model in (merged, adapted, plain))
    assert torch.allclose(one, other, atol=1e-4)
    assert (one - before).abs().max() > 1e-2


def test_the_same_seed_gives_the_same_run(model_dir: Path, tmp_path: Path) -> None:
    """With one generator, max_staleness 0 and no evaluation: weights and matches are equal, and times differ."""
    tables = []
    for name in ("one", "other"):
        ok(spiral("train", "smoke", f"run.dir={tmp_path}", f"run.name={name}", "steps=2", "eval.every=0"))
        untimed = [
            {k: v for k, v in r.items() if not k.startswith(("perf/", "engine/", "machine/"))}
            for r in rows(tmp_path / name)
        ]
        tables.append(untimed)
    assert len(tables[0]) == 2
    assert tables[0] == tables[1]
    one, other = (tmp_path / name / "checkpoints/step_000002/model.safetensors" for name in ("one", "other"))
    assert one.read_bytes() == other.read_bytes()


def test_a_run_directory_that_exists_is_refused(smoke_run: SmokeRun) -> None:
    again = spiral("train", "smoke", f"run.dir={smoke_run[0].parent}")
    assert again.returncode == 2
    assert again.stderr.startswith("error: run directory")
    assert again.stderr.count("\n") == 1


def test_a_run_is_continued_from_its_newest_undamaged_checkpoint(smoke_run: SmokeRun, tmp_path: Path) -> None:
    copy = tmp_path / "damaged"
    subprocess.run(["cp", "-r", smoke_run[0], copy], check=True)
    with (copy / "checkpoints" / "step_000004" / "model.safetensors").open("r+b") as file:
        file.truncate(1000)
    done = ok(spiral("resume", str(copy), "steps=5", "eval.every=0"))
    assert "step_000004 is damaged (model.safetensors has 1000 bytes" in done.stderr
    assert f"resumed from {copy / 'checkpoints' / 'step_000002'}" in done.stdout.replace("\n", "")
    assert [row["step"] for row in rows(copy)] == [0, 1, 2, 3, 4, 5]
    assert sorted(trained_matches(copy)) == list(range(5 * 64))


@pytest.mark.timeout(120)
def test_paper_config_says_that_it_needs_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    done = spiral("train", "configs/spiral_qwen3_4b.yaml")
    assert done.returncode == 2
    assert "needs 8 GPUs" in done.stderr
