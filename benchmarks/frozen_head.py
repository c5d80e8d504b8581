"""How much of a best response to builtin/tiny an adapter can reach in Kuhn poker while the model's head is frozen.

    python benchmarks/frozen_head.py

Whatever an adapter does below the head, it can only choose the last hidden state. For each action a gradient search
over hidden states looks for the one that makes it most probable. Of the responses that play each action with that
probability, the best is then found by trying all of them. Takes seconds.
"""

from itertools import product

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from spiral import models
from spiral.game import make
from spiral.game.solve import DecisionPoint, decision_points
from spiral.game.tree import game_tree
from spiral.rollout.prompt import MessageBuilder, Prompter

GAME, MODEL = "kuhn_poker", "builtin/tiny"
STEPS = 3000


def most_probable(head: torch.Tensor, norm: torch.nn.Module, token: int) -> torch.Tensor:
    """The distribution over tokens, [V], of the hidden state that makes `token` most probable."""
    torch.manual_seed(0)
    hidden = torch.randn(1, head.shape[1], requires_grad=True)
    optimizer = torch.optim.Adam([hidden], 0.05)
    for _ in range(STEPS):
        logprobs = (norm(hidden) @ head.T).log_softmax(-1)[0]
        optimizer.zero_grad()
        (-logprobs[token]).backward()
        optimizer.step()
    return logprobs.detach().exp()


def main() -> None:
    playable = models.open_model(MODEL, [GAME])
    model = AutoModelForCausalLM.from_pretrained(playable.model_dir).requires_grad_(False)
    messages = MessageBuilder.of(playable.config.rollout)
    prompter = Prompter(AutoTokenizer.from_pretrained(playable.model_dir), messages)
    points, tree, spec = decision_points(GAME), game_tree(GAME), make(GAME, 0).spec

    def legal(tokens: torch.Tensor, point: DecisionPoint) -> tuple[float, ...]:
        """The probabilities of the point's actions in a distribution over tokens, as shares of their sum."""
        chosen = [float(tokens[prompter.answer_ids(action)[0]]) for action in point.legal_actions]
        return tuple(share / sum(chosen) for share in chosen)

    frozen, sharpest = {}, {}
    for point in points:
        prompt = prompter.prompt_ids(messages.build(spec, point.observation))
        frozen[point.role, point.info_state] = legal(model(torch.tensor([prompt.tolist()])).logits[0, -1].exp(), point)
        for action in point.legal_actions:
            if action not in sharpest:
                token = int(prompter.answer_ids(action)[0])
                sharpest[action] = most_probable(model.lm_head.weight, model.model.norm, token)
    value = tree.value(tree.policy(frozen))
    for role in (0, 1):
        sign = 1 - 2 * role
        own = [point for point in points if point.role == role]
        gains = []
        for actions in product(*(point.legal_actions for point in own)):
            response = {(role, p.info_state): legal(sharpest[a], p) for p, a in zip(own, actions, strict=True)}
            gains.append(sign * (tree.value(tree.policy(frozen | response)) - value))
        exact = tree.best_response(tree.policy(frozen), role).value - sign * value
        print(f"role {role}: {max(gains):.4f} of {exact:.4f}, {max(gains) / exact:.0%}")


if __name__ == "__main__":
    main()
