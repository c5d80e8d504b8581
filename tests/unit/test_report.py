"""What a person sees: the plot, the dashboard, the summary, and replayed episodes."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from spiral.config import Config, UserError
from spiral.monitor.console import Dashboard, short, summary
from spiral.monitor.plot import plot
from spiral.monitor.replay import show
from spiral.storage.episode_files import EpisodeFiles
from spiral.types import Episode
from tests.builders import episode as played
from tests.builders import sampled, scripted


@contextmanager
def live(dashboard: Dashboard) -> Iterator[Dashboard]:
    dashboard.start()
    yield dashboard
    dashboard.stop()


CONFIG = Config.model_validate(
    {
        "steps": 60,
        "model": {"name": "builtin/tiny"},
        "games": [{"id": "kuhn_poker"}, {"id": "textarena/TicTacToe-v0"}],
        "run": {"name": "demo"},
    }
)
FIRST = {
    "step": 0,
    "policy_version": 0,
    "eval/kuhn_poker/nash_conv": 0.9167,
    "eval/kuhn_poker/vs_random/score": -0.125,
    "eval/kuhn_poker/vs_random/ci95": 0.04,
}
PLAIN = {"step": 1, "policy_version": 1, "rollout/illegal_rate": 0.123, "perf/generated_tokens_per_s": 12345.6}
LAST = {
    "step": 5,
    "policy_version": 5,
    "rollout/illegal_rate": 0.005,
    "eval/kuhn_poker/nash_conv": 0.25,
    "eval/kuhn_poker/vs_random/score": 0.375,
    "eval/kuhn_poker/vs_random/ci95": 0.03,
}


def plain_console(width: int = 100) -> tuple[Console, StringIO]:
    out = StringIO()
    return Console(file=out, width=width), out


# --- plot ------------------------------------------------------------------------------------------------------------


def is_png(path: Path) -> bool:
    return path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_one_run_is_plotted(tmp_path: Path) -> None:
    path = tmp_path / "plot.png"
    assert plot({"demo": [FIRST, PLAIN, LAST]}, path) == path
    assert is_png(path)


def test_two_runs_with_other_evaluations_are_plotted_into_one_picture(tmp_path: Path) -> None:
    other = [{"step": 0, "eval/leduc/nash_conv": 4.7}, {"step": 5, "eval/leduc/nash_conv": 3.1}]
    one, two = tmp_path / "one.png", tmp_path / "two.png"
    plot({"demo": [FIRST, LAST]}, one)
    assert plot({"demo": [FIRST, LAST], "other": other}, two) == two
    assert is_png(two)
    assert width(two) == pytest.approx(width(one) * 3 / 2, abs=2)  # three panels in place of two


def width(path: Path) -> int:
    return int.from_bytes(path.read_bytes()[16:20], "big")


def test_a_score_without_an_interval_is_plotted(tmp_path: Path) -> None:
    rows = [{"step": 0, "eval/x/vs_random/score": 0.5, "eval/x/vs_random/ci95": float("inf")}]
    path = tmp_path / "plot.png"
    assert plot({"demo": rows}, path) == path
    assert is_png(path)


@pytest.mark.parametrize("rows", [[], [PLAIN]])
def test_a_run_without_evaluations_has_no_plot(tmp_path: Path, rows: list[dict[str, float]]) -> None:
    assert plot({"demo": rows}, tmp_path / "plot.png") is None
    assert list(tmp_path.iterdir()) == []


# --- dashboard -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("game_id", "shown"),
    [("kuhn_poker", "kuhn_poker"), ("textarena/TicTacToe-v0", "TicTacToe"), ("my.games:Chess", "Chess")],
)
def test_a_game_id_is_shortened_for_a_heading(game_id: str, shown: str) -> None:
    assert short(game_id) == shown


def test_without_a_terminal_every_step_is_one_line_of_names_and_values() -> None:
    console, out = plain_console()
    with live(Dashboard(CONFIG, ["kuhn_poker"], 0, console)) as dashboard:
        dashboard.status("playing")
        dashboard.row(FIRST)
        dashboard.row(PLAIN)
    first, second = out.getvalue().splitlines()
    assert first.startswith("step 0/60  kuhn_poker NashConv 0.917  kuhn_poker vs random -0.12±0.04")
    assert second.startswith("step 1/60  ")
    assert "illegal 12.3%" in second
    assert "sampled tok/s 12,346" in second


def test_a_value_is_shown_until_it_is_measured_again() -> None:
    console, out = plain_console()
    with live(Dashboard(CONFIG, ["kuhn_poker"], 0, console)) as dashboard:
        dashboard.row(FIRST)
        dashboard.row(PLAIN)
    assert out.getvalue().count("0.917") == 2


def test_a_value_that_was_never_measured_is_a_dash() -> None:
    console, out = plain_console()
    with live(Dashboard(CONFIG, ["kuhn_poker"], 0, console)) as dashboard:
        dashboard.row(PLAIN)
    assert "NashConv -" in out.getvalue()


def test_columns_follow_the_configured_evaluations() -> None:
    config = CONFIG.model_copy(update={"eval": CONFIG.eval.model_copy(update={"every": 0})})
    console, out = plain_console()
    with live(Dashboard(config, ["kuhn_poker"], 0, console)) as dashboard:
        dashboard.row(FIRST)
    assert "NashConv" not in out.getvalue()
    assert "illegal" in out.getvalue()


def test_the_time_left_is_unknown_at_first_and_zero_at_the_end() -> None:
    console, out = plain_console()
    with live(Dashboard(CONFIG, [], 58, console)) as dashboard:
        dashboard.row({"step": 58})
        dashboard.row({"step": 60})
    text = out.getvalue()
    assert re.findall(r"left (\S+)", text) == ["-", "0:00"]


def test_messages_are_printed_verbatim() -> None:
    console, out = plain_console(width=40)
    with live(Dashboard(CONFIG, [], 0, console)) as dashboard:
        dashboard.say("resumed from runs/[v2] quickstart/checkpoints/step_000100")
    assert out.getvalue() == "resumed from runs/[v2] quickstart/checkpoints/step_000100\n"


def test_a_terminal_shows_a_table_with_the_newest_values() -> None:
    out = StringIO()
    console = Console(file=out, force_terminal=True, width=140, color_system=None)
    with live(Dashboard(CONFIG, ["kuhn_poker"], 0, console)) as dashboard:
        dashboard.row(FIRST)
        dashboard.status("step 1: learning")
        dashboard.row(PLAIN)
        dashboard.row(LAST)
    shown = out.getvalue().rsplit("demo", 1)[-1]  # the last picture, from its title on
    assert "NashConv" in shown
    assert "vs random" in shown
    for value in ("0/60", "1/60", "5/60", "0.917", "-0.12±0.04", "0.250", "+0.38±0.03", "12.3%", "0.5%", "12,346"):
        assert value in shown


def test_a_terminal_shows_the_newest_fifteen_steps() -> None:
    out = StringIO()
    console = Console(file=out, force_terminal=True, width=140, height=60, color_system=None)
    with live(Dashboard(CONFIG, [], 0, console)) as dashboard:
        for step in range(1, 21):
            dashboard.row({"step": step})
    shown = out.getvalue().rsplit("demo", 1)[-1]
    assert re.findall(r"(\d+)/60", shown) == [str(step) for step in range(6, 21)]


STEP = {"perf/step_s": 4.0, "perf/rollout_s": 2.0, "perf/learn_s": 1.5, "perf/sync_s": 0.25, "perf/other_s": 0.25}


def test_the_time_of_a_step_is_split() -> None:
    console, out = plain_console()
    with live(Dashboard(CONFIG, [], 0, console)) as dashboard:
        dashboard.row({"step": 1} | STEP | {"perf/games_per_hour": 734400.0})
    assert "games/h 734,400" in out.getvalue()
    assert out.getvalue().endswith("left -  play 50%  learn 38%  sync 6%  other 6%\n")


def terminal(width: int = 80, height: int = 24) -> tuple[Console, StringIO]:
    out = StringIO()
    return Console(file=out, force_terminal=True, width=width, height=height, color_system=None), out


def picture(out: StringIO) -> list[str]:
    """The lines of the last picture of the live table, from its title on."""
    return re.sub(r"\x1b\[[0-9?]*[A-Za-z]", "", out.getvalue().rsplit("demo", 1)[-1]).splitlines()[1:]


@pytest.mark.parametrize("width", [40, 60, 80, 100])
def test_the_live_table_fits_the_terminal(width: int) -> None:
    console, out = terminal(width)
    with live(Dashboard(CONFIG, ["kuhn_poker"], 0, console)) as dashboard:
        for step in range(1, 31):
            dashboard.row(LAST | STEP | {"step": step, "perf/games_per_hour": 734400.0})
        dashboard.say("alarm: train/entropy is 0.004 at step 30, below 0.01; the policy hardly explores: raise kl_coef")
        dashboard.status("step 31: " + "waiting " * 20)
    lines = picture(out)
    assert max(map(len, lines)) <= width
    assert len(lines) <= 24
    assert sum("/60" in line for line in lines) == 15, "every step takes one line"


def test_of_the_columns_the_baselines_are_left_out_first() -> None:
    console, out = terminal(80)
    with live(Dashboard(CONFIG, ["kuhn_poker"], 0, console)) as dashboard:
        dashboard.row(LAST | PLAIN | STEP | {"perf/games_per_hour": 734400.0})
    headings = " ".join(picture(out)[:2])
    for heading in ("NashConv", "vs random", "illegal", "tok/s", "games/h", "left"):
        assert heading in headings
    assert headings.count("base 0") == 1


def test_a_low_terminal_shows_fewer_steps() -> None:
    console, out = terminal(height=14)
    with live(Dashboard(CONFIG, [], 0, console)) as dashboard:
        for step in range(1, 21):
            dashboard.row({"step": step})
    assert [line.split()[0] for line in picture(out) if "/60" in line] == [f"{step}/60" for step in range(15, 21)]


def test_a_warning_is_printed_and_stays_below_the_table() -> None:
    console, out = terminal()
    with live(Dashboard(CONFIG, [], 0, console)) as dashboard:
        dashboard.row({"step": 1})
        dashboard.say("warning: monitor.sinks 'wandb': row() failed")
        dashboard.say("starting generator_0")
        dashboard.say("alarm: train/kl is 12 at step 2")
        for step in range(2, 40):
            dashboard.row({"step": step})
    for said in ("warning: monitor.sinks 'wandb': row() failed", "alarm: train/kl is 12 at step 2"):
        assert f"{said}\n" in out.getvalue().rsplit("demo", 1)[0]
    assert "2 warnings, the newest: alarm: train/kl is 12 at step 2" in "\n".join(picture(out))


# --- summary ---------------------------------------------------------------------------------------------------------


def test_the_summary_compares_the_first_and_the_last_evaluation() -> None:
    console, out = plain_console()
    console.print(summary([FIRST, PLAIN, LAST]))
    lines = [" ".join(line.replace("│", " ").replace("┃", " ").split()) for line in out.getvalue().splitlines()]
    assert "step 0 step 5" in lines
    assert "kuhn_poker/nash_conv 0.9167 0.2500" in lines
    assert "kuhn_poker/vs_random/score -0.125±0.04 +0.375±0.03" in lines
    assert not any("ci95" in line for line in lines)


@pytest.mark.parametrize("rows", [[], [PLAIN], [FIRST, PLAIN]])
def test_without_two_evaluations_there_is_no_summary(rows: list[dict[str, float]]) -> None:
    assert summary(rows) is None


# --- replay ----------------------------------------------------------------------------------------------------------


def episode(match_id: int, game: str = "kuhn_poker", text: str = "[bet]") -> Episode:
    turns = (
        sampled(0, observation="You hold the king [K].", text=text),
        scripted(1, observation="Player 0 bets.", text="[rise]", error="'rise' is no action."),
    )
    players = ("policy", "random")
    return played(match_id, turns, (1.0, -1.0), game=game, seed=77, players=players, end_reason="forfeit", forfeit_by=1)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    files = EpisodeFiles(tmp_path)
    files.write(1, [episode(0)])
    files.write(2, [episode(3), episode(4, "textarena/TicTacToe-v0"), episode(5), episode(6)])
    return tmp_path


def shown(run_dir: Path, step: int | None = None, game: str | None = None, count: int = 3) -> str:
    console, out = plain_console()
    show(run_dir, step, game, count, console)
    return out.getvalue()


def matches_in(text: str) -> list[int]:
    return [int(found) for found in re.findall(r"match (\d+) ·", text)]


def test_replay_shows_observations_answers_errors_and_result(run_dir: Path) -> None:
    text = shown(run_dir, step=1)
    assert "step 1 · match 0 · kuhn_poker · seed 77" in text
    assert "turn 0, player 0 (policy) sees\nYou hold the king [K].\nwrites [bet]\n" in text
    assert "turn 1, player 1 (random) sees\nPlayer 0 bets.\nwrites [rise]  illegal: 'rise' is no action.\n" in text
    assert "forfeit by player 1: player 0 +1, player 1 -1" in text


@pytest.mark.parametrize("text", ["[/bold] [red]x[/red]", r"\boxed{4} \[a]", "see :cat: and :x:", "so \\", "[link=x]y"])
def test_replay_shows_text_exactly_as_it_was_written(tmp_path: Path, text: str) -> None:
    EpisodeFiles(tmp_path).write(1, [episode(0, text=text)])
    assert f"\nwrites {text}\n" in shown(tmp_path)


def test_replay_shows_the_newest_step_by_default(run_dir: Path) -> None:
    assert matches_in(shown(run_dir)) == [3, 4, 5]


def test_replay_shows_the_requested_number_of_episodes(run_dir: Path) -> None:
    assert matches_in(shown(run_dir, count=1)) == [3]
    assert matches_in(shown(run_dir, count=9)) == [3, 4, 5, 6]


def test_replay_can_be_limited_to_one_game(run_dir: Path) -> None:
    assert matches_in(shown(run_dir, game="textarena/TicTacToe-v0")) == [4]


def test_replay_of_a_directory_without_episodes_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no episodes; expected a run directory"):
        shown(tmp_path / "none")


def test_replay_of_an_unknown_step_names_the_existing_ones(run_dir: Path) -> None:
    with pytest.raises(UserError, match="has no episodes of step 7; it has steps 1 to 2"):
        shown(run_dir, step=7)


def test_replay_of_an_unknown_game_names_the_existing_ones(run_dir: Path) -> None:
    with pytest.raises(UserError, match="has no episode of 'chess'; it has kuhn_poker, textarena/TicTacToe-v0"):
        shown(run_dir, game="chess")
