"""examples/minimal.py: its formulas are the framework's, its game is games/kuhn_poker.py, and it learns."""

import ast
import importlib.util
import random
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from spiral.config import LearnerConfig
from spiral.game import solve
from spiral.learn.baselines import RoleBaselines
from spiral.learn.kernels.logprobs import TokenStats, token_stats
from spiral.learn.loss import LossInputs, kl_loss, reinforce
from spiral.types import EpisodeHeader
from spiral_games.kuhn_poker import KuhnPoker
from tests import builders
from tests.builders import turn_header

PATH = Path(__file__).parents[2] / "examples" / "minimal.py"


def load() -> Any:
    spec = importlib.util.spec_from_file_location("minimal", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


minimal = load()


def test_it_imports_torch_and_the_standard_library_only() -> None:
    imported: set[str] = set()
    for node in ast.walk(ast.parse(PATH.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").partition(".")[0])
    assert imported - sys.stdlib_module_names == {"torch"}


# --- the formulas ----------------------------------------------------------------------------------------------------


def header(match_id: int, return0: float) -> EpisodeHeader:
    return builders.header(match_id, [turn_header(0), turn_header(1)], (return0, -return0))


def test_advantages_are_the_frameworks_over_several_steps() -> None:
    rng = random.Random(0)
    framework = RoleBaselines(LearnerConfig(baseline_decay=minimal.BASELINE_DECAY))
    baseline_R = [0.0, 0.0]
    for step in range(3):
        headers = [header(100 * step + hand, rng.choice((-1.0, -0.5, 0.5, 1.0))) for hand in range(100)]
        advantage_BR, baseline_R = minimal.rae([list(h.returns) for h in headers], baseline_R)
        for ours, theirs in zip(advantage_BR, framework.score(headers), strict=True):
            assert ours == pytest.approx(theirs, abs=1e-12)  # each header has one turn of role 0 and one of role 1
        assert baseline_R == pytest.approx([framework.value("kuhn_poker", role) for role in (0, 1)], abs=1e-12)


class Decisions:
    """Random decisions of a random policy, and what the framework makes of them: each is a turn of one token."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        count = 200

        def logits() -> torch.Tensor:
            return torch.randn(12, 2, generator=generator, dtype=torch.float64)

        self.logits_IA = logits().requires_grad_()
        self.reference_IA = logits()
        self.state_S = torch.randint(12, (count,), generator=generator)
        self.action_S = torch.randint(2, (count,), generator=generator)
        self.behavior_S = logits().log_softmax(-1)[self.state_S, self.action_S]
        self.advantage_S = torch.randn(count, generator=generator, dtype=torch.float64)
        self.segment_S = torch.arange(count)

    def log_policy_SA(self) -> torch.Tensor:
        return self.logits_IA.log_softmax(-1)[self.state_S]

    def logprob_S(self) -> torch.Tensor:
        return self.log_policy_SA()[self.segment_S, self.action_S]

    def stats(self) -> TokenStats:
        """By the framework's kernel, with an identity matrix as the head of the language model."""
        head = torch.nn.Linear(2, 2, bias=False, dtype=torch.float64)
        torch.nn.init.eye_(head.weight)
        return token_stats(
            self.logits_IA[self.state_S],
            head,
            self.action_S,
            temperature=1.0,
            reference=(self.reference_IA[self.state_S], head),
            chunk=64,
        )

    def gradient(self, loss: torch.Tensor) -> torch.Tensor:
        (gradient,) = torch.autograd.grad(loss, self.logits_IA)
        return gradient


def test_policy_loss_is_the_frameworks() -> None:
    d = Decisions()
    stats = d.stats()
    framework = reinforce(
        LossInputs(
            logprob_T=stats.logprob_T,
            behavior_logprob_T=d.behavior_S,
            advantage_T=d.advantage_S,
            segment_T=d.segment_S,
            entropy_T=stats.entropy_T,
            num_segments=len(d.segment_S),
            batch_segments=len(d.segment_S),
            batch_tokens=len(d.segment_S),
            max_tokens=1,
            config=LearnerConfig(importance="sequence", importance_max=minimal.RATIO_MAX),
        )
    )
    rho_S = (d.logprob_S() - d.behavior_S).exp()
    assert 0.1 < (rho_S > minimal.RATIO_MAX).double().mean() < 0.9  # truncated and other ratios are both covered
    ours = minimal.policy_loss(d.logprob_S(), d.behavior_S, d.advantage_S)
    torch.testing.assert_close(ours, framework, rtol=0, atol=1e-12)
    torch.testing.assert_close(d.gradient(ours), d.gradient(framework), rtol=0, atol=1e-12)


def test_kl_loss_is_the_frameworks() -> None:
    d = Decisions()
    stats = d.stats()
    framework = kl_loss(
        stats.kl_T,
        stats.logprob_T,
        d.behavior_S,
        d.segment_S,
        batch_segments=len(d.segment_S),
        importance_max=minimal.RATIO_MAX,
    )
    ours = minimal.kl_loss(d.log_policy_SA(), d.reference_IA.log_softmax(-1)[d.state_S])
    assert ours > 0.1
    torch.testing.assert_close(ours, framework, rtol=0, atol=1e-12)
    torch.testing.assert_close(d.gradient(ours), d.gradient(framework), rtol=0, atol=1e-12)


def test_recipe_uses_the_frameworks_defaults() -> None:
    recipe = LearnerConfig(
        baseline_decay=minimal.BASELINE_DECAY,
        importance_max=minimal.RATIO_MAX,
        grad_clip=minimal.GRAD_CLIP,
        epochs=minimal.EPOCHS,
    )
    assert recipe == LearnerConfig()


# --- the game and its solver -----------------------------------------------------------------------------------------

CARDS = ("jack", "queen", "king")
HISTORIES = {"": "", "check": "p", "bet": "b", "check,bet": "pb"}


def framework_nash_conv(policy_IA: torch.Tensor) -> float:
    def policy(role: int, info_state: str, legal_actions: tuple[str, ...]) -> list[float]:
        assert legal_actions in (("check", "bet"), ("fold", "call"))  # the order of the example's actions
        card, _, history = info_state.partition(":")
        probabilities: list[float] = policy_IA[minimal.info_state(CARDS.index(card), HISTORIES[history])].tolist()
        return probabilities

    return solve.nash_conv("kuhn_poker", policy)


def equilibrium(alpha: float) -> torch.Tensor:
    """Kuhn's family of equilibria; `alpha` is how often player 0 bets the jack, at most 1/3."""
    bets = {  # the probability of "b" with each card
        "": (alpha, 0.0, 3 * alpha),
        "p": (1 / 3, 0.0, 1.0),
        "b": (0.0, 1 / 3, 1.0),
        "pb": (0.0, alpha + 1 / 3, 1.0),
    }
    policy_IA = torch.zeros(12, 2, dtype=torch.float64)
    for history, probabilities in bets.items():
        for card, probability in enumerate(probabilities):
            policy_IA[minimal.info_state(card, history)] = torch.tensor(
                [1 - probability, probability], dtype=torch.float64
            )
    return policy_IA


def test_uniform_play_has_the_known_nash_conv() -> None:
    uniform_IA = torch.full((12, 2), 0.5, dtype=torch.float64)
    assert minimal.nash_conv(uniform_IA) == pytest.approx(11 / 12, abs=1e-9)
    assert framework_nash_conv(uniform_IA) == pytest.approx(11 / 12, abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_nash_conv_of_random_play_is_openspiels(seed: int) -> None:
    logits_IA = 3 * torch.randn(12, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    policy_IA = logits_IA.softmax(-1)
    assert minimal.nash_conv(policy_IA) == pytest.approx(framework_nash_conv(policy_IA), abs=1e-9)


@pytest.mark.parametrize("alpha", [0.0, 0.2, 1 / 3])
def test_nash_conv_of_an_equilibrium_is_zero(alpha: float) -> None:
    policy_IA = equilibrium(alpha)
    assert minimal.nash_conv(policy_IA) == pytest.approx(0.0, abs=1e-9)
    assert minimal.nash_conv(policy_IA) == pytest.approx(framework_nash_conv(policy_IA), abs=1e-9)


def test_hands_that_are_played_follow_the_games_rules() -> None:
    decisions, return_BR = minimal.play([[0.5, 0.5]] * 12, 200, random.Random(0))
    assert [sorted({hand for hand, *_ in decisions})] == [list(range(200))]
    for hand, returns in enumerate(return_BR):
        turns = [(role, *divmod(state, 4), action) for h, role, state, action in decisions if h == hand]
        game = KuhnPoker(0)
        game.cards = (turns[0][1], turns[1][1])  # both players act in every hand
        for role, card, history, action in turns:
            assert game.role_to_move() == role
            assert game.cards[role] == card
            assert HISTORIES[",".join(game.history)] == minimal.DECISIONS[history]
            game.step(game.legal_actions()[action])
        assert game.role_to_move() is None
        assert returns == [value / game.spec.max_return for value in game.returns()]


# --- the run ---------------------------------------------------------------------------------------------------------


def test_a_short_run_learns_and_prints_its_curve(capsys: pytest.CaptureFixture[str]) -> None:
    minimal.main(["--seed", "0", "--steps", "40"])
    title, *rows, summary = capsys.readouterr().out.splitlines()
    assert "NashConv" in title
    curve = {int(step): float(value) for step, value, *_ in map(str.split, rows)}
    assert list(curve) == list(range(0, 41, 2))
    assert curve[0] == pytest.approx(11 / 12, abs=1e-4)
    assert curve[40] < 0.35
    assert all(
        row.count("#") == pytest.approx(60 * value, abs=1) for row, value in zip(rows, curve.values(), strict=True)
    )
    assert summary == f"NashConv began at {curve[0]:.4f} (uniform play) and ended at {curve[40]:.4f}."
