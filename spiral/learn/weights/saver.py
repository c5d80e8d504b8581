"""Writes the learner's state to checkpoints in the background, and reads it back, on any number of ranks."""

import errno
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch.distributed.device_mesh import DeviceMesh
from transformers import PreTrainedTokenizerBase

from spiral.config import Config, UserError, dump
from spiral.learn.model.average import WeightAverage
from spiral.learn.model.optimizer import Optimizer
from spiral.learn.model.parameters import Trainable
from spiral.learn.model.policy import Policy
from spiral.learn.model.reference import Reference, ReferenceAdapter
from spiral.learn.model.sharding import all_reduce, untied
from spiral.learn.model.tensor_files import (
    GATHERED_BYTES,
    Rows,
    TensorFiles,
    held_rows,
    read_rows,
    write_rows,
    write_whole,
)
from spiral.learn.rank import Rank
from spiral.learn.weights import checkpoint
from spiral.storage.atomic import atomic_file, full_disk_is_oserror
from spiral.storage.background import BackgroundWriter

FILE_BYTES = 2**31
"""Size of a checkpoint's files where all tensors are whole in memory."""
POLL_S = 0.05


class Stateful(Protocol):
    """The advantage estimator, which is the same on all ranks."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnerParts:
    """What a checkpoint is made of, on one rank."""

    trainable: Trainable
    policy: Policy
    reference: Reference | ReferenceAdapter | None
    average: WeightAverage | None
    optimizer: Optimizer
    estimator: Stateful
    tokenizer: PreTrainedTokenizerBase

    def tensors(self) -> dict[str, dict[str, torch.Tensor]]:
        """The tensors that may be sharded: of policy and optimizer, and of reference and average if they exist."""
        weights = self.trainable.live(self.policy)
        parts = {checkpoint.POLICY: weights, checkpoint.OPTIMIZER: self.optimizer.moments(untied(weights))}
        if self.reference is not None:
            parts[checkpoint.REFERENCE] = self.trainable.live(self.reference)
        if self.average is not None:
            parts[checkpoint.AVERAGE] = self.average.tensors
        return parts

    def shared(self) -> dict[str, Any]:
        """A copy of the state that is the same on all ranks."""
        averaged = {} if self.average is None else {"num_averaged": self.average.num_updates}
        return (
            self.optimizer.state_dict()
            | averaged
            | {
                "advantage": self.estimator.state_dict(),
                "torch_rng": torch.get_rng_state(),
            }
        )


class Saver:
    """One rank's part in checkpoints. `begin` and `load` are collective.

    A thread writes the tensors as they are in memory, without a copy, so `wait_until_written` must be called before
    one of them changes. With several ranks each writes its rows into a directory of its step, and rank 0 then makes the
    checkpoint of them; so the run directory must be on a filesystem that all ranks share.
    """

    def __init__(self, config: Config, rank: Rank, mesh: DeviceMesh | None, parts: LearnerParts) -> None:
        self._config = config
        self._rank = rank
        self._mesh = mesh
        self._parts = parts
        self._writer = BackgroundWriter("checkpoint")
        self._written = threading.Event()
        self._written.set()

    def begin(self, run_dir: Path, state: dict[str, Any]) -> None:
        """Start to write the checkpoint of `state["step"]`, once the previous one is complete.

        What fails (a full disk) is raised by the next `begin`, `finish` or `raise_failure`. Raises UserError if the
        advantage estimator's state cannot be kept in a checkpoint.
        """
        self.finish()
        folder = checkpoint.rows_folder(run_dir, state["step"])
        if self._rank.count > 1:
            if self._rank.index == 0:
                checkpoint.make_rows_folder(run_dir, state["step"])
            all_reduce([0], self._mesh)  # no rank writes before the directory is there
        rows = {part: held_rows(tensors) for part, tensors in self._parts.tensors().items()}
        shared = self._parts.shared()
        self._written.clear()
        if self._rank.index == 0:
            self._writer.begin(partial(self._write_checkpoint, folder, rows, shared, run_dir, state))
        else:
            self._writer.begin(partial(self._write_rows, folder, rows))

    def wait_until_written(self) -> None:
        """Wait until the thread needs this rank's tensors no longer."""
        self._written.wait()

    def finish(self) -> None:
        """Wait until the checkpoint that is being written, if any, is complete. Raises OSError if it failed."""
        self._writer.finish()

    def raise_failure(self) -> None:
        """Raise what writing a checkpoint has failed with, if it has."""
        self._writer.raise_failure()

    def load(self, directory: Path) -> None:
        """Restore a checkpoint. The optimizer's hyperparameters are those of the config, its state the checkpoint's.

        If the checkpoint has no reference, because `kl_coef` was 0, the reference becomes the checkpoint's policy; so
        does the average, if it has none.
        """
        self.wait_until_written()
        parts, stem = self._parts, self._parts.trainable.stem

        def files(part: str, otherwise: Path) -> TensorFiles:
            own = directory / part
            return TensorFiles(own if own.exists() else otherwise, stem)

        policy = files(checkpoint.POLICY, otherwise=directory)
        read_rows(parts.trainable.live(parts.policy), policy)
        if parts.reference is not None:
            read_rows(parts.trainable.live(parts.reference), files(checkpoint.REFERENCE, otherwise=policy.directory))
        shared = torch.load(directory / checkpoint.LEARNER, weights_only=True, map_location="cpu")
        if "updates" not in shared:
            raise UserError(
                f"checkpoint {directory} was written by an earlier version of SPIRAL, which kept it in another form"
            )
        if parts.average is not None:
            read_rows(parts.average.tensors, TensorFiles(directory, stem))
            parts.average.num_updates = shared.get("num_averaged", 0)
        parts.optimizer.load_state_dict(shared)
        read_rows(
            parts.tensors()[checkpoint.OPTIMIZER], TensorFiles(directory / checkpoint.OPTIMIZER, checkpoint.OPTIMIZER)
        )
        parts.estimator.load_state_dict(shared["advantage"])
        torch.set_rng_state(shared["torch_rng"])

    # --- in the thread

    def _write_rows(self, folder: Path, rows: Mapping[str, Rows]) -> None:
        """Write this rank's rows, and then a file that says so, or why they could not be written."""
        report, outcome = folder / f"rank_{self._rank.index}", "failed"
        try:
            with full_disk_is_oserror(folder):
                for part, held in rows.items():
                    write_rows(held, folder / self._rows_file(part, self._rank.index))
            outcome = ""
        except OSError as error:
            outcome = str(error)
            raise
        finally:
            self._written.set()
            with atomic_file(report) as aside:
                aside.write_text(outcome)

    def _rows_file(self, part: str, rank: int) -> str:
        return f"{part}-{rank + 1:05d}-of-{self._rank.count:05d}.safetensors"

    def _write_checkpoint(
        self, folder: Path, rows: Mapping[str, Rows], shared: dict[str, Any], run_dir: Path, state: dict[str, Any]
    ) -> None:
        """Rank 0: write the checkpoint, with several ranks from the rows that each of them has written."""

        def write(directory: Path) -> None:
            with full_disk_is_oserror(directory):
                if self._rank.count == 1:
                    self._write_alone(directory, rows)
                else:
                    self._write_rows(folder, rows)
                    self._wait_for_ranks(folder)
                    self._collect(rows, folder, directory)
                self._parts.tokenizer.save_pretrained(directory)
                torch.save(shared, directory / checkpoint.LEARNER)

        keep = self._config.checkpoint
        try:
            checkpoint.save(
                run_dir, state, dump(self._config), write, keep_last=keep.keep_last, keep_every=keep.keep_every
            )
        finally:
            self._written.set()
            shutil.rmtree(folder, ignore_errors=True)

    def _write_alone(self, directory: Path, rows: Mapping[str, Rows]) -> None:
        for part, held in rows.items():
            if part == checkpoint.OPTIMIZER:
                (directory / part).mkdir()  # vLLM loads all files of tensors beside config.json
                write_rows(held, directory / part / f"{part}.safetensors")
            else:
                num_bytes = {name: tensor.nbytes for name, (tensor, _) in held.items()}
                self._write_model(part, directory, num_bytes, lambda name, held=held: held[name][0].cpu(), FILE_BYTES)  # type: ignore[misc]
        self._written.set()

    def _collect(self, parts: Iterable[str], folder: Path, directory: Path) -> None:
        """Make whole tensors of the ranks' rows. AdamW's moments stay as they are."""
        for part in parts:
            if part == checkpoint.OPTIMIZER:
                (directory / part).mkdir()
                for file in folder.glob(f"{part}-*"):
                    file.rename(directory / part / file.name)
            else:
                files = TensorFiles(folder, part)
                self._write_model(part, directory, files.num_bytes, files.whole, GATHERED_BYTES)

    def _write_model(
        self,
        part: str,
        directory: Path,
        num_bytes: Mapping[str, int],
        get: Callable[[str], torch.Tensor],
        file_bytes: int,
    ) -> None:
        """Write weights to files of about `file_bytes`.

        The average, or the policy if there is none, is the model of the checkpoint; the others get a directory.
        """
        kind = self._parts.trainable
        if part != (checkpoint.POLICY if self._parts.average is None else checkpoint.AVERAGE):
            directory /= part
            directory.mkdir()
        kind.write_config(self._parts.policy.model, directory)
        write_whole(num_bytes, get, directory, kind.stem, most_bytes=None if kind.is_one_file else file_bytes)

    def _wait_for_ranks(self, folder: Path) -> None:
        deadline_s = time.monotonic() + self._config.learner.timeout_s
        for index in range(1, self._rank.count):
            report = folder / f"rank_{index}"
            while not report.exists():
                if time.monotonic() > deadline_s:
                    raise OSError(
                        errno.EIO, f"rank {index} of the learner has written no part of a checkpoint", str(folder)
                    )
                time.sleep(POLL_S)
            if error := report.read_text():
                raise OSError(errno.EIO, f"rank {index} of the learner: {error}", str(folder))
