"""Past selves: how often each is drawn, which are kept, and that all of it survives a restart."""

import json
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import chisquare

from spiral.config import Config, UserError
from spiral.league.past import PastSelves
from spiral.league.schedule import Schedule
from spiral.learn.samples import make_samples, score_turns
from spiral.storage.weight_files import checksum
from spiral.types import EpisodeHeader, Match, WeightsRef
from tests.builders import episode, header, sampled


def config(directory: Path, **league: Any) -> Config:
    league = {"opponents": {"policy": 1, "past": 1}, "past_every": 2, "past_keep": 3} | league
    tree = {"steps": 1, "model": {"name": "m"}, "games": [{"id": "kuhn_poker"}], "run": {"dir": directory}}
    return Config.model_validate({**tree, "learner": {"lora_rank": 4}, "league": league})


def offer(past: PastSelves, *versions: int) -> None:
    """Publish these versions, each with an adapter that holds its number."""

    def copy(weights: WeightsRef, directory: Path) -> None:
        directory.mkdir(parents=True)
        (directory / "adapter").write_text(str(weights.version))

    for version in versions:
        past.offer(WeightsRef(version=version, location="", is_adapter=True, checksum=f"c{version}"), copy)
        past.admit()


def pool(directory: Path, *versions: int, **league: Any) -> PastSelves:
    past = PastSelves(config(directory, past_every=1, past_keep=9, **league))
    offer(past, *versions)
    return past


def against(version: int, returns: Sequence[float]) -> list[EpisodeHeader]:
    """Episodes against a past self, in alternating roles, with these returns of the policy."""
    players = [("policy", f"policy@{version}"), (f"policy@{version}", "policy")]
    return [
        header(k, returns=(value, -value) if k % 2 == 0 else (-value, value), players=players[k % 2])
        for k, value in enumerate(returns)
    ]


def versions(past: PastSelves) -> list[int]:
    return [one["version"] for one in past.state_dict() if not one["is_retired"]]


# --- drawing ---------------------------------------------------------------------------------------------------------

# With a prior of one win and one loss: 4 wins of 4 make x = 5/6 (decay apart), no episode 1/2, 4 losses of 4 make 1/6.
RESULTS = {0: [1.0] * 4, 1: [], 2: [-1.0] * 4}
DECAYED = 1 + 0.99 + 0.99**2 + 0.99**3
X = {0: (DECAYED + 1) / (DECAYED + 2), 1: 0.5, 2: 1 / (DECAYED + 2)}
WEIGHTS = {
    "uniform": {0: 1.0, 1: 1.0, 2: 1.0},
    "recent": {0: 0.25, 1: 0.5, 2: 1.0},
    "pfsp_hard": {v: (1 - x) ** 3 for v, x in X.items()},
    "pfsp_even": {v: x * (1 - x) for v, x in X.items()},
}


@pytest.mark.parametrize("draw", WEIGHTS)
def test_past_selves_are_drawn_with_their_probabilities(tmp_path: Path, draw: str) -> None:
    past = pool(tmp_path, 0, 1, 2, past_draw=draw, past_power=3)
    for version, returns in RESULTS.items():
        past.update(against(version, returns))
    expected = {version: weight / sum(WEIGHTS[draw].values()) for version, weight in WEIGHTS[draw].items()}
    assert past.probabilities() == pytest.approx(expected)
    rng, count = random.Random(0), 20_000
    drawn = Counter(past.draw(rng) for _ in range(count))
    assert chisquare([drawn[v] for v in expected], [count * p for p in expected.values()]).pvalue > 0.01


@pytest.mark.parametrize(("draw", "is_played_most"), [("pfsp_hard", True), ("uniform", False)])
def test_only_pfsp_plays_an_exploiter_most(tmp_path: Path, draw: str, is_played_most: bool) -> None:
    """Of 8 past selves, number 3 wins 90% against the policy, and the others lose 70%."""
    past, rng = pool(tmp_path, *range(8), past_draw=draw), random.Random(1)
    played: Counter[int] = Counter()
    for _ in range(4000):
        version = past.draw(rng)
        played[version] += 1
        past.update(against(version, [1.0 if rng.random() < (0.1 if version == 3 else 0.7) else -1.0]))
    assert (played[3] > 3 * max(played[v] for v in played if v != 3)) is is_played_most
    if not is_played_most:
        assert chisquare([played[v] for v in range(8)]).pvalue > 0.01


def test_a_draw_is_half_a_win_and_old_episodes_count_less(tmp_path: Path) -> None:
    past = pool(tmp_path, 0)
    past.update(against(0, [1.0, 0.0, -0.5]))
    (state,) = past.state_dict()
    assert state["episodes"] == pytest.approx(0.99**2 + 0.99 + 1)
    assert state["wins"] == pytest.approx(0.99**2 + 0.99 * 0.5 + 0.25)


def test_metrics_show_the_pool_and_its_estimates(tmp_path: Path) -> None:
    past = pool(tmp_path, 0, 1)
    past.update(against(1, [-1.0]))
    deviation = ((1 / 4) / 2 + (2 / 9) / 3) ** 0.5 / 2  # of the mean of win rates over 2 and 3 matches
    assert past.metrics() == pytest.approx(
        {
            "league/pool_size": 2,
            "league/win_rate_mean": (1 / 2 + 1 / 3) / 2,
            "league/win_rate_mean_ci95": 1.96 * deviation,
            "league/win_rate_min": 1 / 3,
        }
    )
    assert PastSelves(config(tmp_path)).metrics() == {}


# --- keeping ---------------------------------------------------------------------------------------------------------


def test_every_nth_version_is_kept_and_those_in_between_are_dropped(tmp_path: Path) -> None:
    past = PastSelves(config(tmp_path, past_keep=4))
    kept = []
    for version in range(19):
        past.release(set())
        offer(past, version)
        kept.append(versions(past))
    assert kept[7] == [0, 2, 4, 6]
    assert kept[8] == [0, 4, 6, 8]
    assert kept[16] == [0, 8, 12, 16]
    assert kept[18] == [0, 8, 16, 18]
    assert max(map(len, kept)) == 4


@pytest.mark.parametrize(("keep", "expected"), [(1, [6]), (2, [0, 6]), (3, [0, 4, 6])])
def test_the_newest_is_always_kept(tmp_path: Path, keep: int, expected: list[int]) -> None:
    past = PastSelves(config(tmp_path, past_keep=keep))
    for version in (0, 2, 4, 6):
        past.release(set())
        offer(past, version)
    assert versions(past) == expected


def test_without_past_among_the_opponents_nothing_is_kept(tmp_path: Path) -> None:
    past = PastSelves(config(tmp_path, opponents={"policy": 1}))
    offer(past, 0, 2)
    assert past.adapters() == []


def test_a_retired_past_self_keeps_its_place_until_its_matches_have_ended(tmp_path: Path) -> None:
    past = PastSelves(config(tmp_path))
    offer(past, 0, 2, 4, 6)
    assert versions(past) == [0, 4, 6]
    past.release({2})
    offer(past, 8)  # no place
    assert [one.version for one in past.adapters()] == [0, 2, 4, 6]
    past.release(set())
    offer(past, 10)
    assert [one.version for one in past.adapters()] == [0, 4, 6, 10]


def test_a_past_self_is_loaded_before_it_is_drawn(tmp_path: Path) -> None:
    past = pool(tmp_path, 0)
    past.offer(WeightsRef(version=1, location="", is_adapter=True, checksum="c1"), lambda *_: None)
    assert [one.version for one in past.adapters()] == [0, 1]
    assert past.probabilities() == {0: 1.0}
    assert versions(past) == [0], "a checkpoint does not know it yet: the resumed run publishes this version again"
    past.admit()
    past.admit()
    assert past.probabilities() == {0: 0.5, 1: 0.5}


def test_files_that_nobody_needs_are_removed_and_no_others(tmp_path: Path) -> None:
    past = PastSelves(config(tmp_path, past_keep=9))
    offer(past, 0, 2, 4)
    folder = tmp_path / "run" / "league"
    past.load_state_dict([one for one in past.state_dict() if one["version"] != 2])
    for name in ("policy@6.123.tmp", "policy@2.mine", "mine"):
        (folder / name).mkdir()
    past.remove_files(but={2})
    assert {path.name for path in folder.iterdir()} == {"policy@0", "policy@2", "policy@4", "policy@2.mine", "mine"}
    past.remove_files(but=set())
    assert {path.name for path in folder.iterdir()} == {"policy@0", "policy@4", "policy@2.mine", "mine"}


def test_a_damaged_adapter_is_one_line(tmp_path: Path) -> None:
    past = PastSelves(config(tmp_path))
    offer(past, 0)
    (one,) = past.state_dict()
    past.load_state_dict([one | {"checksum": checksum(tmp_path / "run" / "league" / "policy@0")}])
    past.require_files()
    (tmp_path / "run" / "league" / "policy@0" / "adapter").write_text("1")
    with pytest.raises(UserError, match=r"^past self policy@0: policy version 0 in .* is damaged: .*; restore it"):
        past.require_files()


# --- the schedule ----------------------------------------------------------------------------------------------------


def schedule(past: PastSelves) -> Schedule:
    cfg = config(Path())
    return Schedule(5, cfg.games, opponents=cfg.league.opponents, past=past)


def issue(source: Schedule, count: int) -> list[Match]:
    return [source.next_match() for _ in range(count)]


def test_matches_against_past_selves_are_pairs_that_seed_number_and_state_determine(tmp_path: Path) -> None:
    past = pool(tmp_path, 0, 1, 2)
    matches = issue(schedule(past), 400)
    again = PastSelves(config(tmp_path))
    again.load_state_dict(json.loads(json.dumps(past.state_dict())))
    other = schedule(again)
    assert matches == [other.match(k) for k in range(400)]
    for first, second in zip(matches[::2], matches[1::2], strict=True):
        assert (first.game, first.seed, first.players) == (second.game, second.seed, second.players[::-1])
        assert first.players[0] == "policy"
    opponents = Counter(match.players[1] for match in matches[::2])
    assert opponents.keys() == {"policy", "policy@0", "policy@1", "policy@2"}
    assert opponents["policy"] == pytest.approx(100, abs=21)  # 3 standard deviations


def test_matches_that_were_issued_stay_the_same_when_the_past_selves_change_and_after_a_restart(tmp_path: Path) -> None:
    past = pool(tmp_path, 0, 1, 2)
    first = schedule(past)
    issued = issue(first, 21)  # the second match of the last deal is still to come
    assert issued[20].players[1].startswith("policy@"), "choose a seed with which the last deal is against a past self"
    assert first.past_in_use() == {0, 1, 2}
    first.done(range(20))
    assert first.past_in_use() == {int(issued[20].players[1].removeprefix("policy@"))}
    offer(past, 3, 4, 5, 6, 7)
    resumed = schedule(past)
    resumed.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for source in (first, resumed):
        assert source.match(20) == issued[20]
        assert source.match(21).players == issued[20].players[::-1]
    assert issue(resumed, 2) == [issued[20], resumed.match(21)]
    resumed.done([20, 21])
    assert resumed.past_in_use() == set()


# --- training --------------------------------------------------------------------------------------------------------


def test_no_token_of_a_past_self_is_in_a_sample() -> None:
    turns = [sampled(0, [1], [50], version=7), sampled(1, [2], [60], version=-1), sampled(0, [3], [51], version=7)]
    played = episode(4, turns, (1.0, -1.0), players=("policy", "policy@3"))
    table = make_samples(score_turns([played], [[0.5, -0.5, 0.5]], gamma=1.0, format_penalty=0.0))
    samples = list(table)
    assert [sample.token_ids.tolist() for sample in samples] == [[1, 50], [3, 51]]
    assert {sample.min_version for sample in samples} == {7}


def test_past_selves_are_one_class_of_opponents() -> None:
    assert Match(id=0, game="g", seed=0, players=("policy", "policy@12")).opponent_class(0) == "past"


@pytest.mark.parametrize(
    ("league", "text"),
    [
        ({"past_keep": 0}, "past_keep"),
        ({"past_every": 0}, "past_every"),
        ({"past_power": 0}, "past_power"),
        ({"past_draw": "hardest"}, "past_draw"),
    ],
)
def test_what_the_league_cannot_do_is_refused(tmp_path: Path, league: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        config(tmp_path, **league)


def test_past_selves_of_a_model_without_an_adapter_are_refused(tmp_path: Path) -> None:
    tree = config(tmp_path).model_dump()
    with pytest.raises(ValueError, match="league.opponents past: past selves are LoRA adapters: set learner.lora_rank"):
        Config.model_validate({**tree, "learner": {}})
