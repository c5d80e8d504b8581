"""What each role saw at every point of a recorded match: the match is played again from its seed and actions."""

from dataclasses import dataclass

from spiral.errors import summary
from spiral.game.picture import Picture, picture
from spiral.game.protocol import Game
from spiral.game.registry import make
from spiral.types import Episode


class NotReplayable(Exception):
    """The match cannot be played again, or shows something else when it is: the game is missing or has changed."""


@dataclass(frozen=True, slots=True)
class View:
    """What one role may see: the text of `Game.observe`, and a picture if the game draws one."""

    text: str
    picture: Picture | None


Seats = tuple[View, View]
"""The views of role 0 and role 1 at the same moment."""


def replayed(episode: Episode) -> list[Seats]:
    """The views before each turn of `episode`, and after the last one. Raises NotReplayable, saying why in one line."""
    match = episode.match
    try:
        game = make(match.game, match.seed)
        seats = [_seats(game)]
        for turn in episode.turns:
            if seats[-1][turn.role].text != turn.observation:
                raise NotReplayable(f"{match.game} shows other text now than when it was played")
            if turn.legal and turn.action is not None:
                game.step(turn.action)
                seats.append(_seats(game))
            else:
                seats.append(seats[-1])
    except NotReplayable:
        raise
    except Exception as error:  # a game may be a plug-in that raises anything
        raise NotReplayable(f"{match.game} cannot be played again: {summary(error)}") from error
    return seats


def recorded(episode: Episode) -> list[Seats]:
    """As `replayed`, from the record alone: a role that is not to move still sees what it saw last, and no pictures."""
    seen = [View("", None), View("", None)]
    seats: list[Seats] = []
    for turn in episode.turns:
        seen[turn.role] = View(turn.observation, None)
        seats.append((seen[0], seen[1]))
    return [*seats, (seen[0], seen[1])]


def _seats(game: Game) -> Seats:
    first, second = (View(game.observe(role), picture(game, role)) for role in (0, 1))
    return first, second
