"""SPIRAL on one page: a policy learns Kuhn poker (Kuhn 1950) by playing both roles against itself.

    python examples/minimal.py                  # approaches a Nash equilibrium; less than a minute on one core
    python examples/minimal.py --kl-coef 0      # plain self-play keeps circling around the equilibrium

Each step plays a batch of hands with the current policy, turns their returns into role-conditioned advantages (RAE; Liu
et al. 2025, arXiv 2506.24119, section 3), and makes several optimizer updates on those hands. The formulas are those of
the framework (docs/algorithm.md), for turns of one token; the policy is a table of logits instead of a language model.

Suffixes of tensors and nested lists: _B hands, _S decisions, _I information states (12), _A actions (2), _R roles (2).
"""

import argparse
import random
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

HANDS_PER_STEP = 512
EPOCHS = 2  # passes over the decisions of a step
BATCH_SIZE = 256  # decisions per optimizer update
LEARNING_RATE = 0.02  # decays linearly to 0 over the run, so that the policy settles
GRAD_CLIP = 0.2  # largest gradient norm
RATIO_MAX = 2.0  # c: importance ratios are truncated here
BASELINE_DECAY = 0.95  # alpha of RAE
REFRESH_EVERY = 60  # the policy is copied into the reference every so many steps

# The game: three cards (0 jack, 1 queen, 2 king), of which each player gets one after both have anted 1 chip. They take
# turns: len(history) % 2 is the role to move, which passes ("p": check, or fold to a bet) or bets ("b": bet 1 chip, or
# call a bet). The history is the string of these actions.

ACTIONS = "pb"
DECISIONS = ("", "p", "b", "pb")  # the histories after which a player must act; after any other, the hand is over
Decision = tuple[int, int, int, int]  # hand, role, information state, action
Table = list[list[float]]


def info_state(card: int, history: str) -> int:
    """The index of what the player to move knows: their own card and the betting so far."""
    return card * len(DECISIONS) + DECISIONS.index(history)


def payoff(role: int, card: int, other_card: int, history: str) -> int:
    """The chips that `role` wins with `card` against `other_card` when the betting has ended in `history`."""
    folded = history.endswith("bp")
    won = len(history) % 2 == role if folded else card > other_card  # whoever folds acts last
    stake = 2 if history.endswith("bb") else 1
    return stake if won else -stake


def play(policy_IA: Table, num_hands: int, rng: random.Random) -> tuple[list[Decision], Table]:
    """Self-play, the policy in both roles. Returns the decisions of all hands, and return_BR, which lies in [-1, 1]."""
    decisions, return_BR = [], []
    for hand in range(num_hands):
        cards, history = rng.sample(range(3), 2), ""
        while history in DECISIONS:
            role = len(history) % 2
            state = info_state(cards[role], history)
            action = int(rng.random() < policy_IA[state][1])
            decisions.append((hand, role, state, action))
            history += ACTIONS[action]
        scaled = payoff(0, cards[0], cards[1], history) / 2  # 2 chips are the most
        return_BR.append([scaled, -scaled])
    return decisions, return_BR


def rae(return_BR: Table, baseline_R: list[float], decay: float = BASELINE_DECAY) -> tuple[Table, list[float]]:
    """Role-conditioned advantage estimation. Returns advantage_BR and the new baselines.

    Averaged over both roles, the returns of a zero-sum game are always 0, which is useless as a baseline. The roles
    differ, however: at equilibrium player 0 loses 1/18 chip a hand. So each role has its own moving average of returns,
    which removes that offset from the advantages. Each return updates the average before the average is subtracted.
    """
    advantage_BR = []
    for return_R in return_BR:
        baseline_R = [decay * b + (1 - decay) * r for b, r in zip(baseline_R, return_R, strict=True)]
        advantage_BR.append([r - b for b, r in zip(baseline_R, return_R, strict=True)])
    return advantage_BR, baseline_R


def policy_loss(logprob_S: Tensor, behavior_logprob_S: Tensor, advantage_S: Tensor, c: float = RATIO_MAX) -> Tensor:
    """-(1/N) sum_i A_i * stop_gradient(min(rho_i, c)) * log pi(a_i|s_i), with rho_i = pi(a_i|s_i) / mu(a_i|s_i).

    REINFORCE with off-policy correction: mu is the policy that played the hands. From the second update of a step on,
    pi differs from it, and rho_i corrects for that. Truncating rho_i limits the variance but biases towards mu.
    """
    rho_S = (logprob_S - behavior_logprob_S).detach().exp()
    return -(advantage_S * rho_S.clamp(max=c) * logprob_S).mean()


def kl_loss(log_policy_SA: Tensor, log_reference_SA: Tensor) -> Tensor:
    """(1/N) sum_i KL(pi(.|s_i) || reference(.|s_i)), exact over the actions.

    In plain self-play each role keeps adapting to what the other has just learned, and the policy circles around the
    equilibrium. The KL penalty makes it a game whose unique equilibrium attracts the policy. Copying the policy into
    the reference every so often moves that equilibrium towards one of Kuhn poker itself (regularised Nash dynamics,
    Perolat et al. 2022).
    """
    return (log_policy_SA.exp() * (log_policy_SA - log_reference_SA)).sum(-1).mean()


def train(seed: int, steps: int, kl_coef: float) -> Iterator[tuple[int, Tensor]]:
    """Yields the policy, as probabilities [I, A], before the first step and after each one: (steps done, policy)."""
    rng = random.Random(seed)
    logits_IA = torch.zeros(3 * len(DECISIONS), len(ACTIONS), requires_grad=True)
    optimizer = torch.optim.AdamW([logits_IA], betas=(0.9, 0.95), weight_decay=0.0)
    baseline_R = [0.0, 0.0]
    yield 0, logits_IA.detach().softmax(-1)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * (1 - step / steps)
        log_behavior_IA = logits_IA.detach().log_softmax(-1)  # mu: the policy before this step's updates
        if step % REFRESH_EVERY == 0:
            log_reference_IA = log_behavior_IA
        decisions, return_BR = play(log_behavior_IA.exp().tolist(), HANDS_PER_STEP, rng)
        advantages, baseline_R = rae(return_BR, baseline_R)
        advantage_BR = torch.tensor(advantages)
        for _ in range(EPOCHS):
            shuffled = torch.tensor(rng.sample(decisions, len(decisions)))
            for batch in shuffled.split(BATCH_SIZE):
                hand_S, role_S, state_S, action_S = batch.unbind(1)
                advantage_S = advantage_BR[hand_S, role_S]  # the same for all decisions of a role in a hand
                log_policy_SA = logits_IA.log_softmax(-1)[state_S]
                logprob_S = log_policy_SA.gather(-1, action_S[:, None])[:, 0]
                loss = policy_loss(logprob_S, log_behavior_IA[state_S, action_S], advantage_S)
                loss = loss + kl_coef * kl_loss(log_policy_SA, log_reference_IA[state_S])
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_([logits_IA], GRAD_CLIP)
                optimizer.step()
        yield step + 1, logits_IA.detach().softmax(-1)


def nash_conv(policy_IA: Tensor) -> float:
    """How much both roles together gain by best responses to the policy, in chips a hand. 0 at a Nash equilibrium."""
    policy = policy_IA.tolist()

    def best(role: int, card: int, history: str, reach: dict[int, float]) -> float:
        """The most `role` can win. `reach`: per card of the other, the probability of the deal and the other's play."""
        if history not in DECISIONS:
            return sum(p * payoff(role, card, other, history) for other, p in reach.items())
        if len(history) % 2 == role:  # a single choice, because the role does not see the other's card
            return max(best(role, card, history + action, reach) for action in ACTIONS)
        return sum(
            best(role, card, history + action, {o: p * policy[info_state(o, history)][a] for o, p in reach.items()})
            for a, action in enumerate(ACTIONS)
        )

    return sum(best(role, card, "", {o: 1 / 6 for o in range(3) if o != card}) for role in (0, 1) for card in range(3))


def main(argv: Sequence[str] | None = None) -> None:
    """Train and print the learning curve."""
    parser = argparse.ArgumentParser(description="Learn Kuhn poker by self-play.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=600, help="length of the run and of the learning-rate decay")
    parser.add_argument("--kl-coef", type=float, default=0.2, help="weight of the KL penalty; 0: plain self-play")
    args = parser.parse_args(argv)
    curve = []
    print("  step  NashConv (chips a hand)")
    for step, policy_IA in train(args.seed, args.steps, args.kl_coef):
        if step % max(1, args.steps // 20) == 0 or step == args.steps:
            curve.append(nash_conv(policy_IA))
            print(f"{step:6}  {curve[-1]:.4f}  {'#' * round(60 * curve[-1])}", flush=True)
    print(f"NashConv began at {curve[0]:.4f} (uniform play) and ended at {curve[-1]:.4f}.")


if __name__ == "__main__":
    main()
