"""AdamW and its learning-rate schedule, over the trained weights or this rank's shards of them."""

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from transformers import get_scheduler

from spiral.config import LearnerConfig
from spiral.learn.model.sharding import gathered

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
            fused=True,  # no temporary tensors of the size of the weights
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
        return float(gathered(torch.nn.utils.clip_grad_norm_(self._weights, self._config.grad_clip)))

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

    def tensors(self) -> list[torch.Tensor]:
        """AdamW's moments, as they are in memory."""
        return [state[name] for state in self._adamw.state.values() for name in MOMENTS]

    def state_dict(self) -> dict[str, Any]:
        """The state that all ranks share: of the schedule, and AdamW's number of updates of each weight."""
        steps = [float(state["step"]) if (state := self._adamw.state.get(weight)) else 0.0 for weight in self._weights]
        return {"scheduler": self._schedule.state_dict(), "updates": steps}

    def moments(self, names: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """AdamW's moments, sharded like the weights with these `names`. None before the first update."""
        return {
            f"{name}.{moment}": self._adamw.state[weight][moment]
            for name, weight in names.items()
            for moment in MOMENTS
            if self._adamw.state.get(weight)
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the shared state, and make moments of value 0, which remain to be read.

        Hyperparameters, including the learning rate, remain those of the config.
        """
        self._adamw.state.clear()
        for weight, num_updates in zip(self._weights, state["updates"], strict=True):
            if num_updates:
                moments = {name: torch.zeros_like(weight, requires_grad=False) for name in MOMENTS}
                self._adamw.state[weight] = {"step": torch.tensor(num_updates, device=weight.device), **moments}
        self._schedule.load_state_dict({**state["scheduler"], "base_lrs": self._schedule.base_lrs})
        self._follow_schedule()

    def scale_learning_rate(self, factor: float) -> None:
        """Make config.learning_rate times `factor` the rate that the schedule is of."""
        self._schedule.base_lrs = [self._config.learning_rate * factor for _ in self._schedule.base_lrs]
        self._follow_schedule()

    def _follow_schedule(self) -> None:
        for group, base, factor in zip(
            self._adamw.param_groups, self._schedule.base_lrs, self._schedule.lr_lambdas, strict=True
        ):
            group["lr"] = base * factor(self._schedule.last_epoch)
