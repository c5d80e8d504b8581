"""`spiral arena` with scripts and an endpoint on loopback. Models: tests/integration/test_arena_models.py."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from spiral.arena.contestants import Contestant, contestants, reference_pool
from spiral.cli import main
from spiral.config import UserError
from spiral.game import make, scripted
from tests.endpoints import Reply, answer, serving


def arena(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *arguments: str, code: int = 0) -> dict[str, Any]:
    """Run `spiral arena`; returns its report."""
    monkeypatch.setattr("sys.argv", ["spiral", "arena", "--dir", str(tmp_path / "arena"), *arguments])
    with pytest.raises(SystemExit) as exit:
        main()
    assert exit.value.code == code
    return json.loads((tmp_path / "arena/report.json").read_text()) if code == 0 else {}


def lines(tmp_path: Path) -> list[str]:
    return (tmp_path / "arena/results.jsonl").read_text().splitlines()


@pytest.mark.parametrize(
    ("text", "name", "kind"),
    [
        ("random", "random", "script"),
        ("mcts:100", "mcts:100", "script"),
        ("some.module:player:7", "some.module:player:7", "script"),
        ("best=runs/kuhn@80", "best", "model"),
        ("runs/kuhn@80", "runs/kuhn@80", "model"),
        ("org/name", "org/name", "model"),
        ("gpt@http://localhost:8000/v1", "gpt", "endpoint"),
        ("org/name@https://host/v1?a=b", "org/name", "endpoint"),
        ("x=org/name@https://host/v1?a=b", "x", "endpoint"),
    ],
)
def test_what_a_player_is(text: str, name: str, kind: str) -> None:
    player = Contestant.parse(text)
    assert (player.name, player.kind) == (name, kind)


def test_two_players_of_one_name_are_refused() -> None:
    with pytest.raises(UserError, match="two players are called m: name one of them"):
        contestants(["m@http://a/v1", "m@http://b/v1"])


def test_a_step_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no checkpoint of step 3; it has: none"):
        _ = Contestant.parse(f"{tmp_path}@3").model


@pytest.mark.parametrize("game", ["kuhn_poker", "tic_tac_toe", "connect_four", "openspiel/hex", "textarena/Nim-v0"])
def test_reference_players_can_play(game: str) -> None:
    pool = reference_pool(game)
    assert pool
    for player in pool:
        scripted.require_playable(player.label, game, make(game, 0))


def test_a_game_of_free_text_has_no_reference_players() -> None:
    assert reference_pool("simple_negotiation") == []


def test_scripts_are_rated_and_an_arena_is_continued(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    options = ["--pool", "--game", "kuhn_poker", "--pairs", "6", "random", "other=random"]
    report = arena(monkeypatch, tmp_path, *options)
    (game,) = report["games"]
    assert {line["player"] for line in game["lines"]} == {"random", "other", "perfect"}
    assert len(lines(tmp_path)) == 3 * 6 * 2

    kept = lines(tmp_path)[:20]
    (tmp_path / "arena/results.jsonl").write_text("\n".join(kept) + '\n{"game": "kuh')  # killed while it played
    again = arena(monkeypatch, tmp_path, *options)
    assert lines(tmp_path)[:20] == kept
    assert len(lines(tmp_path)) == 36
    assert again["games"][0]["meetings"] == game["meetings"]  # the seeds decide what scripts play

    arena(monkeypatch, tmp_path, "--game", "kuhn_poker", "--pairs", "8", "random", "other=random")
    assert len(lines(tmp_path)) == 36 + 2 * 2


def test_the_report_is_one_file_and_escapes_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with serving(lambda number, body: answer("[bet]")) as (url, _):
        player = f"<script>alert(1)</script>@{url}"
        arena(monkeypatch, tmp_path, "random", player, "--game", "kuhn_poker", "--pairs", "5")
    page = (tmp_path / "arena/report.html").read_text()
    assert "<script>" not in page and "&lt;script&gt;" in page
    assert not re.search(r"(src|href)\s*=|@import|url\(", page)


def test_an_endpoint_plays_and_its_cost_is_counted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def reply(number: int, body: dict[str, Any]) -> Reply:
        if number % 10 == 3:
            return 503, {}
        prompt = body["messages"][-1]["content"]
        return answer("[call]" if "bets" in prompt else "[bet]")

    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    with serving(reply) as (url, bodies):
        options = ["--game", "kuhn_poker", "--pairs", "20", "--price", "m=1,2"]
        report = arena(monkeypatch, tmp_path, "random", f"m@{url}", *options)
    use = report["endpoints"]["m"]
    assert use["errors"] == 0 and use["retries"] > 0
    assert use["calls"] == len(bodies) - use["retries"]
    assert use["cost"] == pytest.approx((use["prompt_tokens"] + 2 * use["completion_tokens"]) / 1e6)
    assert {body["authorization"] for body in bodies} == {"Bearer secret"}
    assert report["games"][0]["meetings"][0]["score"]["num_pairs"] == 20
    assert "secret" not in (tmp_path / "arena/report.json").read_text()
    assert f"{use['calls']} calls" in capsys.readouterr().out


def test_matches_that_were_void_are_played_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    down = True
    with serving(lambda number, body: (500, {}) if down and number % 3 == 0 else answer("[bet]")) as (url, _):
        options = ["random", f"m@{url}", "--game", "kuhn_poker", "--pairs", "5", "--retries", "0"]
        report = arena(monkeypatch, tmp_path, *options)
        assert report["games"][0]["meetings"][0]["void"] > 0
        assert "matches were void" in report["games"][0]["notes"][0]
        down = False
        report = arena(monkeypatch, tmp_path, *options)
    assert report["games"][0]["meetings"][0]["void"] == 0
    assert report["games"][0]["meetings"][0]["score"]["num_pairs"] == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["random", "perfect"], "name at least one game"),
        (["random", "--game", "kuhn_poker"], "kuhn_poker: an arena needs two players or more, or --pool"),
        (["random", "perfect", "--game", "kuhn_pokr"], "did you mean"),
        (["random", "mcts:10", "--game", "kuhn_poker"], "players that can: perfect, random"),
        (["random", "m@http://key@host/v1", "--game", "kuhn_poker"], "without a key"),
        (["random", "perfect", "--game", "kuhn_poker", "--price", "m=1"], "expected NAME=IN,OUT"),
        (["random", "perfect", "--game", "kuhn_poker", "--request", "[1]"], "expected a JSON object"),
    ],
)
def test_errors_name_the_cure(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    arena(monkeypatch, tmp_path, *arguments, code=2)
    assert message in capsys.readouterr().err
