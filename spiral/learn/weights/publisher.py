"""Publishes the learner's weights: files for engines of the same machine, or a transfer between GPUs."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedModel

from spiral.config import Config
from spiral.learn.model.parameters import Trainable
from spiral.learn.model.sharding import gathered, untied
from spiral.learn.model.tensor_files import GATHERED_BYTES, write_whole
from spiral.learn.rank import Rank
from spiral.storage.atomic import atomic_directory, full_disk_is_oserror
from spiral.storage.weight_files import read_files
from spiral.storage.weight_store import WeightStore
from spiral.types import WeightsRef

if TYPE_CHECKING:
    from spiral.storage.weight_files import Files


class Publisher:
    """One rank's part in publishing the weights of `model`: `weights(averaged)` are the trained ones or their average.

    Its methods are collective, except `read` and `keep`.
    """

    def __init__(
        self,
        config: Config,
        rank: Rank,
        trainable: Trainable,
        model: PreTrainedModel,
        weights: Callable[[bool], Mapping[str, torch.Tensor]],
    ) -> None:
        self._is_adapter = config.learner.lora_rank > 0
        self._rank = rank
        self._trainable = trainable
        self._model = model
        self._weights = weights
        self._sends_average = False
        self._store = WeightStore(config)

    def publish(self, version: int, averaged: bool) -> WeightsRef | None:
        """Write policy version `version`, or the average as it is then, for engines of this machine.

        Only rank 0 returns a value.
        """
        kind, weights = self._trainable, untied(self._weights(averaged))
        num_bytes = {name: tensor.numel() * kind.published_dtype.itemsize for name, tensor in weights.items()}

        def get(name: str) -> torch.Tensor:
            return gathered(weights[name], kind.published_dtype).cpu()

        def write(directory: Path | None) -> None:
            write_whole(num_bytes, get, directory, kind.stem, most_bytes=None if kind.is_one_file else GATHERED_BYTES)

        if self._rank.index != 0:
            write(None)
            return None

        def write_all(directory: Path) -> None:
            kind.write_config(self._model, directory)
            write(directory)

        location, checksum = self._store.publish(write_all, sum(num_bytes.values()), version, averaged)
        return WeightsRef(
            version=version,
            location=str(location),
            is_adapter=self._is_adapter,
            checksum=checksum,
            averaged=averaged,
        )

    def read(self, weights: WeightsRef) -> "Files":
        """The files of a version that `publish` wrote or `keep` has kept, for engines of other machines."""
        return read_files(Path(weights.location))

    def keep(self, weights: WeightsRef, directory: Path) -> None:
        """Rank 0: copy a version that `publish` wrote to `directory`, which is replaced. Raises OSError."""
        if self._rank.index == 0:
            with (
                full_disk_is_oserror(directory),
                atomic_directory(directory, if_exists="replace", durable=True) as aside,
            ):
                shutil.copytree(weights.location, aside, dirs_exist_ok=True)

    def connect(self, client: Any, num_receivers: int, address: str) -> None:
        """Connect to the generators' `num_receivers` GPUs for `send`; `client` carries vLLM's calls to them.

        `address` is one of rank 0's machine that the generators reach.
        """
        from spiral.learn.weights import transfer

        self._client = client
        weights = transfer.LiveWeights(lambda: self._weights(self._sends_average), self._trainable.published_dtype)
        self._transfer = transfer.connect(transfer.nccl(self._rank.index, num_receivers, address), client, weights)

    def send(self, version: int, averaged: bool) -> None:
        """Send policy version `version`, or the average, to the generators that `connect` connected to."""
        self._client.version, self._sends_average = version, averaged
        self._transfer.send_weights()

    def close(self) -> None:
        """Remove the files of all versions."""
        self._store.close()
