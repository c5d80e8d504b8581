"""What a report says against what is in the run directories."""

import base64
import json
import re
import zlib
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet
from typer.testing import CliRunner

from spiral.cli.main import app
from spiral.config import UserError, load_config
from spiral.monitor.files import MetricsFile
from spiral.monitor.transcript import answer_span, visible
from spiral.report import curves, headlines, settings, write_report
from spiral.report.equilibrium import states
from spiral.report.matches import Builder, select
from spiral.report.pieces import Pieces
from spiral.report.sampling import choose, spread
from spiral.report.source import Source, read_sources
from spiral.storage.episode_files import EpisodeFiles
from tests.fuzzing import examples
from tests.played_run import prompter, write_played_run

STEPS, PER_STEP = 5, 60


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_played_run(tmp_path_factory.mktemp("runs") / "quick", STEPS, PER_STEP)


def unpacked(page: Path, name: str) -> dict[str, Any]:
    """A block of data of a page, as the page itself decodes it."""
    found = re.search(rf'<script type="application/x-deflate" id="{name}">([^<]*)</script>', page.read_text())
    assert found
    return json.loads(zlib.decompress(base64.b64decode(found[1])))  # type: ignore[no-any-return]


# --- which matches


@examples(200)
@given(st.lists(st.integers(0, 6), max_size=80), st.integers(0, 90))
def test_every_stratum_gets_an_equal_share_or_all_it_has(strata: list[int], most: int) -> None:
    chosen = choose(strata, most)
    assert chosen == sorted(set(chosen)) and len(chosen) == min(most, len(strata))
    sizes, got = Counter(strata), Counter(strata[index] for index in chosen)
    most_of_any = max(got.values(), default=0)
    for stratum, size in sizes.items():
        assert got[stratum] == size or got[stratum] >= most_of_any - 1


def test_spread_takes_the_ends() -> None:
    assert spread(range(11), 3) == [0, 5, 10]
    assert spread([1, 2], 5) == [1, 2] and spread([1, 2], 1) == [1] and spread([], 0) == []


# --- the data in the page


def test_columns_hold_what_the_episode_files_hold(run_dir: Path, tmp_path: Path) -> None:
    written = write_report([run_dir], tmp_path / "all.html", 10_000)
    assert written.num_matches == written.num_played == STEPS * PER_STEP and written.problems == ()
    data = unpacked(tmp_path / "all.html", "match-data")
    matches, turns, tokens, texts = data["matches"], data["turns"], data["tokens"], data["texts"]
    at_turn, at_token, seen = 0, 0, set()
    for number, (step, match_id) in enumerate(zip(matches["step"], matches["id"], strict=True)):
        table = EpisodeFiles(run_dir).table(step).to_pylist()
        rows = [row for row in table if row["match_id"] == match_id]
        seen.add((step, match_id))
        assert texts[matches["game"][number]] == rows[0]["game"] and matches["return0"][number] == rows[0]["return_0"]
        assert matches["turns"][number] == len(rows) and matches["replayed"][number]
        for row in rows:
            assert texts[turns["text"][at_turn]] == row["text"]
            assert texts[turns[f"view{row['role']}"][at_turn]] == row["observation"]
            assert bool(turns["legal"][at_turn]) is row["legal"]
            assert turns["advantage"][at_turn] == pytest.approx(row["advantage"], rel=1e-4)
            assert turns["newest"][at_turn] == row["max_version"]
            start, end = turns["from"][at_turn], turns["to"][at_turn]
            assert row["text"][start:end] == f"[{row['action']}]"
            here = slice(at_token, at_token + turns["tokens"][at_turn])
            special = {texts[one] for one in data["special"]}
            pieces = [texts[piece] for piece in tokens["piece"][here]]
            assert "".join(piece for piece in pieces if piece not in special) == row["text"]
            assert np.allclose(np.array(tokens["logprob"][here]) / -1000, row["logprobs"], atol=1e-3)
            at_turn, at_token = at_turn + 1, here.stop
    assert len(seen) == STEPS * PER_STEP


def test_counts_of_actions_are_those_of_the_whole_step(run_dir: Path, tmp_path: Path) -> None:
    write_report([run_dir], tmp_path / "some.html", 20)
    data = unpacked(tmp_path / "some.html", "match-data")
    number = next(n for n in data["turns"]["state"] if n >= 0)
    turn = data["turns"]["state"].index(number)
    owner = next(m for m in range(20) if sum(data["matches"]["turns"][: m + 1]) > turn)
    step, role = data["matches"]["step"][owner], data["turns"]["role"][turn]
    view = data["texts"][data["turns"][f"view{role}"][turn]]
    taken = Counter(
        one.action if one.legal else "illegal"
        for played in EpisodeFiles(run_dir).read(step)
        for one in played.turns
        if one.observation == view
    )
    actions = data["states"][number]["actions"]
    assert data["played"][f"0/{step}/{number}"] == [*(taken[action] for action in actions), taken["illegal"]]


def test_left_out_matches_are_counted(run_dir: Path, tmp_path: Path) -> None:
    written = write_report([run_dir], tmp_path / "few.html", 30)
    assert (written.num_matches, written.num_played) == (30, STEPS * PER_STEP)
    page = " ".join((tmp_path / "few.html").read_text().split())
    assert f"30 of the {STEPS * PER_STEP} matches that quick trained on are in this file; 270 were left out." in page


def test_the_page_loads_nothing(run_dir: Path, tmp_path: Path) -> None:
    write_report([run_dir], tmp_path / "page.html", 10)
    page = (tmp_path / "page.html").read_text()
    assert "default-src 'none'" in page and "unsafe" not in page.partition("<style>")[0]
    without_script = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    assert not re.search(r"https?://|<link|@import|url\(", without_script)


def test_equilibrium_of_kuhn_poker() -> None:
    found = states("kuhn_poker")
    king = found[1, "You are player 1 with the king. Betting: player 0 bets."]
    jack = found[1, "You are player 1 with the jack. Betting: player 0 bets."]
    queen = found[1, "You are player 1 with the queen. Betting: player 0 bets."]
    assert king.equilibrium == pytest.approx((0, 1), abs=1e-3) and jack.equilibrium == pytest.approx((1, 0), abs=1e-3)
    assert queen.equilibrium == pytest.approx((2 / 3, 1 / 3), abs=0.02)
    assert states("tic_tac_toe") == {} and states("connect_four") == {} and states("no_such_game") == {}


# --- texts


@pytest.mark.parametrize("text", ["[bet]", "äöü 漢字 🂡 [call]", "plain", ""])
def test_pieces_make_up_the_text(tmp_path: Path, text: str) -> None:
    tokenizer = prompter().tokenizer
    tokenizer.save_pretrained(tmp_path)
    ids = np.array([*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id], np.int32)
    pieces = Pieces(tmp_path / "tokenizer.json")
    cut = pieces.cut(ids, text)
    assert cut and len(cut) == len(ids) and "".join(cut[:-1]) == text and cut[-1] == "<|im_end|>"
    assert pieces.cut(ids, "something else") is None or text == "something else"


@pytest.mark.parametrize(
    ("text", "action", "marked"),
    [
        ("[a] no, [bet] is better than a bet", "bet", "[bet]"),
        ("so \\boxed{ 4 } it is", "4", "\\boxed{ 4 }"),
        ("<answer>\nfold\n</answer>", "fold", "<answer>\nfold\n</answer>"),
        ("hello there", "hello there", "hello there"),
        ("nothing", None, None),
    ],
)
def test_the_action_is_found_where_it_was_written(text: str, action: str | None, marked: str | None) -> None:
    span = answer_span(text, action)
    assert (text[slice(*span)] if span else None) == marked


def test_invisible_characters_are_named() -> None:
    assert visible("a\u202eb\x1b[2J\n") == "a<U+202E>b<U+001B>[2J\n"
    assert visible("\U000e0041\u00ad\u3164 \u2764\ufe0f") == "<U+E0041><U+00AD><U+3164> \u2764\ufe0f"


# --- figures


def test_every_metric_is_on_a_chart(run_dir: Path) -> None:
    runs = read_sources([run_dir])
    drawn = {key for charts in curves.sections(runs).values() for chart in charts for key, _ in chart.lines}
    margins = {key for charts in curves.sections(runs).values() for chart in charts for key in chart.margin.values()}
    keys = {key for row in MetricsFile(run_dir).read() for key in row}
    assert keys - drawn - margins == {"step"}
    assert next(iter(curves.sections(runs))) == "Strength"
    lines = {chart.title: chart.lines for chart in curves.sections(runs)["Engines and machines"]}
    assert {title: [label for _, label in lines[title]] for title in ("kv use", "cores busy", "gpu busy")} == {
        "kv use": ["generator-0", "generator-1"],
        "cores busy": ["node-1", "node-2"],
        "gpu busy": ["node-1 gpu0", "node-1 gpu1", "node-2 gpu0", "node-2 gpu1"],
    }


def test_roles_quantiles_and_ends_share_charts() -> None:
    keys = ["game/a/b/role0/return_mean", "game/a/b/role0/return_ci95", "game/a/b/role1/return_mean"]
    keys += [f"game/a/b/turns_p{percent}" for percent in (10, 50, 90)] + [
        f"game/a/b/{end}_rate" for end in ("draw", "forfeit")
    ]
    run = Source("run", Path(), load_config("quickstart"), [dict.fromkeys(["step", *keys], 0.5)])
    found = [chart for charts in curves.sections([run]).values() for chart in charts]
    assert {chart.title: [label for _, label in chart.lines] for chart in found} == {
        "a/b: return mean": ["player 0", "player 1"],
        "a/b: turns quantiles": ["10%", "median", "90%"],
        "a/b: how matches end": ["draw", "forfeit"],
    }
    assert next(chart.margin for chart in found if chart.margin) == {keys[0]: keys[1]}


def test_series_keep_evaluations_and_leave_out_what_is_not_a_number(tmp_path: Path) -> None:
    run = write_played_run(tmp_path / "long", 1, 2)
    rows = [{"step": step, "train/loss": float("nan") if step == 7 else 0.123456789} for step in range(2, 9000)]
    rows[4000]["eval/kuhn_poker/nash_conv"] = 0.5
    for row in rows:
        MetricsFile(run).append(row)
    found = curves.series(read_sources([run])[0])
    columns = found["columns"]
    assert found["thinned"] + len(columns["step"]) == 9000 and len(columns["step"]) < 2010
    assert columns["eval/kuhn_poker/nash_conv"].count(0.5) == 1 and 0.123457 in columns["train/loss"]
    assert write_report([run], tmp_path / "long.html").num_matches == 2  # JSON without NaN


def test_a_run_without_rows_has_every_axis(tmp_path: Path) -> None:
    run = write_played_run(tmp_path / "new", 1, 2)
    (run / "metrics.jsonl").unlink()
    assert curves.series(read_sources([run])[0]) == {"columns": {"step": [], "hours": []}, "thinned": 0}


def test_files_that_a_run_removes_meanwhile_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a run does that keeps the episodes of its newest steps."""
    run = write_played_run(tmp_path / "run", 3, 4)
    (source,) = read_sources([run])
    monkeypatch.setattr(EpisodeFiles, "steps", lambda self: [1, 2, 3])
    source.episodes.path(1).unlink()
    selection = select(0, source, 100)
    assert {step: len(ids) for step, ids in selection.steps.items()} == {2: 4, 3: 4}
    source.episodes.path(2).unlink()
    builder = Builder()
    builder.add(selection, 10**6)
    assert builder.num_shown.total() == 4
    assert builder.problems["left out, because the run has removed their file"] == 4


def test_headlines(run_dir: Path) -> None:
    (run,) = read_sources([run_dir])
    nash_conv = headlines.strength(run)[0]
    assert (nash_conv.title, nash_conv.before, nash_conv.after) == ("kuhn_poker: NashConv", "0.970", "0.050")
    assert nash_conv.better and dict(headlines.totals(run))["matches trained on"] == f"{STEPS * PER_STEP}"
    assert [alarm.step for alarm in run.alarms] == [STEPS]  # entropy ends below its level


@pytest.mark.parametrize(("after", "margin", "better"), [(0.007, "0.4%", None), (0.02, "0.7%", False), (0.0, "", True)])
def test_a_difference_of_illegal_turns_within_the_intervals_is_none(
    run_dir: Path, after: float, margin: str, better: bool | None
) -> None:
    (run,) = read_sources([run_dir])
    rows = [{"step": step, "rollout/illegal_rate": rate, "rollout/completions": 1700.0}
            for step, rate in ((1.0, 0.005), (2.0, after))]  # fmt: skip
    (illegal,) = headlines.strength(replace(run, rows=rows))
    assert (illegal.margin, illegal.better) == (margin, better)


def test_settings_that_differ(tmp_path: Path, run_dir: Path) -> None:
    other = write_played_run(tmp_path / "other", 2, 4, overrides=["learner.kl_coef=0"])
    runs = read_sources([run_dir, other])
    differing = {one.key: one.values for one in settings.differing(runs)}
    assert differing["learner.kl_coef"] == ("0.2", "0.0") and differing["run.name"] == ("quick", "other")
    chosen = {one.key: (one.values[0], one.default) for one in settings.chosen(runs)}
    assert chosen["rollout.answer_format"] == ("bracket", "boxed") and "seed" not in chosen


def test_command(run_dir: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["report", str(run_dir), "-o", str(tmp_path / "r.html"), "--matches", "7"])
    assert done.exit_code == 0 and f"7 of {STEPS * PER_STEP} matches" in done.output and (tmp_path / "r.html").exists()
    assert CliRunner().invoke(app, ["report", str(run_dir), "--matches", "0"]).exit_code == 0
    assert (run_dir / "report.html").exists()


@pytest.mark.parametrize("missing", ["end_reason", "logprobs", "advantage"])
def test_a_file_of_another_kind_is_named(tmp_path: Path, missing: str) -> None:
    run = write_played_run(tmp_path / "run", 1, 2)
    path = EpisodeFiles(run).path(1)
    parquet.write_table(parquet.ParquetFile(path).read().drop_columns([missing]), path)
    with pytest.raises(
        UserError, match=rf"step_000001.parquet cannot be read \(.*not the columns of an episode file: {missing}\)"
    ):
        write_report([run], tmp_path / "r.html")


def test_errors_are_one_line(run_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a run directory"):
        write_report([tmp_path], tmp_path / "r.html")
    with pytest.raises(UserError, match="more than once"):
        write_report([run_dir, run_dir], tmp_path / "r.html")


# --- limits


def test_matches_that_find_no_room_are_left_out_and_counted(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spiral.report.write.MAX_CHARS", 5_000)
    written = write_report([run_dir], tmp_path / "r.html", 10_000)
    left_out = STEPS * PER_STEP - written.num_matches
    assert 0 < left_out < STEPS * PER_STEP and left_out % PER_STEP == 0  # whole steps
    assert written.problems == (f"{left_out} matches left out, because the page would become too large",)
    assert f"{left_out} were left out." in (tmp_path / "r.html").read_text()


def test_when_time_is_up_recorded_views_are_shown(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spiral.report.matches.REPLAY_S", -1.0)
    (problem,) = write_report([run_dir], tmp_path / "r.html", 10).problems
    assert problem.startswith("10 matches without the other seat's view")
    data = unpacked(tmp_path / "r.html", "match-data")
    assert not any(data["matches"]["replayed"]) and set(data["turns"]["picture0"]) == {-1}
    for role, *views in zip(*(data["turns"][name] for name in ("role", "view0", "view1")), strict=True):
        assert data["texts"][views[role]].startswith(("You are player", "You are Player"))


def test_a_run_that_has_just_begun(run_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "config.yaml").write_text((run_dir / "config.yaml").read_text())
    written = write_report([tmp_path / "new"], tmp_path / "r.html")
    assert (written.num_matches, written.num_played) == (0, 0)
    assert "new has trained on no matches yet." in (tmp_path / "r.html").read_text()
