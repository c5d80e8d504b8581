"""A weight-transfer engine for machines without GPUs: weights travel in a file instead of over NCCL.

Importing this module registers the engine with vLLM. The engine's own process must import it too, which
`sitecustomize` does there.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from safetensors.torch import load_file, save_file
from vllm.distributed.weight_transfer import WeightTransferEngineFactory, WeightTransferTrainerFactory
from vllm.distributed.weight_transfer.base import (
    TrainerInitInfo,
    TrainerWeightTransferEngine,
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload


@dataclass
class HandoverInfo(TrainerInitInfo):
    backend: ClassVar[str] = "handover"

    file: str


@dataclass
class ReceiverInfo(WeightTransferInitInfo):
    rank_offset: int


@dataclass
class UpdateInfo(WeightTransferUpdateInfo):
    file: str


class HandoverReceiver(WeightTransferEngine[ReceiverInfo, UpdateInfo]):
    init_info_cls = ReceiverInfo
    update_info_cls = UpdateInfo

    def init_transfer_engine(self, init_info: ReceiverInfo) -> None:
        assert init_info.rank_offset == 1

    def start_weight_update(self) -> None:
        initialize_layerwise_reload(self.model)

    def receive_weights(self, update_info: UpdateInfo) -> None:
        self.model.load_weights(load_file(update_info.file).items())

    def finish_weight_update(self) -> None:
        finalize_layerwise_reload(self.model, self.model_config)

    def shutdown(self) -> None:
        pass


class HandoverSender(TrainerWeightTransferEngine[HandoverInfo]):
    init_info_cls = HandoverInfo
    file = ""

    @classmethod
    def trainer_init(cls, init_info: HandoverInfo, *, client: Any, source: Any = None) -> "HandoverSender":
        client.init_weight_transfer_engine({"rank_offset": 1})
        sender = cls(client=client, source=source, is_sender=True)
        sender.file = init_info.file
        return sender

    def send_weights(self) -> None:
        assert self.source is not None
        self.client.start_weight_update()
        weights = dict(self.source)
        announced = {meta.name: (meta.dtype, meta.shape) for meta in self.source.metadata()}
        assert announced == {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in weights.items()}
        save_file(weights, self.file)
        self.client.update_weights({"file": self.file})
        self.client.finish_weight_update()

    def shutdown(self) -> None:
        pass


WeightTransferEngineFactory.register_engine("handover", HandoverReceiver)
WeightTransferTrainerFactory.register_engine("handover", HandoverSender)
