"""Sharded learners, one process per rank over gloo, against a learner in a single process."""

import socket
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from spiral.learn.learner import Learner
from spiral.learn.model.sharding import Rank, join, open_store, same_on_all_ranks, untied
from spiral.learn.model.tensor_files import TensorFiles, write_rows
from spiral.network import interface_to
from spiral.storage.episode_files import EpisodeFiles
from tests import processes
from tests.learners import RECIPE, config, episodes, largest_difference, learner, model_dir, save

__all__ = ["model_dir"]  # a fixture

OPTIONS = {"kl_coef": 0.1, "reference_refresh_every": 2, "micro_batch_size": 1, "pack_tokens": 32}
STEPS = 3


def test_untied_keeps_a_tensor_under_its_first_name() -> None:
    tensor, other = torch.ones(2), torch.ones(2)
    assert list(untied({"a": tensor, "b": other, "c": tensor})) == ["a", "b"]


def test_the_store_listens_at_its_own_address_only() -> None:
    store = open_store("127.0.0.1")
    with socket.create_connection(("127.0.0.1", store.port), timeout=5):
        pass
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", store.port), timeout=5)


def test_the_loopback_interface_leads_to_the_loopback_address() -> None:
    assert interface_to("127.0.0.1") == "lo"


def compare_on_rank(index: int, port: int, out: Path) -> None:
    """Write what a rank finds about equal and about different bytes."""
    mesh = join(Rank(index, 2, "127.0.0.1", port), "cpu", torch.float32)
    out.write_text(f"{same_on_all_ranks(b'equal', mesh)} {same_on_all_ranks(b'different' * index, mesh)}")


def test_ranks_that_compute_different_numbers_are_noticed(tmp_path: Path) -> None:
    store = open_store("127.0.0.1")
    found = [tmp_path / f"rank{index}" for index in range(2)]
    ranks = [
        processes.start(compare_on_rank, index, store.port, out, GLOO_SOCKET_IFNAME="")
        for index, out in enumerate(found)
    ]
    assert [processes.end(rank, 120) for rank in ranks] == [0, 0]
    assert [out.read_text() for out in found] == ["True False"] * 2


LORA = {**OPTIONS, "lora_rank": 4, "lora_targets": ("q_proj", "down_proj", "lm_head")}
AVERAGES = {**RECIPE, "micro_batch_size": 1, "pack_tokens": 32}


def run_rank(index: int, count: int, port: int, model_dir: Path, out: Path, options: dict[str, Any]) -> None:
    """One rank of `train_on_ranks`: train, save after two steps, load that checkpoint, and train the third step."""
    torch.set_num_threads(1)
    settings = config(**options, local_batch_size=16 // count, epochs=1)
    one = Learner(settings, model_dir, Rank(index, count, "127.0.0.1", port))
    for step in range(1, STEPS):
        one.step(step, step - 1, episodes(step, num=5))
    saved = save(one, out, STEPS - 1)
    torch.distributed.barrier()
    one.load(saved)
    metrics = one.step(STEPS, STEPS - 1, episodes(STEPS, num=5))
    one.record(out, STEPS)
    one.finish_record()
    save(one, out, STEPS)
    if index == 0:
        torch.save({name: value for name, value in metrics.items() if not name.startswith("perf/")}, out / "metrics.pt")
    torch.distributed.barrier()  # before any rank exits
    torch.distributed.destroy_process_group()


def train_on_ranks(count: int, model_dir: Path, out: Path, options: dict[str, Any]) -> Path:
    """Run `run_rank` in `count` processes; returns the last checkpoint."""
    store = open_store("127.0.0.1")
    ranks = [
        processes.start(run_rank, index, count, store.port, model_dir, out, options, GLOO_SOCKET_IFNAME="")
        for index in range(count)
    ]
    assert [processes.end(rank, 120) for rank in ranks] == [0] * count
    return out / "checkpoints" / f"step_{STEPS:06d}"


def train_in_one_process(model_dir: Path, options: dict[str, Any]) -> tuple[Learner, dict[str, float]]:
    """A learner after the same steps, and the metrics of the last one."""
    single = learner(model_dir, **options, local_batch_size=16, epochs=1)
    for step in range(1, STEPS + 1):
        metrics = single.step(step, step - 1, episodes(step, num=5))
    return single, metrics


def recorded(run_dir: Path) -> dict[str, list[float]]:
    """What the learner added to the episodes of the last step."""
    table = pq.read_table(EpisodeFiles(run_dir).path(STEPS), columns=["match_id", "turn", "advantage", "ratio"])
    return table.to_pydict()  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("count", "options"), [(2, OPTIONS), (4, AVERAGES), (2, LORA), (2, {**AVERAGES, "lora_rank": 4})]
)
def test_ranks_train_like_a_single_process(
    model_dir: Path, tmp_path: Path, count: int, options: dict[str, Any]
) -> None:
    """Weights, averages, metrics and recorded ratios, with uneven shares of samples, and after saving and loading."""
    final = train_on_ranks(count, model_dir, tmp_path, options)
    single, expected = train_in_one_process(model_dir, options)
    assert single._reference is not None
    parts = single._saver._parts.tensors()
    inside = {"policy": "policy" if "average" in parts else "", "reference": "reference", "average": ""}
    for part in parts.keys() - {"optimizer"}:
        files = TensorFiles(final / inside[part], single._trainable.stem)
        weights = parts[part]
        assert largest_difference(weights, {name: files.whole(name) for name in weights}) < 1e-5
    resumed = learner(model_dir, **options, local_batch_size=16, epochs=1)
    resumed.load(final)  # AdamW's moments, of which each rank has written its own rows
    loaded, moments = (one._saver._parts.tensors()["optimizer"] for one in (resumed, single))
    assert loaded.keys() == moments.keys()
    assert largest_difference(loaded, moments) < 1e-5 < max(float(moment.abs().max()) for moment in moments.values())
    assert resumed._optimizer.state_dict() == single._optimizer.state_dict()
    metrics = torch.load(tmp_path / "metrics.pt", weights_only=True)
    assert metrics.keys() == expected.keys() - {"perf/learn_s", "perf/trained_tokens_per_s"}
    for name, value in metrics.items():
        assert value == pytest.approx(expected[name], abs=1e-5), name
    (tmp_path / "single").mkdir()
    single.record(tmp_path / "single", STEPS)
    single.finish_record()
    ours = recorded(tmp_path)
    assert len(set(ours["ratio"])) == 10, "a ratio of its own for each turn"
    for name, values in recorded(tmp_path / "single").items():
        assert ours[name] == pytest.approx(values, abs=1e-5), name


def test_rows_are_read_from_files_that_are_cut_elsewhere(tmp_path: Path) -> None:
    whole = torch.arange(21.0).reshape(7, 3)
    for number, (first, last) in enumerate(((0, 2), (2, 6), (6, 7))):
        write_rows({"w": (whole[first:last], first)}, tmp_path / f"part-{number}.safetensors")
    files = TensorFiles(tmp_path, "part")
    assert files.num_bytes == {"w": 84}
    assert torch.equal(files.rows("w", 1, 3), whole[1:4])
    assert torch.equal(files.whole("w"), whole)
    with pytest.raises(ValueError, match="does not hold rows 5 to 7 of w"):
        files.rows("w", 5, 3)


@pytest.mark.parametrize("options", [OPTIONS, LORA])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("bfloat16", 1e-2)])
def test_ranks_score_like_a_single_process(
    model_dir: Path, tmp_path: Path, options: dict[str, Any], dtype: str, tolerance: float
) -> None:
    """log pi - log mu of each turn, per token, after updates that change the weights by next to nothing."""
    options = {**options, "dtype": dtype, "learning_rate": 1e-9}
    train_on_ranks(2, model_dir, tmp_path, options)
    single, _ = train_in_one_process(model_dir, options)
    assert {weight.dtype for weight in single._optimizer._weights} == {torch.float32}
    (tmp_path / "single").mkdir()
    single.record(tmp_path / "single", STEPS)
    single.finish_record()
    ours, expected = (torch.tensor(recorded(directory)["ratio"]) for directory in (tmp_path, tmp_path / "single"))
    lengths = [len(turn.completion.token_ids) for e in episodes(STEPS, num=5) for turn in e.turns if turn.completion]
    assert ((ours.log() - expected.log()).abs() / torch.tensor(lengths)).max() < tolerance
