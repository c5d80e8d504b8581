"""The data types of the loop, one dataclass per stage. Imports nothing heavy.

    schedule -> Match -> play -> Episode -> score (RAE) -> TrainingSample -> pack -> Batch -> loss -> step -> WeightsRef

Everything here is immutable, holds tuples, and can be pickled between Ray actors. `Batch` holds tensors, and is
defined in `spiral.learn.kernels.packing`.
"""

from dataclasses import dataclass
from typing import Literal

POLICY = "policy"
"""The player label of the model being trained. Only its turns ever become samples."""

EndReason = Literal["finished", "forfeit", "turn_cap", "void"]

AnswerFormat = Literal["boxed", "bracket", "tag", "raw"]
"""Where the action is in a completion (see `spiral.rollout.answers`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GameSpec:
    """The properties of a game that all its matches share.

    `rules` opens every prompt, before the observation. A match that reaches `max_turns` turns is a draw. `max_return`
    is the largest absolute payoff, in the game's own units: returns are divided by it. `free_text` games accept any
    text as an action. `exact` games can be enumerated (see `spiral.game.ExactGame`), so their NashConv can be computed.
    """

    id: str
    title: str
    rules: str
    max_turns: int
    max_return: float
    free_text: bool = False
    exact: bool = False

    def __post_init__(self) -> None:
        if self.max_turns < 1:
            raise ValueError(f"GameSpec {self.id}: max_turns is {self.max_turns}, expected at least 1")
        if not self.max_return > 0:
            raise ValueError(f"GameSpec {self.id}: max_return is {self.max_return}, expected more than 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """The tokens that the engine sampled for one prompt.

    `token_ids` and `logprobs` have the same length; a logprob is the natural logarithm of the probability with which
    the engine sampled that token. `min_version` and `max_version` are the policy versions in force when the first and
    the last token were sampled: they differ when the weights were updated in between.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: str
    min_version: int
    max_version: int

    def __post_init__(self) -> None:
        if len(self.token_ids) != len(self.logprobs):
            raise ValueError(f"Completion: {len(self.token_ids)} tokens but {len(self.logprobs)} logprobs")


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One observation and one answer.

    `text` is what the player wrote; `action` is what was parsed from it and passed to the game (None if nothing could
    be parsed). `legal` is whether the game accepted the action, and `error` why it did not. Scripted players have no
    `prompt_ids` and no `completion`.
    """

    role: int
    observation: str
    prompt_ids: tuple[int, ...]
    completion: Completion | None
    text: str
    action: str | None
    legal: bool
    error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """A match to be played. `players` holds one label per role, such as `policy` or `mcts:100`."""

    id: int
    game: str
    seed: int
    players: tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Episode:
    """A match that was played. `returns` holds one number per role in [-1, 1]; they sum to zero.

    `forfeit_by` is the role that forfeited, if one did. A `void` episode (the game crashed or the match timed out) has
    returns of zero, must not be trained on, and says why in `error`.

    Raises ValueError when the returns are out of range or do not sum to zero.
    """

    match: Match
    turns: tuple[Turn, ...]
    returns: tuple[float, float]
    end_reason: EndReason
    forfeit_by: int | None
    duration_s: float
    error: str | None = None

    def __post_init__(self) -> None:
        where = f"Episode {self.match.id} of {self.match.game} (seed {self.match.seed})"
        if not all(-1.0 <= value <= 1.0 for value in self.returns):
            raise ValueError(
                f"{where}: returns {self.returns} are outside [-1, 1]; is the game's max_return too small?"
            )
        if abs(sum(self.returns)) > 1e-9:
            raise ValueError(f"{where}: returns {self.returns} do not sum to zero; the game is not zero-sum")


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnHeader:
    """A turn without its tokens. `prompt_hash` is equal for equal prompts, in every process and on every rank."""

    role: int
    legal: bool
    prompt_hash: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeHeader:
    """An episode without its tokens: all that an advantage estimator sees of it."""

    match: Match
    returns: tuple[float, float]
    end_reason: EndReason
    turns: tuple[TurnHeader, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSample:
    """One stretch of tokens that the learner trains on. All tuples have length L, one entry per token.

    `loss_mask` is True where the policy sampled the token; `behavior_logprobs` and `advantages` are zero elsewhere.
    `segment_ids` numbers the turns of the sample from 0, and is -1 on tokens that no turn sampled.
    `min_version` is the oldest policy version that sampled one of the tokens, `max_version` the newest.
    """

    token_ids: tuple[int, ...]
    loss_mask: tuple[bool, ...]
    behavior_logprobs: tuple[float, ...]
    segment_ids: tuple[int, ...]
    advantages: tuple[float, ...]
    episode_id: int
    game: str
    role: int
    min_version: int
    max_version: int

    def __post_init__(self) -> None:
        lengths = {
            len(self.token_ids),
            len(self.loss_mask),
            len(self.behavior_logprobs),
            len(self.segment_ids),
            len(self.advantages),
        }
        if len(lengths) != 1:
            raise ValueError(f"TrainingSample of episode {self.episode_id}: fields differ in length: {sorted(lengths)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsRef:
    """A policy version and the directory that holds its weights: HF safetensors, or a LoRA adapter in peft's files."""

    version: int
    location: str
    is_adapter: bool = False
