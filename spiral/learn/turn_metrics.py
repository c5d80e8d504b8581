"""What the first pass of a step found out about every turn, and the metrics computed from it.

Suffixes: _S turns of the step, _T trained tokens of a micro batch.
"""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.distributed.device_mesh import DeviceMesh

from spiral.learn.kernels.logprobs import TokenStats
from spiral.learn.kernels.packing import Batch
from spiral.learn.loss import MAX_LOG_RHO
from spiral.learn.model.sharding import all_reduce
from spiral.learn.samples import ScoredTurn
from spiral.summaries import quantiles


class TurnFigures:
    """Three numbers of every turn in the first pass of a step, in the order of the SampleTable.

    They are the importance ratio pi / mu, whatever `learner.importance` is, and the sums over the turn's tokens of the
    entropy and of the KL to the reference, in nats. Each rank adds its share of the turns; after `gather` it has all.
    """

    def __init__(self, num_turns: int) -> None:
        self._figures_3S = np.zeros((3, num_turns))

    def add_micro_batch(self, batch: Batch, stats: TokenStats) -> None:
        """Add the turns of a micro batch. Each turn of the step must be added on one rank, once."""
        logprob_T, entropy_T, kl_T = (of_T.detach() for of_T in (stats.logprob_T, stats.entropy_T, stats.kl_T))
        per_token = torch.stack([logprob_T - batch.behavior_logprob_T, entropy_T, kl_T])
        sums = per_token.new_zeros(3, batch.num_segments).index_add(1, batch.segment_T, per_token)
        sums[0] = sums[0].clamp(max=MAX_LOG_RHO).exp()
        self._figures_3S[:, batch.table_segment_S] = sums.cpu().numpy()

    def gather(self, mesh: DeviceMesh | None) -> None:
        """Add up the shares of all ranks. A collective operation."""
        self._figures_3S[:] = np.reshape(all_reduce(self._figures_3S.ravel().tolist(), mesh), self._figures_3S.shape)

    @property
    def rho_S(self) -> NDArray[np.float32]:
        """The importance ratio of each turn."""
        rho_S: NDArray[np.float32] = self._figures_3S[0].astype(np.float32)
        return rho_S

    def metrics(self, turns: Sequence[ScoredTurn]) -> dict[str, float]:
        """Quantiles of advantages and ratios, and entropy and KL by game, of `turns`, those of the SampleTable."""
        rho_S, entropy_S, kl_S = self._figures_3S
        metrics = quantiles("train/advantage", [turn.advantage for turn in turns]) | quantiles(
            "train/rho", rho_S.tolist()
        )
        of_game: dict[str, list[int]] = defaultdict(list)
        for index, turn in enumerate(turns):
            of_game[turn.match.game].append(index)
        for game, indices in sorted(of_game.items()):
            num_tokens = sum(len(turns[index].completion.token_ids) for index in indices)
            metrics[f"game/{game}/entropy"] = float(entropy_S[indices].sum()) / num_tokens
            metrics[f"game/{game}/kl"] = float(kl_S[indices].mean())
        return metrics
