"""`spiral view`, driven by key presses, over run directories with real matches."""

import asyncio
import dataclasses
import json
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from textual.pilot import Pilot
from textual.widgets import DataTable, HelpPanel, Input, OptionList, Static, TabbedContent

from spiral.config import UserError
from spiral.game import make
from spiral.monitor.view import view
from spiral.monitor.view.app import ViewApp
from spiral.monitor.view.chart import Chart, Series, draw, stack
from spiral.monitor.view.feed import RunFeed
from spiral.monitor.view.match_list import MatchList
from spiral.monitor.view.match_screen import MatchScreen
from spiral.monitor.view.panels import panels
from spiral.storage.episode_files import EpisodeFiles
from spiral.storage.run_lock import locked
from spiral.types import Episode, Turn
from tests.builders import episode, match, sampled

KUHN = "kuhn_poker"


def play(match_id: int, seed: int, actions: Sequence[str]) -> Episode:
    """A real match of Kuhn poker between copies of the policy."""
    game = make(KUHN, seed)
    turns: list[Turn] = []
    for action in actions:
        role = game.role_to_move()
        assert role is not None
        text = f"I think <b>[red] so [{action}]"
        turns.append(sampled(role, (match_id, len(turns)), observation=game.observe(role), text=text, action=action))
        game.step(action)
    value = game.returns()[0] / game.spec.max_return
    return episode(match_id, turns, (value, -value), game=KUHN, seed=seed)


def forfeited(match_id: int) -> Episode:
    turn = sampled(0, text="\x1b[31m[x]\u202e", action="x", legal=False)
    return episode(match_id, [turn], (-1.0, 1.0), game="nim", end_reason="forfeit", forfeit_by=0)


def append(run_dir: Path, step: int, **metrics: float) -> None:
    with (run_dir / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": step, **metrics}) + "\n")


def add_step(run_dir: Path, step: int, episodes: Sequence[Episode]) -> None:
    """A step with its row and its episodes: advantages are 0.25, ratios 1.5."""
    num_turns = sum(len(one.turns) for one in episodes)
    figures = (np.full(num_turns, value, np.float32) for value in (0.25, 1.5))
    EpisodeFiles(run_dir).write(step, episodes, *figures)
    metrics = {"rollout/illegal_rate": 0.5 / step, "perf/step_s": 4.0, "perf/rollout_s": 3.0, "perf/learn_s": 1.0}
    append(run_dir, step, **metrics, **{"train/rho_p50": 1.0, "game/kuhn_poker/draw_rate": 0.0})


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    directory = tmp_path / "runs" / "demo"
    directory.mkdir(parents=True)
    (directory / "config.yaml").write_text("steps: 9\n")
    append(directory, 0, **{"eval/kuhn_poker/nash_conv": 0.9})
    add_step(directory, 1, [play(0, 3, ["check", "check"])])
    add_step(directory, 2, [play(1, 3, ["check", "bet", "call"]), forfeited(2), play(3, 4, ["bet", "fold"])])
    return directory


def drive(run_dir: Path, script: Callable[[ViewApp, Pilot[None]], Awaitable[None]], size: tuple[int, int]) -> None:
    async def main() -> None:
        app = ViewApp(run_dir)
        async with app.run_test(size=size) as pilot:
            await until(pilot, lambda: len(cells(app, 0)) > 0)
            await script(app, pilot)

    asyncio.run(main())


async def until(pilot: Pilot[None], condition: Callable[[], bool]) -> None:
    """Wait until something that a thread does has happened."""
    for _ in range(600):
        if condition():
            return
        await pilot.pause(0.05)
    raise AssertionError("it did not happen")


def shown(app: ViewApp, selector: str) -> str:
    return str(app.screen.query_one(selector, Static).render())


def cells(app: ViewApp, column: int) -> list[str]:
    table = app.screen_stack[0].query_one(MatchList).query_one(DataTable)
    return [str(table.get_row_at(row)[column]) for row in range(table.row_count)]


# --- the app


@pytest.mark.parametrize("size", [(80, 24), (160, 50)])
def test_the_curves_of_the_run_are_drawn(run_dir: Path, size: tuple[int, int]) -> None:
    async def script(app: ViewApp, pilot: Pilot[None]) -> None:
        assert shown(app, "#head").startswith("demo interrupted · step 2/9")
        titles = [str(chart.render()).partition("\n")[0] for chart in app.query("#grid Chart").results(Chart)]
        assert titles[0].startswith("kuhn_poker: NashConv 0.9")
        assert any(title.startswith("illegal, forfeit 0.25") for title in titles)
        for chart in app.query("#grid Chart").results(Chart):
            await until(pilot, lambda chart=chart: chart.size.width >= 30 and chart.size.height == 9)

    drive(run_dir, script, size)


def test_new_steps_appear_while_the_run_goes_on(run_dir: Path) -> None:
    async def script(app: ViewApp, pilot: Pilot[None]) -> None:
        await pilot.press("3")
        with locked(run_dir):
            add_step(run_dir, 3, [play(7, 5, ["bet", "call"])])
            await until(pilot, lambda: shown(app, "#head").startswith("demo running · step 3/9"))
            await until(pilot, lambda: cells(app, 0) == ["7"])

    drive(run_dir, script, (100, 30))


def test_an_older_step_stays_when_a_new_one_comes(run_dir: Path) -> None:
    async def script(app: ViewApp, pilot: Pilot[None]) -> None:
        await pilot.press("3", "left_square_bracket")
        await until(pilot, lambda: cells(app, 0) == ["0"])
        add_step(run_dir, 3, [play(7, 5, ["bet", "call"])])
        await until(pilot, lambda: shown(app, "#head").startswith("demo interrupted · step 3/9"))
        await pilot.pause()
        assert cells(app, 0) == ["0"]
        assert "step 1 of 3" in shown(app, "#filters")

    drive(run_dir, script, (100, 30))


def test_matches_are_filtered_by_game_end_and_illegal_turns(run_dir: Path) -> None:
    async def script(app: ViewApp, pilot: Pilot[None]) -> None:
        await pilot.press("3")
        assert cells(app, 0) == ["1", "2", "3"]
        await pilot.press("g")
        assert (cells(app, 0), cells(app, 1)) == (["1", "3"], [KUHN, KUHN])
        await pilot.press("g")
        assert cells(app, 0) == ["2"]
        await pilot.press("g", "e", "e")
        assert (cells(app, 0), cells(app, 5)) == (["2"], ["forfeit"])
        await pilot.press("e", "i")
        assert cells(app, 0) == ["2"]
        assert "only illegal" in shown(app, "#filters")

    drive(run_dir, script, (100, 30))


def test_both_seats_of_a_match_are_stepped_through(run_dir: Path) -> None:
    async def script(app: ViewApp, pilot: Pilot[None]) -> None:
        await pilot.press("3", "enter")
        await until(pilot, lambda: isinstance(app.screen, MatchScreen))
        cards = [make(KUHN, 3).observe(role) for role in (0, 1)]
        await until(pilot, lambda: cards[1].splitlines()[0] in shown(app, "#view1"))  # it has been played again
        assert cards[0].splitlines()[0] in shown(app, "#view0")
        assert cards[0].splitlines()[0] not in shown(app, "#view1")
        assert "turn 1 of 3" in shown(app, "#heading")
        assert "I think <b>[red] so [check]" in shown(app, "#text")
        title = str(app.screen.query_one("#answer").border_title)
        for part in ("player 0 writes", "version 0", "advantage +0.250", "ratio 1.500"):
            assert part in title
        await pilot.press("right")
        assert "player 1 writes" in str(app.screen.query_one("#answer").border_title)
        assert app.screen.query_one("#seat1").has_class("to-move")
        await pilot.press("end")
        assert "the end" in shown(app, "#heading")
        await pilot.press("left")
        assert "turn 3 of 3" in shown(app, "#heading")
        await pilot.press("n")
        await until(pilot, lambda: "match 2" in shown(app, "#heading"))
        assert "<U+001B>[31m[x]<U+202E>" in shown(app, "#text"), "what a model writes does not reach the terminal"
        assert "illegal: no" in shown(app, "#text")
        await pilot.press("escape")
        await until(pilot, lambda: not isinstance(app.screen, MatchScreen))
        assert app.query_one(MatchList).query_one(DataTable).cursor_row == 1

    drive(run_dir, script, (80, 24))


def test_any_metric_is_found_and_drawn(run_dir: Path) -> None:
    async def script(app: ViewApp, pilot: Pilot[None]) -> None:
        await pilot.press("2")
        app.query_one("#filter", Input).focus()
        await pilot.press(*"illegal")
        await until(pilot, lambda: app.query_one("#keys", OptionList).option_count == 1)
        await until(
            pilot, lambda: str(app.query_one("#metric", Chart).render()).startswith("rollout/illegal_rate 0.25")
        )

    drive(run_dir, script, (100, 30))


def test_another_run_is_chosen(run_dir: Path) -> None:
    other = run_dir.parent / "other"
    other.mkdir()
    (other / "config.yaml").write_text("steps: 5\n")
    append(other, 5, **{"eval/kuhn_poker/nash_conv": 0.125})
    (other / "metrics.jsonl").touch()

    async def script(app: ViewApp, pilot: Pilot[None]) -> None:
        table = app.query_one("#all_runs", DataTable)
        await pilot.press("4")
        await until(pilot, lambda: table.row_count == 2)
        names = [str(table.get_row_at(row)[0]) for row in range(2)]
        await pilot.press(*["down"] * names.index("other"), "enter")
        await until(pilot, lambda: shown(app, "#head").startswith("other finished · step 5/5"))
        assert app.query_one(TabbedContent).active == "curves"

    drive(run_dir, script, (100, 30))


def test_help_lists_the_keys(run_dir: Path) -> None:
    async def script(app: ViewApp, pilot: Pilot[None]) -> None:
        await pilot.press("3", "question_mark")
        assert app.screen.query(HelpPanel)
        await pilot.press("question_mark")
        assert not app.screen.query(HelpPanel)

    drive(run_dir, script, (100, 30))


# --- what it is made of


def test_rows_are_read_on_and_a_resumed_run_is_read_anew(run_dir: Path) -> None:
    feed = RunFeed(run_dir)
    assert feed.poll()
    assert not feed.poll()
    with (run_dir / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "x"')
        file.flush()
        assert not feed.poll(), "the row is not complete"
        file.write(": 1}\n")
    assert feed.poll()
    assert feed.series("x") == [(3, 1)]
    rows = (run_dir / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run_dir / "new").write_text("".join(rows[:2]))
    (run_dir / "new").replace(run_dir / "metrics.jsonl")
    assert feed.poll()
    assert [row["step"] for row in feed.rows] == [0, 1]


def test_a_damaged_row_is_reported(run_dir: Path) -> None:
    feed = RunFeed(run_dir)
    with (run_dir / "metrics.jsonl").open("a") as file:
        file.write("what\n")
    feed.poll()
    assert feed.problem is not None
    assert "is damaged" in feed.problem


def test_a_rising_curve_is_drawn_from_corner_to_corner() -> None:
    lines = draw([Series("y", [(0, 0.0), (10, 5.0)])], width=14, height=4).plain.splitlines()
    assert lines[0].startswith("       5│")
    assert lines[2].startswith("       0│")
    assert ord(lines[0][-1]) & 0x08, "the dot at the top right"
    assert ord(lines[2][9]) & 0x40, "the dot at the bottom left"
    assert ord(lines[0][9]) == ord(lines[2][-1]) == 0x2800, "the other corners are empty"
    assert lines[3] == "        └0  10"


def test_stacked_curves_add_up() -> None:
    first, second = Series("a", [(0, 1.0), (1, 2.0)]), Series("b", [(0, 3.0), (1, 4.0)])
    assert [one.points for one in stack([first, second])] == [[(0, 4.0), (1, 6.0)], [(0, 1.0), (1, 2.0)]]


@pytest.mark.parametrize("points", [[], [(3, 1.0)], [(0, 2.0), (1, 2.0)]])
def test_few_or_equal_values_are_no_problem(points: list[tuple[float, float]]) -> None:
    assert draw([Series("x", points)], 20, 5).plain


def test_panels_are_those_of_which_there_are_metrics() -> None:
    keys = ["eval/textarena/X-v0/vs_random/score", "eval/k/nash_conv", "game/k/draw_rate", "game/k/entropy", "train/kl"]
    assert [panel.title for panel in panels(keys)] == ["k: NashConv", "X: return vs random", "entropy"]


def test_without_textual_the_error_says_what_to_install(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "textual", None)
    monkeypatch.setattr("spiral.monitor.view.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install textual"):
        view(run_dir)


def test_no_run_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no run"):
        view(tmp_path)


def test_a_value_that_is_not_finite_is_not_drawn(run_dir: Path) -> None:
    append(run_dir, 3, **{"train/rho_p50": float("nan"), "perf/step_s": float("inf")})
    feed = RunFeed(run_dir)
    feed.poll()
    assert feed.series("train/rho_p50") == [(1, 1.0), (2, 1.0)]
    assert "train/rho_p50" in feed.keys


def test_a_problem_that_was_solved_is_forgotten(run_dir: Path) -> None:
    feed = RunFeed(run_dir)
    feed.poll()
    sound = (run_dir / "metrics.jsonl").read_text()
    (run_dir / "metrics.jsonl").write_text(sound + "{}\n")
    feed.poll()
    assert feed.problem is not None and "line 4 is damaged" in feed.problem
    (run_dir / "metrics.jsonl").write_text(sound)
    append(run_dir, 3)
    feed.poll()
    assert (feed.problem, len(feed.rows)) == (None, 4)


def test_labels_of_players_are_no_markup(run_dir: Path) -> None:
    label = "my_players:plan:[/red][b]"
    add_step(
        run_dir, 3, [dataclasses.replace(play(9, 3, ["check", "check"]), match=match(9, KUHN, 3, ("policy", label)))]
    )

    async def script(app: ViewApp, pilot: Pilot[None]) -> None:
        await pilot.press("3")
        await until(pilot, lambda: cells(app, 0) == ["9"])
        await pilot.pause()
        drawn = "\n".join(strip.text for strip in app.screen._compositor.render_strips())
        assert label in drawn

    drive(run_dir, script, (140, 30))
