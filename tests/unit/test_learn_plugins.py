"""The learner's plug-in points: losses and advantage estimators from outside the framework."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from spiral.config import LearnerConfig, UserError
from spiral.headers import episode_header
from spiral.learn.advantage import CheckedEstimator
from spiral.learn.learner import Learner
from spiral.learn.loss import LossInputs, load_loss
from spiral.learn.model.tensor_files import TensorFiles
from spiral.types import Episode, EpisodeHeader, Match
from tests.builders import sampled
from tests.learners import episodes, largest_difference, learner, model_dir, save, weights
from tests.unit.test_baselines import header
from tests.unit.test_sharding import train_in_one_process, train_on_ranks

__all__ = ["model_dir"]  # a fixture

HERE = "tests.unit.test_learn_plugins"


def ppo(inputs: LossInputs) -> torch.Tensor:
    """The clipped surrogate objective (Schulman et al. 2017, equation 7) per token, with epsilon 0.2."""
    rho_T = (inputs.logprob_T - inputs.behavior_logprob_T).exp()
    clipped_T = rho_T.clamp(0.8, 1.2)
    surrogate_T = torch.minimum(rho_T * inputs.advantage_T, clipped_T * inputs.advantage_T)
    return -surrogate_T.sum() / inputs.batch_tokens


class BatchMean:
    """Return minus the step's mean return of the role, divided by the running root mean square of the differences."""

    def __init__(self, config: LearnerConfig) -> None:
        self._count, self._sum_squares = 0, torch.zeros((), dtype=torch.float64)

    def score(self, headers: Sequence[EpisodeHeader]) -> list[list[float]]:
        returns = torch.tensor([header.returns for header in headers], dtype=torch.float64)
        centred = returns - returns.mean(0)
        self._count += centred.numel()
        self._sum_squares += centred.square().sum()
        scaled = centred / (self._sum_squares / self._count).sqrt().clamp(min=1e-3)
        return [[float(scaled[i, turn.role]) for turn in header.turns] for i, header in enumerate(headers)]

    def metrics(self) -> dict[str, float]:
        return {"advantage/num_returns": self._count}

    def state_dict(self) -> dict[str, Any]:
        return {"count": self._count, "sum_squares": self._sum_squares}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._count, self._sum_squares = state["count"], state["sum_squares"]


PLUGINS = {"loss": f"{HERE}:ppo", "advantage": f"{HERE}:BatchMean"}


# --- training with plug-ins


def log_p(of: LlamaForCausalLM, prompt: tuple[int, ...], token: int) -> float:
    with torch.no_grad():
        return float(of(torch.tensor([prompt])).logits[0, -1].log_softmax(-1)[token])


def test_ppo_trains_until_every_ratio_is_clipped(model_dir: Path, tmp_path: Path) -> None:
    """Against fixed episodes: the loss falls to its minimum, (0.8 - 1.2) / 2 for these returns, and stays there."""
    prompt, won, lost = (3, 1, 4), 7, 9
    initial = LlamaForCausalLM.from_pretrained(model_dir)
    behavior = {token: log_p(initial, prompt, token) for token in (won, lost)}
    turns = tuple(sampled(role, prompt, (token,), (behavior[token],)) for role, token in enumerate((won, lost)))
    fixed = [
        Episode(
            match=Match(id=i, game="g", seed=0, players=("policy", "policy")),
            turns=turns,
            returns=(1.0, -1.0),
            end_reason="finished",
            forfeit_by=None,
            duration_s=0.0,
        )
        for i in range(4)
    ]
    # Without momentum, updates stop when the gradient does.
    one = learner(model_dir, loss=f"{HERE}:ppo", baseline_decay=1.0, learning_rate=2e-5, adam_beta1=0.0)
    rows = [one.step(step, 0, fixed) for step in range(1, 13)]
    losses = [row["train/loss"] for row in rows]
    assert losses[:7] == sorted(losses[:7], reverse=True)
    assert losses[0] > -0.05
    assert losses[-1] == pytest.approx(-0.2)
    assert rows[-1]["train/grad_norm"] == 0.0
    trained = LlamaForCausalLM.from_pretrained(save(one, tmp_path))
    assert math.exp(log_p(trained, prompt, won) - behavior[won]) >= 1.2
    assert math.exp(log_p(trained, prompt, lost) - behavior[lost]) <= 0.8


def entropy_bonus(inputs: LossInputs) -> torch.Tensor:
    return -inputs.entropy_T.sum() / inputs.batch_tokens


def test_the_entropy_can_be_trained(model_dir: Path) -> None:
    one = learner(model_dir, loss=f"{HERE}:entropy_bonus")
    entropies = [one.step(step, 0, episodes(1))["train/entropy"] for step in range(1, 6)]
    assert entropies == sorted(entropies)
    assert entropies[-1] > entropies[0] + 0.02


def test_every_loss_has_ratio_metrics_and_every_estimator_may_have_its_own(model_dir: Path) -> None:
    metrics = learner(model_dir, **PLUGINS).step(1, 0, episodes(1))
    assert {"train/rho_mean", "train/rho_clipped_frac", "train/rho_masked_frac"} <= metrics.keys()
    assert metrics["advantage/num_returns"] == 16
    assert not any(name.endswith("/baseline") for name in metrics)
    assert {"game/g/role0/baseline", "game/g/role1/baseline"} <= learner(model_dir).step(1, 0, episodes(1)).keys()


def test_plugins_give_the_same_weights_for_any_micro_batch_size(model_dir: Path) -> None:
    single = learner(model_dir, **PLUGINS, kl_coef=0.1, pack_tokens=1, micro_batch_size=1)
    packed = learner(model_dir, **PLUGINS, kl_coef=0.1, pack_tokens=64, micro_batch_size=8)
    for step in (1, 2, 3):
        for one in (single, packed):
            one.step(step, step - 1, episodes(step))
    assert largest_difference(weights(single), weights(packed)) < 1e-5


def test_plugins_resume_bit_for_bit(model_dir: Path, tmp_path: Path) -> None:
    def steps(one: Learner, *numbers: int) -> list[dict[str, float]]:
        rows = [one.step(step, step - 1, episodes(step)) for step in numbers]
        return [{name: value for name, value in row.items() if not name.startswith("perf/")} for row in rows]

    straight, killed, resumed = (learner(model_dir, **PLUGINS) for _ in range(3))
    expected = steps(straight, 1, 2, 3, 4)
    steps(killed, 1, 2)
    checkpoint = save(killed, tmp_path)
    steps(killed, 3)  # not part of the checkpoint
    resumed.load(checkpoint)
    assert steps(resumed, 3, 4) == expected[2:]
    assert largest_difference(weights(straight), weights(resumed)) == 0.0


def test_plugins_give_the_same_weights_on_two_ranks_as_on_one(model_dir: Path, tmp_path: Path) -> None:
    """With micro batches of weight 0: five packs do not divide by two."""
    options = {**PLUGINS, "micro_batch_size": 1, "pack_tokens": 32}
    final = train_on_ranks(2, model_dir, tmp_path, options)
    single, expected = train_in_one_process(model_dir, options)
    weights, files = single._trainable.live(single._policy), TensorFiles(final, "model")
    assert largest_difference(weights, {name: files.whole(name) for name in weights}) < 1e-5
    metrics = torch.load(tmp_path / "metrics.pt", weights_only=True)
    assert metrics["train/loss"] == pytest.approx(expected["train/loss"], abs=1e-5)


# --- what plug-ins are given


SEEN: list[LossInputs] = []


def recording(inputs: LossInputs) -> torch.Tensor:
    SEEN.append(inputs)
    return inputs.logprob_T.sum() / inputs.batch_segments


def halves(config: LearnerConfig) -> Any:
    estimator = BatchMean(config)
    estimator.score = lambda headers: [[0.5] * len(header.turns) for header in headers]  # type: ignore[method-assign]
    return estimator


def test_gamma_and_format_penalty_apply_to_every_estimator(model_dir: Path) -> None:
    SEEN.clear()
    (episode,) = episodes(1, num=1)  # one turn per role
    illegal = sampled(0, (1, 2), (3,), (-1.0,), legal=False)
    episode = dataclasses.replace(episode, turns=(*episode.turns, illegal))
    options = {"loss": f"{HERE}:recording", "advantage": f"{HERE}:halves", "gamma": 0.5, "format_penalty": 0.125}
    learner(model_dir, **options, epochs=1).step(1, 0, [episode])
    advantages = {float(advantage) for inputs in SEEN for advantage in inputs.advantage_T}
    assert advantages == {0.5 * 0.5, 0.5 - 0.125, 0.5}  # role 0's first turn, its illegal last turn, role 1's turn


def test_loss_inputs_cover_the_optimizer_batch(model_dir: Path) -> None:
    SEEN.clear()
    options = {"loss": f"{HERE}:recording", "epochs": 1, "local_batch_size": 16, "pack_tokens": 32}
    metrics = learner(model_dir, **options).step(1, 0, episodes(1))
    assert len(SEEN) > 1  # micro batches
    assert sum(inputs.num_segments for inputs in SEEN) == 16
    assert {inputs.batch_segments for inputs in SEEN} == {16}
    assert {inputs.batch_tokens for inputs in SEEN} == {metrics["train/num_tokens"]}
    assert sum(len(inputs.logprob_T) for inputs in SEEN) == metrics["train/num_tokens"]
    for inputs in SEEN:
        tensors = (inputs.logprob_T, inputs.behavior_logprob_T, inputs.advantage_T, inputs.entropy_T)
        assert {(tensor.shape, tensor.dtype) for tensor in tensors} == {(inputs.segment_T.shape, torch.float32)}
        assert inputs.segment_T.unique().tolist() == list(range(inputs.num_segments))


def test_headers_come_in_match_id_order(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scored = []

    def score(self: BatchMean, headers: Sequence[EpisodeHeader]) -> list[list[float]]:
        scored.extend(headers)
        return [[0.5] * len(header.turns) for header in headers]

    monkeypatch.setattr(BatchMean, "score", score)
    learner(model_dir, advantage=f"{HERE}:BatchMean", epochs=1).step(1, 0, episodes(1, num=3)[::-1])
    assert scored == [episode_header(episode) for episode in episodes(1, num=3)]


# --- what plug-ins do wrong


def raises(*_: Any) -> Any:
    raise ValueError("no such\n column")


def returns_a_number(inputs: LossInputs) -> Any:
    return 0.5


def returns_a_vector(inputs: LossInputs) -> torch.Tensor:
    return inputs.logprob_T


def returns_a_constant(inputs: LossInputs) -> torch.Tensor:
    return inputs.logprob_T.detach().sum()


def returns_nan(inputs: LossInputs) -> torch.Tensor:
    return inputs.logprob_T.sum() * float("nan")


def some_inputs() -> LossInputs:
    return LossInputs(
        logprob_T=torch.tensor([-1.0, -2.0], requires_grad=True),
        behavior_logprob_T=torch.tensor([-1.0, -2.0]),
        advantage_T=torch.ones(2),
        segment_T=torch.tensor([0, 0]),
        entropy_T=torch.ones(2),
        num_segments=1,
        batch_segments=1,
        batch_tokens=2,
        max_tokens=2,
        config=LearnerConfig(),
    )


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ("raises", "ValueError: no such column"),
        ("returns_a_number", "returned a float, expected a scalar tensor"),
        ("returns_a_vector", "returned a tensor of shape [2], expected a scalar; sum it"),
        ("returns_a_constant", "returned a tensor without a gradient; compute it from logprob_T or entropy_T"),
    ],
)
def test_a_broken_loss_is_one_line_that_names_it(loss: str, message: str) -> None:
    function = load_loss(LearnerConfig(loss=f"{HERE}:{loss}"))
    with pytest.raises(UserError) as error:
        function(some_inputs())
    assert str(error.value) == f"learner.loss {HERE}:{loss}: {message}"


def test_a_loss_that_is_not_finite_names_matches_and_plugin(model_dir: Path) -> None:
    one = learner(model_dir, loss=f"{HERE}:returns_nan")
    before = weights(one)
    message = rf"^loss is not finite in a batch with matches \[[\d, ]+\] \(learner.loss {HERE}:returns_nan\)$"
    with pytest.raises(FloatingPointError, match=message):
        one.step(1, 0, episodes(1))
    assert largest_difference(before, weights(one)) == 0.0


@pytest.mark.parametrize(
    ("key", "name", "message"),
    [
        ("loss", "reinforc", "unknown learner.loss 'reinforc'; did you mean 'reinforce'?"),
        ("loss", "no_such_module:loss", "learner.loss 'no_such_module:loss' cannot be imported: ModuleNotFoundError:"),
        ("loss", f"{HERE}:HERE", f"learner.loss {HERE}:HERE is a str, expected a function or class"),
        ("advantage", "gae", "unknown learner.advantage 'gae'; did you mean 'rae'?"),
        ("advantage", f"{HERE}:missing", f"learner.advantage '{HERE}:missing' cannot be imported: AttributeError:"),
        ("advantage", f"{HERE}:raises", f"learner.advantage {HERE}:raises: ValueError: no such column"),
        ("advantage", "builtins:dict", "learner.advantage builtins:dict: dict has no method score()"),
    ],
)
def test_a_plugin_that_cannot_be_loaded_is_one_line(key: str, name: str, message: str) -> None:
    load = load_loss if key == "loss" else CheckedEstimator
    with pytest.raises(UserError) as error:
        load(LearnerConfig(**{key: name}))
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


class Broken(BatchMean):
    """An estimator with one method or result replaced."""

    returned: Any = None
    state: Any = None

    def score(self, headers: Sequence[EpisodeHeader]) -> Any:
        return self.returned() if callable(self.returned) else self.returned

    def state_dict(self) -> Any:
        return self.state


def broken(config: LearnerConfig) -> Broken:
    return Broken(config)


def scored_by(monkeypatch: pytest.MonkeyPatch, returned: Any, state: Any = None) -> CheckedEstimator:
    """An estimator with state `state`, after its `score` has returned `returned` for two episodes of two turns each."""
    monkeypatch.setattr(Broken, "returned", staticmethod(returned) if callable(returned) else returned)
    monkeypatch.setattr(Broken, "state", state)
    estimator = CheckedEstimator(LearnerConfig(advantage=f"{HERE}:broken"))
    estimator.score([header(4, 1.0), header(7, -1.0)])
    return estimator


GOOD = [[1.0, -1.0], [0.0, 0.5]]


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (raises, "ValueError: no such column"),
        (None, "score() returned None, expected numbers[episode][turn]"),
        ({4: 1.0, 7: 0.0}, "score() returned {4: 1.0, 7: 0.0}, expected numbers[episode][turn]"),
        ([[1.0, -1.0]], "score() returned advantages of 1 episodes, expected 2"),
        ([[1.0, -1.0], [0.5]], "score() returned 1 advantages for match 7, expected 2, one per turn"),
        (
            [[1.0, -1.0], [0.5, math.nan]],
            "score() returned nan for turn 1 of match 7, expected a finite number",
        ),
    ],
)
def test_a_broken_estimator_is_one_line_that_names_it(
    monkeypatch: pytest.MonkeyPatch, returned: Any, message: str
) -> None:
    with pytest.raises(UserError) as error:
        scored_by(monkeypatch, returned)
    assert str(error.value) == f"learner.advantage {HERE}:broken: {message}"


@pytest.mark.parametrize("returned", [np.array(GOOD), torch.tensor(GOOD), (tuple(x) for x in GOOD)])
def test_advantages_may_be_arrays_tensors_or_generators(monkeypatch: pytest.MonkeyPatch, returned: Any) -> None:
    monkeypatch.setattr(Broken, "returned", returned)
    estimator = CheckedEstimator(LearnerConfig(advantage=f"{HERE}:broken"))
    assert estimator.score([header(4, 1.0), header(7, -1.0)]) == GOOD


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (np.float64(1.0), "state_dict() is a numpy.float64"),
        ({"b": [1, {2}]}, "state_dict()['b'][1] is a builtins.set"),
        ({("g", np.int64(0)): 1.0}, "a key of state_dict()[1] is a numpy.int64"),
    ],
)
def test_state_that_a_checkpoint_cannot_keep_is_refused_in_the_first_step(
    monkeypatch: pytest.MonkeyPatch, state: Any, message: str
) -> None:
    with pytest.raises(UserError) as error:
        scored_by(monkeypatch, GOOD, state)
    assert str(error.value).startswith(f"learner.advantage {HERE}:broken: {message}; a checkpoint keeps only")


def test_the_state_in_a_checkpoint_is_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    state = {"table": [1.0, torch.ones(1)]}
    saved = scored_by(monkeypatch, GOOD, state).state_dict()
    state["table"][1].zero_()  # type: ignore[attr-defined]
    state["table"].append(2.0)
    assert saved == {"table": [1.0, torch.ones(1)]}


def test_the_traceback_of_a_plugin_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError):
        load_loss(LearnerConfig(loss=f"{HERE}:raises"))(some_inputs())
    assert "in raises" in capfd.readouterr().err
