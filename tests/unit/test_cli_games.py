"""The commands `spiral games`, `spiral new-game` and `spiral play`."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.test_cli import spiral

Out = pytest.CaptureFixture[str]


@pytest.fixture
def few_games(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = ("kuhn_poker", "simple_negotiation", "textarena/TicTacToe-v0", "openspiel/chess")
    monkeypatch.setattr("spiral.game.registry.all_game_ids", lambda: ids)


def test_games_as_json(few_games: None, monkeypatch: pytest.MonkeyPatch, capsys: Out) -> None:
    assert spiral(monkeypatch, "games", "--json") == 0
    rows = {row.pop("id"): row for row in json.loads(capsys.readouterr().out)}
    assert 2 <= rows["kuhn_poker"].pop("mean_turns") <= 3
    assert rows["kuhn_poker"] == {
        "title": "Kuhn poker",
        "source": "plugin",
        "exact": True,
        "free_text": False,
        "lists_actions": True,
        "players": ["perfect", "random"],
    }
    assert rows["simple_negotiation"]["free_text"] and not rows["simple_negotiation"]["lists_actions"]
    assert rows["textarena/TicTacToe-v0"]["source"] == "textarena"
    assert rows["openspiel/chess"]["players"] == ["mcts", "random"]


def test_games_as_a_table(few_games: None, monkeypatch: pytest.MonkeyPatch, capsys: Out) -> None:
    assert spiral(monkeypatch, "games") == 0
    lines = capsys.readouterr().out.splitlines()
    assert next(line for line in lines if line.startswith("kuhn_poker")).split()[1:4] == ["exact", "perfect", "random"]
    assert all(len(line) <= 80 for line in lines)


def test_show_prints_both_views(monkeypatch: pytest.MonkeyPatch, capsys: Out) -> None:
    assert spiral(monkeypatch, "games", "show", "kuhn_poker", "--seed", "4") == 0
    first = capsys.readouterr().out
    assert "role 0 sees" in first and "role 1 sees" in first
    assert "turn 1: role 0 plays" in first and "returns: (" in first
    assert spiral(monkeypatch, "games", "show", "kuhn_poker", "--seed", "4") == 0
    assert capsys.readouterr().out == first


def test_check_passes_a_sound_game(monkeypatch: pytest.MonkeyPatch, capsys: Out) -> None:
    assert spiral(monkeypatch, "games", "check", "kuhn_poker", "nim") == 0
    assert "2 of 2 games are sound" in capsys.readouterr().out


def test_check_prints_the_fault_and_how_to_reproduce_it(monkeypatch: pytest.MonkeyPatch, capsys: Out) -> None:
    game = "tests.unit.test_conformance:NotZeroSum"
    assert spiral(monkeypatch, "games", "check", game) == 1
    out = capsys.readouterr().out
    assert f"{game}: returns (1.0, -0.5) do not sum to zero" in out
    assert "seed 0, actions [" in out
    assert "0 of 1 games are sound" in out


@pytest.mark.parametrize(
    ("command", "text"),
    [
        ("games show kuhn_pokr", "did you mean 'kuhn_poker'?"),
        ("games check", "name a game, or use --all"),
        ("games check openspiel/ches", "did you mean 'chess'?"),
        ("new-game My-Game", "'My-Game' cannot be a game's name"),
        ("new-game class", "'class' cannot be a game's name"),
        ("play kuhn_poker --against mcts:10", "player 'mcts:10' cannot play kuhn_poker"),
        ("play kuhn_poker --against ./none", "model './none'"),
    ],
)
def test_a_user_error_is_one_line(
    command: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Out
) -> None:
    monkeypatch.chdir(tmp_path)
    assert spiral(monkeypatch, *command.split()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and text in line


def test_a_new_game_passes_its_own_test_and_the_check(tmp_path: Path) -> None:
    def run(*command: str) -> str:
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout

    command = [str(Path(sys.executable).parent / "spiral")]
    assert "spiral games check my_game:MyGame" in run(*command, "new-game", "my_game")
    assert "1 of 1 games are sound" in run(*command, "games", "check", "my_game:MyGame")
    assert "1 passed" in run(sys.executable, "-m", "pytest", "-q", "test_my_game.py")
    again = subprocess.run([*command, "new-game", "my_game"], cwd=tmp_path, capture_output=True, text=True)
    assert again.returncode == 2
    assert again.stderr == "error: my_game.py exists; choose another name or --dir\n"


def typed(monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))


def test_a_person_plays_a_match(monkeypatch: pytest.MonkeyPatch, capsys: Out) -> None:
    typed(monkeypatch, "/help", "raise", "bet", "call", "bet")
    assert spiral(monkeypatch, "play", "kuhn_poker", "--against", "perfect", "--seed", "1") == 0
    out = capsys.readouterr().out
    assert "You may play: check, bet" in out
    assert "Not legal: 'raise' is not one of: check, bet." in out
    assert "player 1: " in out
    assert "You win" in out or "You lose" in out


def test_an_opponent_that_forfeits_loses(monkeypatch: pytest.MonkeyPatch, capsys: Out) -> None:
    monkeypatch.setattr("spiral.terminal.ScriptedPlayer.choose", says_nonsense)
    assert spiral(monkeypatch, "play", "kuhn_poker", "--role", "1", "--seed", "1") == 0
    out = capsys.readouterr().out
    assert "player 0 gave no legal action: you win" in out
    assert "You left" not in out


def says_nonsense(*_: object) -> str:
    return "nonsense"


def test_a_person_quits(monkeypatch: pytest.MonkeyPatch, capsys: Out) -> None:
    for lines in (["/quit"], []):  # [] ends the input, like Ctrl-D
        typed(monkeypatch, *lines)
        assert spiral(monkeypatch, "play", "openspiel/chess", "--role", "1", "--seed", "1") == 0
        assert "You left the match." in capsys.readouterr().out
