"""The learner keeps the episodes that it receives, trains on them, and writes them down with what it made of them."""

import dataclasses
import math
import threading
from collections.abc import Sequence
from concurrent.futures import wait
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from transformers import LlamaForCausalLM

from spiral.config import EpisodesConfig
from spiral.learn.learner import Learner
from spiral.storage.episode_files import EpisodeFiles
from spiral.types import Episode, Turn
from tests.builders import sampled, scripted
from tests.learners import config, conversation, episodes, largest_difference, learner, model_dir, weights

__all__ = ["model_dir"]  # a fixture

Patch = pytest.MonkeyPatch


def record(one: Learner, run_dir: Path, step: int = 1) -> dict[str, list[Any]]:
    """The columns of the file that the learner writes of the last step."""
    one.record(run_dir, step)
    one.finish_record()
    return pq.read_table(EpisodeFiles(run_dir).path(step)).to_pydict()  # type: ignore[no-any-return]


# --- receiving


def test_received_episodes_are_trained_on_by_match_id(model_dir: Path) -> None:
    direct, sent = learner(model_dir), learner(model_dir)
    expected = direct.step(1, 0, episodes(1))
    sent.receive(episodes(1)[4:])
    sent.receive(episodes(1)[:4] + episodes(2))
    metrics = sent.train(1, 0, [episode.match.id for episode in episodes(1)])
    assert metrics["train/num_tokens"] == expected["train/num_tokens"]
    assert largest_difference(weights(direct), weights(sent)) == 0.0
    sent.train(2, 1, [episode.match.id for episode in episodes(2)])  # are still there


def test_an_episode_that_comes_again_replaces_the_older_one(model_dir: Path) -> None:
    direct, sent = learner(model_dir), learner(model_dir)
    direct.step(1, 0, episodes(1))
    sent.receive([dataclasses.replace(episode, returns=(0.5, -0.5), turns=()) for episode in episodes(1)])
    sent.receive(episodes(1))
    sent.train(1, 0, [episode.match.id for episode in episodes(1)])
    assert largest_difference(weights(direct), weights(sent)) == 0.0


def test_episodes_that_were_trained_on_are_not_kept(model_dir: Path) -> None:
    one = learner(model_dir)
    one.receive(episodes(1, num=2))
    ids = [episode.match.id for episode in episodes(1, num=2)]
    one.train(1, 0, ids)
    with pytest.raises(KeyError):
        one.train(2, 1, ids)


# --- what is written


def test_the_episodes_of_the_last_step_are_read_back(model_dir: Path, tmp_path: Path) -> None:
    one = learner(model_dir)
    one.step(1, 0, episodes(1)[::-1])
    record(one, tmp_path)
    one.step(2, 1, episodes(2))
    record(one, tmp_path, step=2)
    assert EpisodeFiles(tmp_path).read(1) == episodes(1)
    assert EpisodeFiles(tmp_path).read(2) == episodes(2)


def ratio(model: LlamaForCausalLM, turn: Turn) -> float:
    """pi / mu of a whole turn, from the logits of transformers."""
    assert turn.completion is not None
    prompt, said = turn.prompt_ids.tolist(), turn.completion.token_ids.tolist()
    with torch.no_grad():
        logprobs = model(torch.tensor([prompt + said])).logits[0].log_softmax(-1)
    log_pi = sum(float(logprobs[len(prompt) + i - 1, token]) for i, token in enumerate(said))
    return math.exp(log_pi - float(turn.completion.logprobs.sum()))


def several() -> Sequence[Episode]:
    """A conversation between episodes of fresh prompts, and one without a turn."""
    first, last = episodes(1, num=2)
    between = dataclasses.replace(conversation(1), match=dataclasses.replace(first.match, id=first.match.id - 1))
    empty = dataclasses.replace(first, match=dataclasses.replace(first.match, id=first.match.id - 2), turns=())
    return [last, between, first, empty]


@pytest.mark.parametrize("importance", ["sequence", "token", "none"])
def test_each_turn_has_its_own_importance_ratio_of_the_first_pass(
    model_dir: Path, tmp_path: Path, importance: str
) -> None:
    model = LlamaForCausalLM.from_pretrained(model_dir)
    one = learner(model_dir, importance=importance, local_batch_size=100, pack_tokens=40, epochs=2)
    metrics = one.step(1, 0, several())
    assert metrics["train/num_samples"] == 2 + 4, "the conversation's turns share a sample per role"
    columns = record(one, tmp_path)
    in_order = sorted(several(), key=lambda episode: episode.match.id)
    expected = [ratio(model, turn) for episode in in_order for turn in episode.turns]
    assert len(expected) == 10
    assert columns["turn"] == [None, 0, 1, 2, 3, 4, 5, 0, 1, 0, 1]
    assert columns["ratio"] == [None, *(pytest.approx(value, rel=1e-4) for value in expected)]


def test_advantages_are_written_as_they_were_trained_with(model_dir: Path, tmp_path: Path) -> None:
    """RAE with alpha 0.5 halves the return of the first episode; gamma and the penalty of turn 2 come on top."""
    one = learner(model_dir, baseline_decay=0.5, gamma=0.5, format_penalty=0.125)
    one.step(1, 0, [dataclasses.replace(conversation(1), returns=(1.0, -1.0))])
    columns = record(one, tmp_path)
    assert columns["legal"] == [True, True, False, True, True, True]
    assert columns["advantage"] == [0.125, -0.125, 0.25 - 0.125, -0.25, 0.5, -0.5]


def test_what_was_not_trained_on_has_no_advantage_and_no_ratio(model_dir: Path, tmp_path: Path) -> None:
    (episode,) = episodes(1, num=1)
    turns = (scripted(0), sampled(1, (1, 2), (3,)), scripted(0), sampled(1, (4, 5), (6,)))
    match = dataclasses.replace(episode.match, players=("random", "policy"))
    past = dataclasses.replace(match, id=match.id + 1, players=("policy", "policy@3"))
    one = learner(model_dir)
    own = (sampled(0, (1,), (2,)), sampled(1, (1,), (2,)))
    one.step(
        1,
        0,
        [dataclasses.replace(episode, match=match, turns=turns), dataclasses.replace(episode, match=past, turns=own)],
    )
    columns = record(one, tmp_path)
    for name in ("advantage", "ratio"):
        assert [value is None for value in columns[name]] == [True, False, True, False, False, True], name


def test_only_the_newest_steps_are_kept(model_dir: Path, tmp_path: Path) -> None:
    settings = config(epochs=1).model_copy(update={"episodes": EpisodesConfig(keep=2)})
    one = Learner(settings, model_dir)
    for step in (1, 2, 3):
        one.step(step, step - 1, episodes(step, num=1))
        record(one, tmp_path, step)
    assert EpisodeFiles(tmp_path).steps() == [2, 3]


# --- in the background


def test_training_goes_on_while_episodes_are_written(model_dir: Path, tmp_path: Path, monkeypatch: Patch) -> None:
    may_write, write = threading.Event(), pq.write_table

    def slow(*arguments: Any, **options: Any) -> None:
        assert may_write.wait(60)
        write(*arguments, **options)

    monkeypatch.setattr(pq, "write_table", slow)
    one = learner(model_dir)
    one.step(1, 0, episodes(1))
    one.record(tmp_path, 1)
    one.step(2, 1, episodes(2))
    assert EpisodeFiles(tmp_path).steps() == []
    may_write.set()
    one.finish_record()
    assert EpisodeFiles(tmp_path).read(1) == episodes(1)


@pytest.mark.parametrize("method", ["step", "record", "finish_record"])
def test_a_failure_to_write_is_raised_by_the_next_call(
    model_dir: Path, tmp_path: Path, monkeypatch: Patch, method: str
) -> None:
    may_fail = threading.Event()

    def full(*_: Any, **__: Any) -> None:
        assert may_fail.wait(60)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", full)
    one = learner(model_dir, epochs=1)
    one.step(1, 0, episodes(1, num=1))
    one.record(tmp_path, 1)
    one.step(2, 1, episodes(2, num=1))
    may_fail.set()
    assert one._recorder._writing is not None
    wait([one._recorder._writing])
    arguments = {"step": (3, 2, episodes(3, num=1)), "record": (tmp_path, 2), "finish_record": ()}
    with pytest.raises(OSError, match="No space left"):
        getattr(one, method)(*arguments[method])
    assert list((tmp_path / "episodes").iterdir()) == []
