"""Each signature has its levels, is silent in a healthy run, and is said once; actions escalate."""

import json
from pathlib import Path

import pytest

from spiral.config import UserError, WatchdogConfig, load_config
from spiral.config.watchdog import Action
from spiral.monitor.best import Best
from spiral.monitor.watchdog import Entry, Escalation, Finding, Watchdog, WatchdogLog
from spiral.monitor.watchdog.signatures import SIGNATURES, WINDOW

KUHN = {"kuhn_poker": 2.0}
HEALTHY = Path(__file__).parent / "recorded" / "quickstart.jsonl"
Row = dict[str, float]
CALM: Row = {
    "train/rho_mean": 1.0,
    "train/kl": 0.1,
    "train/entropy": 0.4,
    "train/logprob_diff_max": 1e-5,
    "rollout/illegal_rate": 0.01,
    "rollout/forfeit_rate": 0.0,
    "rollout/completion_tokens_mean": 200.0,
    "game/g/draw_rate": 0.1,
    "game/g/top_opening_rate": 0.4,
    "game/g/role0/return_mean": 0.1,
    "game/g/role1/return_mean": -0.1,
    "league/win_rate_mean": 0.48,
    "league/win_rate_mean_ci95": 0.05,
    "eval/kuhn_poker/nash_conv": 0.15,
    "best/kuhn_poker/nash_conv": 0.1,
}
ONE_ROW = {
    "entropy": ({"train/entropy": 0.015}, {"train/entropy": 0.004}),
    "kl": ({"train/kl": 7.0}, {"train/kl": 12.0}),
    "ratio": ({"train/rho_mean": 0.6}, {"train/rho_mean": 3.0}),
    "mismatch": ({"train/logprob_diff_max": 0.5}, {"train/logprob_diff_max": 1.5}),
    "past": ({"league/win_rate_mean": 0.38}, {"league/win_rate_mean": 0.3}),
    "nash_conv": ({"eval/kuhn_poker/nash_conv": 0.25}, {"eval/kuhn_poker/nash_conv": 0.4}),
}
AVERAGED: dict[str, tuple[Row, Row | None]] = {
    "noise": ({"train/entropy": 1.6}, {"train/entropy": 3.0}),
    "illegal": ({"rollout/illegal_rate": 0.2}, {"rollout/forfeit_rate": 0.4}),
    "short": ({"rollout/completion_tokens_mean": 40.0}, {"rollout/completion_tokens_mean": 8.0}),
    "one_role": ({"game/g/role0/return_mean": -0.95, "game/g/role1/return_mean": 0.95}, None),
    "draws": ({"game/g/draw_rate": 0.97}, None),
    "alike": ({"game/g/top_opening_rate": 1.0}, None),
}


def watch(*rows: Row, config: WatchdogConfig | None = None) -> tuple[list[Row], list[Finding]]:
    """The levels of each row, of steps 1, 2, ..., and everything that was found."""
    watchdog = Watchdog(config or WatchdogConfig(), KUHN)
    looks = [watchdog.look({"step": step, **row}) for step, row in enumerate(rows, start=1)]
    return [levels for levels, _ in looks], [finding for _, new in looks for finding in new]


def test_the_levels_of_a_calm_row() -> None:
    levels, found = watch(*[CALM] * WINDOW)
    assert found == []
    assert levels[0] == {f"watchdog/{name}": 0 for name in ONE_ROW}
    assert levels[-1] == {f"watchdog/{signature.name}": 0 for signature in SIGNATURES}


def test_every_signature_is_tested() -> None:
    assert ONE_ROW.keys() | AVERAGED.keys() == {signature.name for signature in SIGNATURES}


@pytest.mark.parametrize("name", ONE_ROW)
def test_a_signature_of_one_row(name: str) -> None:
    warning, alarm = ONE_ROW[name]
    levels, found = watch(CALM, {**CALM, **warning}, {**CALM, **alarm}, CALM)
    assert [row[f"watchdog/{name}"] for row in levels] == [0, 1, 2, 0]
    assert [(f.name, f.level, f.step) for f in found] == [(name, 1, 2), (name, 2, 3)]


@pytest.mark.parametrize("name", AVERAGED)
def test_a_signature_of_several_rows(name: str) -> None:
    """Steps 1 to 5 are calm, and the mean of 6 to 10 is that of the new value."""
    for level, changed in enumerate(AVERAGED[name], start=1):
        if changed is not None:
            levels, found = watch(*[CALM] * WINDOW, *[{**CALM, **changed}] * WINDOW)
            assert levels[-1][f"watchdog/{name}"] == level
            assert {f.name for f in found} == {name}
            assert levels[WINDOW - 1][f"watchdog/{name}"] == 0


def test_a_single_bad_step_is_not_a_trend() -> None:
    bad = {**CALM, "rollout/illegal_rate": 0.5, "game/g/draw_rate": 1.0, "rollout/completion_tokens_mean": 40.0}
    assert watch(*[CALM] * WINDOW, bad, *[CALM] * WINDOW)[1] == []


def test_an_entropy_that_falls_fast_is_no_rise() -> None:
    assert watch(*({**CALM, "train/entropy": 5 * 0.6**step} for step in range(9)))[1] == []


def test_the_entropy_of_a_collapse_without_a_kl_term_is_an_alarm_within_ten_steps() -> None:
    """The first rows of a run of `spiral train quickstart learner.kl_coef=0`."""
    entropies = (1.234, 5.508, 5.803, 5.928, 5.695, 5.581, 5.605, 5.591)
    levels, _ = watch(*({**CALM, "train/entropy": entropy} for entropy in entropies))
    assert [row.get("watchdog/noise") for row in levels] == [*[None] * 4, 0, 2, 2, 2]


def test_a_seat_is_told_from_skill() -> None:
    """Against a weak opponent the policy wins in both seats: nothing is wrong."""
    wins = {**CALM, "game/g/role0/return_mean": 1.0, "game/g/role1/return_mean": 1.0}
    assert watch(*[wins] * 9)[1] == []


def test_bare_answers_cannot_lose_their_reasoning() -> None:
    """An untrained model that rambles up to max_tokens=8 learns to answer in two."""
    tokens = "rollout/completion_tokens_mean"
    levels, found = watch(*[{tokens: 8.0}] * WINDOW, *[{tokens: 0.5}] * WINDOW)
    assert found == [] and "watchdog/short" not in levels[-1]


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("train/entropy", 0.004, "alarm: train/entropy is 0.004 at step 1, below 0.01; the policy hardly explores"),
        ("train/rho_mean", 0.2, "alarm: the factor between train/rho_mean and 1 is 5 at step 1, above 2; samples are"),
        ("train/rho_mean", 0.0, "alarm: the factor between train/rho_mean and 1 is inf at step 1, above 2; samples"),
        (
            "eval/kuhn_poker/nash_conv",
            0.6,
            "alarm: the rise of eval/kuhn_poker/nash_conv, as a share of max_return, is 0.25 at step 1, above 0.1",
        ),
    ],
)
def test_a_finding_names_metric_value_level_and_cure(key: str, value: float, text: str) -> None:
    (finding,) = watch({**CALM, key: value})[1]
    assert finding.text.startswith(text)


def test_levels_are_those_of_the_config_and_null_is_never() -> None:
    row = {**CALM, "train/entropy": 0.001, "train/kl": 0.2}
    _, found = watch(row, config=WatchdogConfig(kl=(None, 0.15), entropy=(None, None)))
    assert [(finding.name, finding.level) for finding in found] == [("kl", 2)]


def test_illegal_answers_from_the_second_step_on_are_an_alarm() -> None:
    """The lowest mean of five rows would be 0.8: nothing that follows is much above it."""
    levels, found = watch(CALM, *[{**CALM, "rollout/illegal_rate": 1.0}] * WINDOW)
    assert [row.get("watchdog/illegal") for row in levels] == [None] * (WINDOW - 1) + [2, 2]
    assert [finding.level for finding in found if finding.name == "illegal"] == [2]


def test_few_matches_against_past_selves_prove_no_loss() -> None:
    few = {**CALM, "league/win_rate_mean": 0.2, "league/win_rate_mean_ci95": 0.28}
    assert watch(few)[1] == []


def test_a_finding_is_said_once_until_something_is_done() -> None:
    watchdog, bad = Watchdog(WatchdogConfig(), {}), {"train/kl": 12.0}
    assert len(watchdog.look({"step": 1, **bad})[1]) == 1
    assert watchdog.look({"step": 2, **bad})[1] == []
    watchdog.acted()
    assert len(watchdog.look({"step": 3, **bad})[1]) == 1


def test_an_alarm_stands_for_its_patience_and_began_with_the_warning() -> None:
    watchdog = Watchdog(WatchdogConfig(patience=2), {})
    standing = []
    for step, kl in enumerate([0.1, 7.0, 12.0, 12.0, 0.1, 12.0], start=1):
        watchdog.look({"step": step, "train/kl": kl})
        alarm = watchdog.standing(step)
        standing.append(alarm and (alarm.name, alarm.began))
    assert standing == [None, None, None, ("kl", 2), None, None]


def test_an_alarm_of_an_evaluation_stands_until_the_next() -> None:
    watchdog = Watchdog(WatchdogConfig(patience=3), KUHN)
    worse: Row = {"eval/kuhn_poker/nash_conv": 0.9, "best/kuhn_poker/nash_conv": 0.1}
    for step, row in enumerate([worse, {}, {}], start=1):
        watchdog.look({"step": step, **row})
    alarm = watchdog.standing(3)
    assert alarm is not None and alarm.name == "nash_conv"


def test_a_recorded_healthy_run_gives_no_finding() -> None:
    """The metrics of the first steps of configs/quickstart.yaml that the signatures look at, with real vLLM."""
    rows = [json.loads(line) for line in HEALTHY.read_text().splitlines()]
    best, watchdog = Best([]), Watchdog(WatchdogConfig(), KUHN)
    seen: set[str] = set()
    for row in rows:
        levels, found = watchdog.look(row | best.update(row))
        assert found == [], row["step"]
        seen |= levels.keys()
    assert len(rows) > 2 * WINDOW
    # Its completions are bare answers, and it has no past selves.
    assert seen == {f"watchdog/{signature.name}" for signature in SIGNATURES} - {"watchdog/short", "watchdog/past"}


# --- the log and the actions -----------------------------------------------------------------------------------------


def taken(action: Action, step: int, to: int | None = None) -> Entry:
    return Entry(step=step, text=f"alarm: {action}", action=action, to=to)


def test_actions_escalate_after_a_pause_and_begin_again() -> None:
    config = WatchdogConfig(action=("warn", "raise_kl", "halve_lr"), pause=10)
    escalation, done = Escalation(config, [Entry(step=1, text="warning: said, not done")]), []
    for step in range(1, 50):
        if action := escalation.next(step):
            done.append((step, action))
            escalation.add(taken(action, step))
    assert done == [(1, "warn"), (12, "raise_kl"), (23, "halve_lr"), (34, "warn"), (45, "raise_kl")]
    assert (escalation.kl_factor, escalation.learning_rate_factor, escalation.opponents_factor) == (4.0, 0.5, 1.0)


def test_a_lone_warning_is_only_what_is_said() -> None:
    assert Escalation(WatchdogConfig(), []).next(5) is None


def test_the_pause_after_a_rollback_counts_from_the_step_that_it_went_back_to() -> None:
    escalation = Escalation(WatchdogConfig(action=("rollback",), pause=4), [taken("rollback", 31, to=20)])
    assert [escalation.next(step) for step in (24, 25)] == [None, "rollback"]


def test_a_run_that_was_rolled_back_too_often_stops() -> None:
    past = [taken("rollback", 30 + i, to=20) for i in range(2)]
    assert Escalation(WatchdogConfig(action=("rollback",), rollbacks=2), past).next(99) == "stop"


def test_a_resumed_run_forgets_what_it_does_again_but_not_what_led_to_a_rollback(tmp_path: Path) -> None:
    log = WatchdogLog(tmp_path)
    entries = [taken("halve_lr", 25), taken("rollback", 31, to=20), Entry(step=24, text="alarm: x"), taken("stop", 28)]
    for entry in entries:
        log.append(entry)
    assert log.read() == entries
    log.truncate(26)
    assert log.read() == entries[:3]
    log.truncate(10)
    assert log.read() == entries[:2]


def test_an_incomplete_last_line_is_ignored_and_a_damaged_one_named(tmp_path: Path) -> None:
    log = WatchdogLog(tmp_path)
    log.append(taken("warn", 3))
    with (tmp_path / "watchdog.jsonl").open("a") as file:
        file.write('{"step": 4, "te')
    assert log.read() == [taken("warn", 3)]
    with (tmp_path / "watchdog.jsonl").open("a") as file:
        file.write("\n")
    with pytest.raises(UserError, match="line 2 is damaged"):
        log.read()


def test_the_config_takes_one_action_or_a_list() -> None:
    one = load_config("quickstart", ["watchdog.action=rollback", "watchdog.draws=[null, 0.9]"])
    assert (one.watchdog.action, one.watchdog.draws) == (("rollback",), (None, 0.9))
    two = load_config("quickstart", ["watchdog.action=[raise_kl, stop]"])
    assert two.watchdog.action == ("raise_kl", "stop")
    with pytest.raises(UserError, match="raise_kl doubles learner.kl_coef, which is 0"):
        load_config("quickstart", ["watchdog.action=[raise_kl, stop]", "learner.kl_coef=0"])
    with pytest.raises(UserError, match="raise_opponents needs others than policy in league.opponents"):
        load_config("quickstart", ["watchdog.action=raise_opponents"])
    assert load_config("quickstart", ["watchdog.action=raise_opponents", "league.opponents={policy: 3, random: 1}"])
    with pytest.raises(UserError, match="watchdog.action"):
        load_config("quickstart", ["watchdog.action=pray"])


def test_what_actions_come_to_is_said_with_the_values_of_the_config() -> None:
    config = load_config("quickstart", ["learner.kl_coef=0.1", "learner.learning_rate=1e-3"])
    escalation = Escalation(config.watchdog, [taken("halve_lr", 3), taken("raise_kl", 9)])
    assert escalation.effect(config) == "kl_coef 0.2, learning_rate 0.0005"
    escalation.add(taken("raise_opponents", 20))
    assert escalation.effect(config).endswith(", 2 times the weight of others than policy in league.opponents")
