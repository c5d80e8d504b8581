"""Print episodes turn by turn: what each role saw and wrote, and how the match ended."""

from pathlib import Path

from rich.console import Console
from rich.text import Text

from spiral.config import UserError
from spiral.storage.episode_files import EpisodeFiles
from spiral.types import Episode


def show(run_dir: Path, step: int | None, game: str | None, count: int, console: Console | None = None) -> None:
    """Print up to `count` episodes of `game` (any, if None) that `step` (the newest, if None) trained on.

    Raises UserError.
    """
    console = console or Console()
    files = EpisodeFiles(run_dir)
    step = files.choose(step)
    shown, games = 0, set()
    for episode in files.read(step):
        games.add(episode.match.game)
        if shown < count and game in (None, episode.match.game):
            _print(console, episode, step)
            shown += 1
    if not shown:
        raise UserError(f"step {step} of {run_dir} has no episode of {game!r}; it has {', '.join(sorted(games))}")


def _print(console: Console, episode: Episode, step: int) -> None:
    match = episode.match
    console.rule(f"step {step} · match {match.id} · {match.game} · seed {match.seed}", style="bold")
    for number, turn in enumerate(episode.turns):
        style = ("cyan", "magenta")[turn.role]
        console.print(Text(f"turn {number}, player {turn.role} ({match.players[turn.role]}) sees", f"{style} bold"))
        console.print(Text(turn.observation, "dim"))
        verdict = "" if turn.legal else f"  illegal: {turn.error}"
        console.print(Text.assemble(("writes ", style), turn.text, (verdict, "red")))
    forfeit = "" if episode.forfeit_by is None else f" by player {episode.forfeit_by}"
    returns = ", ".join(f"player {role} {value:+g}" for role, value in enumerate(episode.returns))
    console.print(Text(f"{episode.end_reason}{forfeit}: {returns}\n", "bold"))
