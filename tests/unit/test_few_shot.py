"""The prompt `few_shot`: legal answers of random play before the turn's own question."""

from dataclasses import replace
from typing import Any

import pytest

from spiral.config import UserError
from spiral.game import Game, make
from spiral.rollout import few_shot
from spiral.rollout.answers import parse_action
from spiral.rollout.few_shot import NUM_EXAMPLES, few_shot_prompt
from spiral.rollout.prompt import Message, MessageBuilder, PastTurn
from spiral.types import AnswerFormat, GameSpec
from spiral_games.kuhn_poker import KuhnPoker

GAMES = ("kuhn_poker", "leduc_poker", "nim", "textarena/TicTacToe-v0")
OBSERVATION = "You are player 1 with the king. Betting: player 0 bets."


class Unlisted(KuhnPoker):
    """A game that does not list its legal actions."""

    spec = replace(KuhnPoker.spec, id=f"{__name__}:Unlisted")

    def legal_actions(self) -> Any:
        return None


def built(game_id: str, answer_format: AnswerFormat = "raw", **turn: Any) -> list[Message]:
    observation = turn.pop("observation", OBSERVATION)
    return MessageBuilder(answer_format, few_shot_prompt, "few_shot").build(make(game_id, 0).spec, observation, **turn)


def test_the_chat_of_kuhn_poker() -> None:
    chat = [(message["role"], message["content"]) for message in built("kuhn_poker")]
    rules = make("kuhn_poker", 0).spec.rules
    first = f"{rules}\nYou are player 0 with the queen. Betting: none yet.\nAnswer with your action and nothing else."
    assert chat[0] == ("user", first)
    assert [content for role, content in chat if role == "assistant"] == ["bet", "call", "check", "fold"]
    assert chat[-1] == ("user", OBSERVATION)
    assert [role for role, _ in chat] == ["user", "assistant"] * NUM_EXAMPLES + ["user"]


@pytest.mark.parametrize("answer_format", ["boxed", "bracket", "tag", "raw", "exact"])
@pytest.mark.parametrize("game_id", GAMES)
def test_every_answer_shown_can_be_read_and_is_legal_there(
    game_id: str, answer_format: AnswerFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    legal: dict[str, tuple[str, ...]] = {}  # by observation

    class Watched:
        """A match that notes what is legal wherever it is observed."""

        def __init__(self, game: Game) -> None:
            self.game = game

        def __getattr__(self, name: str) -> Any:
            return getattr(self.game, name)

        def observe(self, role: int) -> str:
            observation = self.game.observe(role)
            legal[observation] = self.game.legal_actions() or ()
            return observation

    few_shot.examples_of.cache_clear()
    monkeypatch.setattr(few_shot, "make", lambda *arguments: Watched(make(*arguments)))
    chat = built(game_id, answer_format)
    few_shot.examples_of.cache_clear()
    shown = [parse_action(message["content"], answer_format) for message in chat if message["role"] == "assistant"]
    assert 1 < len(set(shown)) == len(shown) <= NUM_EXAMPLES
    for question, answer in zip(chat[::2], shown, strict=False):
        (there,) = {actions for observation, actions in legal.items() if observation in question["content"]}
        assert answer in there


def test_a_refused_answer_is_explained_in_the_last_message() -> None:
    chat = built("kuhn_poker", error="'rise' is not one of: fold, call.")
    assert chat[-1]["content"] == f"{OBSERVATION}\nYour last answer was not legal: 'rise' is not one of: fold, call."
    assert chat[:-1] == built("kuhn_poker")[:-1]


def test_a_conversation_has_the_examples_once() -> None:
    past = (PastTurn(observation="You hold J.", text="check", error=None),)
    (only,) = built("kuhn_poker", observation="You hold J.\nPlayer 1 bets.", history=past, continues=True)
    assert only["content"].startswith("Player 1 bets.\n")


def test_free_text_has_the_default_prompt() -> None:
    question = GameSpec(id="question", title="A question", rules="", max_turns=1, max_return=1.0, free_text=True)
    messages = MessageBuilder("raw", few_shot_prompt).build(question, "2 + 2?")
    assert messages == MessageBuilder("raw").build(question, "2 + 2?")


def test_a_game_that_lists_no_actions_is_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"'few_shot' failed: .*Unlisted does not list its legal actions"):
        built(Unlisted.spec.id)
