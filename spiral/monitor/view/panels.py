"""Which curves are shown together: the ones to look at first (docs/monitoring.md)."""

from collections.abc import Sequence
from typing import NamedTuple

from spiral.monitor.console import short
from spiral.monitor.time_budget import STAGES


class Panel(NamedTuple):
    """A chart: its title, (name in the legend, metric) of each curve, and whether they are stacked."""

    title: str
    curves: tuple[tuple[str, str], ...]
    is_stack: bool = False


def panels(keys: Sequence[str]) -> list[Panel]:
    """The panels for a run that has these metrics; a panel without any metric is left out."""
    games = sorted({key.removeprefix("game/").removesuffix("/draw_rate") for key in keys if key.endswith("/draw_rate")})
    strength = []
    for key in keys:
        parts = key.removeprefix("eval/").split("/")
        if key.startswith("eval/") and parts[-1] == "nash_conv":
            strength.append(Panel(f"{short('/'.join(parts[:-1]))}: NashConv", ((key, key),)))
        elif key.startswith("eval/") and parts[-1] == "score":
            title = f"{short('/'.join(parts[:-2]))}: return {parts[-2].replace('_', ' ', 1)}"
            strength.append(Panel(title, ((key, key),)))
    by_game = [(short(game), game) for game in games]
    health = [
        Panel("illegal, forfeit", (("illegal", "rollout/illegal_rate"), ("forfeit", "rollout/forfeit_rate"))),
        Panel("entropy", tuple((name, f"game/{game}/entropy") for name, game in by_game)),
        Panel("importance ratio", tuple((f"p{p}", f"train/rho_p{p}") for p in (10, 50, 90))),
        Panel("seconds of a step", tuple((stage, f"perf/{stage}_s") for stage in STAGES), is_stack=True),
        Panel("busy", (("engines", "perf/generator_busy"), ("learner", "perf/learner_busy"))),
        Panel("KL per turn", tuple((name, f"game/{game}/kl") for name, game in by_game)),
        Panel("top opening", tuple((name, f"game/{game}/top_opening_rate") for name, game in by_game)),
    ]
    strength.sort(key=lambda panel: not panel.title.endswith("NashConv"))
    known = set(keys)
    kept = (p._replace(curves=tuple(curve for curve in p.curves if curve[1] in known)) for p in [*strength, *health])
    return [panel for panel in kept if panel.curves]
