"""AdamW and its learning-rate schedule, over the trained weights or this rank's shards of them."""

import warnings
from collections.abc import Iterable
from typing import Any

import torch
from transformers import get_scheduler

from spiral.config import LearnerConfig
from spiral.learn.model.sharding import gather_full, shard_like

MOMENTS = ("exp_avg", "exp_avg_sq")


class Optimizer:
    """Updates those of `weights` that require a gradient.

    The schedule advances once per step of the main loop (`end_step`), of which there are `num_steps`.
    """

    def __init__(self, weights: Iterable[torch.nn.Parameter], config: LearnerConfig, num_steps: int) -> None:
        self._weights = [weight for weight in weights if weight.requires_grad]
        self._config = config
        self._adamw = torch.optim.AdamW(
            self._weights,
            lr=config.learning_rate,
            betas=(config.adam_beta1, config.adam_beta2),
            weight_decay=config.weight_decay,
        )
        self._schedule = get_scheduler(
            config.lr_scheduler_type,
            self._adamw,
            num_warmup_steps=int(config.lr_warmup_ratio * num_steps),
            num_training_steps=num_steps + 1,
        )
        with warnings.catch_warnings():  # torch warns because no optimizer step came first
            warnings.simplefilter("ignore", UserWarning)
            self._schedule.step()  # warm-up starts, and decay ends, above 0: no step is wasted

    @property
    def learning_rate(self) -> float:
        return float(self._adamw.param_groups[0]["lr"])

    def zero_grad(self) -> None:
        self._adamw.zero_grad(set_to_none=True)

    def clip(self) -> float:
        """Clip the gradient's norm to config.grad_clip. Returns the norm before clipping, over all ranks."""
        return float(gather_full(torch.nn.utils.clip_grad_norm_(self._weights, self._config.grad_clip)))

    def step(self) -> None:
        """Update the weights."""
        if self._config.offload_optimizer:
            self._move_moments(None)
        self._adamw.step()
        if self._config.offload_optimizer:
            self._move_moments("cpu")

    def end_step(self) -> None:
        """Advance the learning-rate schedule by one step of the main loop."""
        self._schedule.step()

    def _move_moments(self, device: str | None) -> None:
        """Move AdamW's moments to `device`, or with None to the device of their weights."""
        for weight, state in self._adamw.state.items():
            state |= {name: state[name].to(device or weight.device) for name in MOMENTS}

    def state_dict(self, *, keep: bool) -> dict[str, Any]:
        """A copy of the unsharded state. Collective; ranks with `keep=False` get empty tensors."""
        adamw = gather_full(self._adamw.state_dict(), keep=keep, copy=True)
        return {"optimizer": adamw, "scheduler": self._schedule.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore an unsharded state. Hyperparameters, including the learning rate, remain those of the config."""
        settings = [{k: v for k, v in group.items() if k != "params"} for group in self._adamw.param_groups]
        for number, weight in enumerate(self._weights):
            moments = state["optimizer"]["state"].get(number, {})
            moments |= {name: shard_like(moments[name], weight) for name in MOMENTS if name in moments}
        self._adamw.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict({**state["scheduler"], "base_lrs": self._schedule.base_lrs})
        schedules = zip(self._schedule.base_lrs, self._schedule.lr_lambdas, strict=True)
        learning_rates = [base * factor(self._schedule.last_epoch) for base, factor in schedules]
        for group, own, rate in zip(self._adamw.param_groups, settings, learning_rates, strict=True):
            group.update(own | {"lr": rate})
