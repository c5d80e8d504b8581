"""The prompt `few_shot`: legal answers are shown before the turn's own question.

For models that hardly ever write a legal action otherwise, so that there is something to learn from in the first steps.
"""

import random
from functools import cache

from spiral.game import make
from spiral.rollout.answers import format_answer, instruction
from spiral.rollout.prompt import Message, PromptInput, default_prompt

NUM_EXAMPLES = 4
NUM_MATCHES = 20  # of random play, in which examples are looked for


def few_shot_prompt(turn: PromptInput) -> list[Message]:
    """A chat in which up to NUM_EXAMPLES turns of the game have been answered; the last message is the turn's own.

    The rules and how to answer are in its first message only. The answers hold an action and nothing else, whatever
    the format. Games of free text and turns that continue a conversation have the default prompt. Raises ValueError
    for a game that does not list its legal actions.
    """
    if turn.continues or turn.spec.free_text:
        return default_prompt(turn)
    examples = examples_of(turn.spec.id)
    questions = [observation for observation, _ in examples] + [turn.observation]
    questions[0] = "\n".join(filter(None, [turn.spec.rules, questions[0], instruction(turn.answer_format)]))
    if turn.error:
        questions[-1] += f"\nYour last answer was not legal: {turn.error}"
    messages: list[Message] = []
    for question, (_, action) in zip(questions, examples, strict=False):
        answer = format_answer(action, turn.answer_format)
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return [*messages, {"role": "user", "content": questions[-1]}]


@cache
def examples_of(game_id: str) -> tuple[tuple[str, str], ...]:
    """(observation, action) of the first NUM_EXAMPLES different actions in random play, the same in every process.

    The actions say nothing about how to play well. Raises ValueError if the game does not list its legal actions.
    """
    rng, found = random.Random(0), dict[str, str]()
    for seed in range(NUM_MATCHES):
        game = make(game_id, seed)
        while (role := game.role_to_move()) is not None and len(found) < NUM_EXAMPLES:
            if not (actions := game.legal_actions()):
                raise ValueError(f"{game_id} does not list its legal actions, so it has no examples")
            action = rng.choice(actions)
            found.setdefault(action, game.observe(role))
            game.step(action)
    return tuple((observation, action) for action, observation in found.items())
