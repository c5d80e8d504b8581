"""The data types of the loop, one dataclass per stage. Imports nothing heavy.

    schedule -> Match -> play -> Episode -> score (RAE) -> TrainingSample -> pack -> Batch -> loss -> step -> WeightsRef

Everything here is immutable and can be pickled between Ray actors. Sequences are tuples, except that one number per
token is held in a read-only NumPy array: Ray passes arrays between processes without copying or converting them.
`Batch` holds tensors, and is defined in `spiral.learn.kernels.packing`.
"""

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from spiral.machine_load import MachineLoad
    from spiral.rollout.endpoint import EndpointUse

    Tokens = NDArray[np.int32]
    Floats = NDArray[np.float32]
    Bools = NDArray[np.bool_]

POLICY = "policy"
"""The player label of the model being trained. Only its turns ever become samples."""

BASE = "base"
"""The player label of the model below the LoRA adapter that is trained: it never changes."""

PAST = "past"
"""The class of opponents that are past selves: the policy as it was at a version, with a label such as `policy@12`."""

EndReason = Literal["finished", "forfeit", "turn_cap", "void"]

AnswerFormat = Literal["boxed", "bracket", "tag", "raw", "exact"]
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


def past_self(version: int) -> str:
    """The player label of the policy as it was at `version`."""
    return f"{POLICY}@{version}"


def past_version(label: str) -> int | None:
    """The version of the past self with this player label; None for the label of another player."""
    name, _, version = label.partition("@")
    return int(version) if name == POLICY and version.isdecimal() else None


def _equal(one: Any, other: Any) -> bool:
    """Equality of dataclasses that hold arrays: by type, field by field."""
    if type(one) is not type(other):
        return False
    for part in fields(one):
        a, b = getattr(one, part.name), getattr(other, part.name)
        if a.tolist() != b.tolist() if hasattr(a, "dtype") else a != b:
            return False
    return True


def _freeze(*arrays: "NDArray[Any]") -> None:
    """Make arrays read-only."""
    for array in arrays:
        array.setflags(write=False)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Completion:
    """The tokens that the engine sampled for one prompt.

    `token_ids` (int32) and `logprobs` (float32) have the same length; a logprob is the natural logarithm of the
    probability with which the engine sampled that token. `min_version` and `max_version` are the policy versions in
    force when the first and the last token were sampled: they differ when the weights were updated in between.
    """

    token_ids: "Tokens"
    logprobs: "Floats"
    finish_reason: str
    min_version: int
    max_version: int

    __eq__ = _equal

    def __post_init__(self) -> None:
        if len(self.token_ids) != len(self.logprobs):
            raise ValueError(f"Completion: {len(self.token_ids)} tokens but {len(self.logprobs)} logprobs")
        _freeze(self.token_ids, self.logprobs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """What a model answers to a question that belongs to no game.

    `text` is the completion and `action` the answer parsed from it (None if nothing could be parsed); `num_tokens`
    counts the completion's tokens. If the question did not fit the context, `error` says so, and the rest is empty.
    """

    text: str = ""
    action: str | None = None
    finish_reason: str = ""
    num_tokens: int = 0
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Turn:
    """One observation and one answer.

    `text` is what the player wrote; `action` is what was parsed from it and passed to the game (None if nothing could
    be parsed). `legal` is whether the game accepted the action, and `error` why it did not. `prompt_ids` is int32.
    Scripted players have empty `prompt_ids` and no `completion`. `continuations` holds the returns of role 0 in
    continuations of the match from before this move (`rollout.branches`); the attempts at one move have the same.
    """

    role: int
    observation: str
    prompt_ids: "Tokens"
    completion: Completion | None
    text: str
    action: str | None
    legal: bool
    error: str | None
    continuations: tuple[float, ...] = ()

    __eq__ = _equal

    def __post_init__(self) -> None:
        _freeze(self.prompt_ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """A match to be played. `players` holds one label per role, such as `policy` or `mcts:100`."""

    id: int
    game: str
    seed: int
    players: tuple[str, str]

    def opponent_class(self, role: int) -> str:
        """What plays against `role`: the label of the other player; all past selves of the policy are one class."""
        label = self.players[1 - role]
        return label if past_version(label) is None else PAST


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
    """A turn without its tokens.

    `prompt_hash` is equal for equal prompts, in every process and on every rank. `num_tokens` counts the completion's
    tokens, and `min_version` is the oldest policy version that sampled one of them, or -1 if another player did. A
    scripted player's turn has no tokens, prompt hash 0 and version -1. `continuations` are those of the turn.
    """

    role: int
    legal: bool
    prompt_hash: int
    num_tokens: int
    min_version: int
    continuations: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeHeader:
    """An episode without its tokens: all that the driver and an advantage estimator see of it."""

    match: Match
    returns: tuple[float, float]
    end_reason: EndReason
    turns: tuple[TurnHeader, ...]
    forfeit_by: int | None
    duration_s: float
    error: str | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainingSample:
    """One stretch of tokens that the learner trains on. All arrays have length L, one entry per token.

    `loss_mask` (bool) is True where the policy sampled the token; `behavior_logprobs` and `advantages` (float32) are
    zero elsewhere. `segment_ids` (int32) numbers the turns of the sample from 0, and is -1 on tokens that no turn
    sampled. `min_version` is the oldest policy version that sampled one of the tokens, `max_version` the newest.
    """

    token_ids: "Tokens"
    loss_mask: "Bools"
    behavior_logprobs: "Floats"
    segment_ids: "Tokens"
    advantages: "Floats"
    episode_id: int
    game: str
    role: int
    min_version: int
    max_version: int

    __eq__ = _equal

    def __post_init__(self) -> None:
        arrays = (self.token_ids, self.loss_mask, self.behavior_logprobs, self.segment_ids, self.advantages)
        lengths = {len(array) for array in arrays}
        if len(lengths) != 1:
            raise ValueError(f"TrainingSample of episode {self.episode_id}: fields differ in length: {sorted(lengths)}")
        _freeze(*arrays)


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsRef:
    """A policy version and the directory that holds its weights: HF safetensors, or a LoRA adapter in peft's files.

    `checksum` is `spiral.storage.weight_files.checksum` of that directory; an empty one is not checked. `averaged`: it
    holds the average of the weights (`learner.weight_ema`) at that version. `is_past_self`: it is kept for a past self.
    """

    version: int
    location: str
    is_adapter: bool = False
    checksum: str = ""
    averaged: bool = False
    is_past_self: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Deal:
    """A match on its way to a generator. `trains`: the learner gets its episode; otherwise it is for an evaluation.

    `ticket` is unique within a run: a match that is dealt again has another one.
    """

    ticket: int
    match: Match
    trains: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFigures:
    """What an engine does now, and counters of what it has done since it started.

    `running` and `waiting` count sequences, `kv_use` is the share of its KV cache in use. `num_tokens` counts sampled
    tokens, `prefix_queries` and `prefix_hits` prompt tokens looked up and found in the prefix cache. `up_s` is the time
    since the start, `busy_s` the part of it with at least one sequence, `seat_s` the integral of the number of running
    sequences over it, and `paused_s` the part spent on loading weights.
    """

    running: int = 0
    waiting: int = 0
    kv_use: float = 0.0
    preemptions: int = 0
    prefix_queries: int = 0
    prefix_hits: int = 0
    num_tokens: int = 0
    up_s: float = 0.0
    busy_s: float = 0.0
    seat_s: float = 0.0
    paused_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a generator has done since its last report.

    `finished` holds the header of each match that ended, by ticket. `room` is the number of matches that it wants to
    hold at once. `stuck_s` is the time since it last sampled a token or ended a match, while it holds matches.
    `blocked` names the match, by ticket, whose game has not returned from a call for longer than it may, and says so.
    `machine` is the load of the machine that it is on. `endpoints` counts its requests since it started.
    """

    finished: tuple[tuple[int, EpisodeHeader], ...]
    figures: EngineFigures
    room: int
    machine: "MachineLoad | None" = None
    stuck_s: float = 0.0
    blocked: tuple[int, str] | None = None
    endpoints: "Mapping[str, EndpointUse]" = field(default_factory=dict)
