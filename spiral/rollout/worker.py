"""What vLLM's worker lacks: a method that `Engine.load` calls beside `reload_weights`."""

from typing import Any

from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead


class Worker:
    """A base class that vLLM adds to its own worker (`worker_extension_cls`)."""

    model_runner: Any

    def repack_heads(self) -> None:
        """Make the output layer compute with its current weights.

        On CPUs vLLM computes with a packed copy of each layer's weights. `reload_weights` packs what it has loaded; a
        head that is tied to the embedding is not among it, and keeps the copy of the first weights.
        """
        for layer in self.model_runner.model.modules():
            if isinstance(layer, ParallelLMHead):
                layer.quant_method.process_weights_after_loading(layer)
