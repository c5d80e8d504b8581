import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from spiral.cli.main import app
from spiral.config import Config, UserError, dump, load_config
from spiral.planning.engine import SimulatedEngine
from spiral.planning.forecast import WARM_UP, Forecast, in_full_swing, plot, what_if
from spiral.planning.given import Given
from spiral.planning.measured import Measured
from spiral.planning.simulate import Simulation
from spiral.planning.speeds import Speeds
from spiral.planning.splits import best, splits
from spiral.planning.workload import Lengths, Workload, lengths
from spiral.storage.episode_files import EpisodeFiles
from tests.builders import episode, sampled

GAME = "kuhn_poker"
SPEEDS = Speeds(
    step_s=0.01, sequence_s=0.001, prompt_s=0.0, turn_s=0.0, learn_s=0.5, token_s=0.001, sync_s=0.1, rest_s=0.05
)
EVEN_MATCHES = [(Lengths(10, 5), Lengths(10, 5))]
EVEN = Workload({GAME: EVEN_MATCHES})
PUBLISHED = Path(__file__).parents[2] / "docs" / "speeds_qwen3_30b_h100.yaml"


def config(**keys: object) -> Config:
    tree: dict[str, dict[str, object]] = {"rollout": {"episodes_per_step": 8}, "generators": {}, "learner": {}}
    for key, value in keys.items():
        section, _, name = key.partition("__")
        tree[section][name] = value
    return Config.model_validate(
        {"steps": 8, "model": {"name": "builtin/tiny", "warmup_steps": 1}, "games": [{"id": GAME}], **tree}
    )


def test_an_engine_takes_longer_per_token_with_more_sequences() -> None:
    engine = SimulatedEngine(SPEEDS, num_seats=2)
    ended: list[tuple[str, float]] = []
    engine.submit(Lengths(3, 4), lambda now: ended.append(("short", now)), 0.0)
    engine.submit(Lengths(3, 10), lambda now: ended.append(("long", now)), 0.0)
    engine.submit(Lengths(3, 2), lambda now: ended.append(("waits", now)), 0.0)
    for _ in range(3):
        engine.finish(engine.next_end())
    # 4 steps of two sequences, 2 more once the third has the seat of the first, and 4 of one alone.
    assert [name for name, _ in ended] == ["short", "waits", "long"]
    assert [now for _, now in ended] == pytest.approx([4 * 0.012, 6 * 0.012, 6 * 0.012 + 4 * 0.011])
    assert engine.busy_s == pytest.approx(ended[-1][1])
    assert engine.seat_s == pytest.approx(2 * 6 * 0.012 + 4 * 0.011)


def test_weights_and_prompts_hold_up_all_sequences() -> None:
    speeds = Speeds(
        step_s=0.01, sequence_s=0.0, prompt_s=0.002, turn_s=0.0, learn_s=0.0, token_s=0.0, sync_s=0.3, rest_s=0.0
    )
    engine = SimulatedEngine(speeds, num_seats=2)
    engine.submit(Lengths(100, 10), lambda now: None, 0.0)
    assert engine.next_end() == pytest.approx(0.2 + 0.1)
    engine.load(0.25)
    assert engine.next_end() == pytest.approx(0.3 + 0.3)


def test_a_synchronous_step_plays_learns_and_publishes_in_turn() -> None:
    (step, *_) = in_full_swing(config(), Simulation(config(), EVEN, SPEEDS).steps())
    play_s = 2 * 5 * (0.01 + 8 * 0.001)
    learn_s = 0.5 + 0.001 * 8 * 2 * 15
    assert step.seconds == pytest.approx(play_s + learn_s + 0.1)  # matches are played during rest_s, too
    assert step.staleness == 0
    assert step.learner_busy == pytest.approx(learn_s / step.seconds)


def test_an_overlapped_step_takes_as_long_as_learning() -> None:
    run = config(rollout__max_staleness=1)
    forecast = Forecast.of(run, EVEN, SPEEDS)
    assert forecast.step_s == pytest.approx(0.5 + 0.001 * 8 * 2 * 15 + 0.1 + 0.05, rel=0.02)
    assert 0 < forecast.staleness <= 1
    assert forecast.games_per_hour == pytest.approx(3600 * 8 / forecast.step_s)


def test_more_generators_help_as_long_as_playing_takes_longest() -> None:
    speeds = replace(SPEEDS, token_s=0.0, learn_s=0.0)
    forecasts = what_if(config(rollout__episodes_per_step=64, generators__max_num_seqs=8), EVEN, speeds)
    assert list(forecasts) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert forecasts[2].games_per_hour > 1.4 * forecasts[1].games_per_hour


def test_the_plot_is_a_picture(tmp_path: Path) -> None:
    plot(what_if(config(), EVEN, SPEEDS), config(), None, tmp_path / "plan.png")
    assert (tmp_path / "plan.png").read_bytes().startswith(b"\x89PNG")


def recorded_run(run_dir: Path, run: Config, speeds: Speeds) -> Path:
    """A run directory as a run with these speeds leaves it. Matches have two turns of up to 30 tokens."""
    size = run.rollout.episodes_per_step
    matches = [[sampled(0, (1,), range(1 + 7 * k % 30)), sampled(1, (1,), range(1 + 11 * k % 29))] for k in range(size)]
    turns_of = {lengths(episode(0, turns)): turns for turns in matches}
    workload = Workload({GAME: list(turns_of)})
    (run_dir / "episodes").mkdir(parents=True)
    run = run.model_copy(update={"steps": 12})
    (run_dir / "config.yaml").write_text(dump(run))
    num_tokens = size * 2 * 15
    with (run_dir / "metrics.jsonl").open("w") as file:
        for number, step in enumerate(Simulation(run, workload, speeds).steps(), 1):
            learn_s = step.learner_busy * step.seconds
            row = {
                "step": number,
                "perf/step_s": step.seconds,
                "perf/learn_s": learn_s,
                "perf/sync_s": speeds.sync_s,
                "perf/rollout_s": step.seconds - learn_s - speeds.sync_s - speeds.rest_s,
                "perf/generator_busy": step.generator_busy,
                "perf/sequences_running": step.sequences,
                "perf/generated_tokens_per_s": num_tokens / step.seconds,
            }
            episodes = [
                replace(episode(match.id, turns_of[workload.of(match)]), duration_s=duration_s)
                for match, duration_s in step.durations
            ]
            file.write(json.dumps(row) + "\n")
            EpisodeFiles(run_dir).write(number, episodes)
    return run_dir


def test_calibrated_speeds_predict_another_config(tmp_path: Path) -> None:
    speeds = Speeds(
        step_s=0.02,
        sequence_s=0.002,
        prompt_s=0.0005,
        turn_s=0.002,
        learn_s=0.0,
        token_s=0.002,
        sync_s=0.05,
        rest_s=0.01,
    )
    measured = config(rollout__episodes_per_step=128)
    run_dir = recorded_run(tmp_path / "run", measured, speeds)
    fitted = Given.measured([run_dir])
    for keys in ({"rollout__max_staleness": 1}, {"generators__count": 2}):
        other = config(**{"rollout__episodes_per_step": 128} | keys)
        truth, guess = (Forecast.of(other, fitted.workload, one) for one in (speeds, fitted.speeds))
        assert guess.step_s == pytest.approx(truth.step_s, rel=0.05)


def test_a_run_that_is_too_short_is_refused(tmp_path: Path) -> None:
    run_dir = recorded_run(tmp_path / "run", config(), SPEEDS)
    rows = (run_dir / "metrics.jsonl").read_text().splitlines()
    (run_dir / "metrics.jsonl").write_text("\n".join(rows[:WARM_UP]) + "\n")
    with pytest.raises(UserError, match="too short to measure speeds"):
        Measured.of(run_dir)


def test_a_game_that_was_not_recorded_is_named() -> None:
    with pytest.raises(UserError, match="no recorded match of kuhn_poker"):
        Forecast.of(config(), Workload({}), SPEEDS)


def test_the_command_prints_a_forecast(tmp_path: Path) -> None:
    run_dir = recorded_run(tmp_path / "run", config(), SPEEDS)
    run = [str(run_dir / "config.yaml"), "--calibrate", str(run_dir), "--plot", str(tmp_path / "plan.png")]
    result = CliRunner().invoke(app, ["plan", *run])
    assert result.exit_code == 0, result.output
    assert "games per hour" in result.output
    assert (tmp_path / "plan.png").exists()


def test_a_plot_needs_a_run_to_take_speeds_from() -> None:
    result = CliRunner().invoke(app, ["plan", "smoke", "--plot", "plan.png"])
    assert "--plot, --price and --split need speeds" in str(result.exception)


GPUS = ["generators.gpus=1", "learner.gpus=1", "rollout.episodes_per_step=64", "rollout.max_staleness=1"]


def test_the_best_split_keeps_generators_and_learner_about_equally_busy() -> None:
    run = load_config("smoke", [*GPUS, "generators.max_num_seqs=8"])
    # A generator plays 64 matches in 64 / 8 * 2 turns * 5 tokens * 18 ms = 1.44 s, and a rank learns them in 5.76 s.
    speeds = replace(SPEEDS, learn_s=0.0, token_s=5.76 / (64 * 2 * 15), sync_s=0.0, rest_s=0.0)
    found = splits(run, Given(speeds, Workload({}, EVEN_MATCHES)), 10, 80.0)
    assert [(split.generators, split.ranks) for split in found] == [(n, 10 - n) for n in range(1, 10)]
    chosen = best(found)
    assert chosen is not None
    assert chosen.generators == 2  # 0.72 s each; one more generator would leave the learner slower
    assert chosen.forecast.generator_busy > 0.9
    assert chosen.forecast.learner_busy > 0.9
    assert found[0].forecast.learner_busy < 0.6
    assert found[-1].forecast.generator_busy < 0.2


def test_a_split_that_does_not_fit_is_never_the_best() -> None:
    run = load_config("smoke", [*GPUS, "learner.pack_tokens=400000"])
    found = splits(run, Given(SPEEDS, Workload({}, EVEN_MATCHES)), 4, 2.0)
    assert not any(split.fits for split in found)
    assert best(found) is None


def test_generators_of_several_gpus_leave_the_rest_to_the_learner() -> None:
    run = load_config("smoke", [*GPUS, "generators.gpus=3"])
    found = splits(run, Given(SPEEDS, Workload({}, EVEN_MATCHES)), 10, 80.0)
    assert [(split.generators, split.ranks, split.num_gpus) for split in found] == [(1, 7, 10), (2, 4, 10), (3, 1, 10)]


@pytest.mark.parametrize("overrides", [[], ["generators.gpus=1", "learner.gpus=1", "generators.colocated=true"]])
def test_only_gpus_of_their_own_can_be_divided(overrides: list[str]) -> None:
    with pytest.raises(UserError, match="--split divides GPUs between"):
        splits(load_config("smoke", overrides), Given(SPEEDS, EVEN), 8, 80.0)


def test_given_speeds_are_compared_split_by_split(tmp_path: Path) -> None:
    options = ["--speeds", str(PUBLISHED), "--split", "6", "--price", "2", "--plot", str(tmp_path / "plan.png")]
    result = CliRunner().invoke(app, ["plan", "smoke", *GPUS, *options])
    assert result.exit_code == 0, result.output
    assert result.output.count("best") == 1
    assert "cost of" in result.output
    assert (tmp_path / "plan.png").exists()


@pytest.mark.parametrize(("generators", "ranks", "staleness", "published_s"), [(16, 32, 0, 192), (8, 16, 1, 152)])
def test_a_peer_s_published_step_times_are_predicted_within_30_percent(
    generators: int, ranks: int, staleness: int, published_s: float
) -> None:
    """NeMo-RL, Qwen3-30B-A3B on H100, 2,048 sequences a step. The first, in turns, gave the speed of the engine."""
    run = load_config(
        "smoke",
        [
            *("rollout.episodes_per_step=2048", f"rollout.max_staleness={staleness}", f"learner.gpus={ranks}"),
            *(f"generators.count={generators}", "generators.gpus=2", "generators.max_num_seqs=1024"),
        ],
    )
    given = Given.read(PUBLISHED)
    forecast = Forecast.of(run, given.workload, given.speeds)
    assert forecast.step_s == pytest.approx(published_s, rel=0.3 if staleness else 0.01)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("speeds: {}", "speeds.step_s: Field required"),
        ("speed: 1", "Extra inputs are not permitted|Field required"),
        ("a: [", "while parsing"),
    ],
)
def test_a_file_of_speeds_is_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "speeds.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        Given.read(file)
    assert "\n" not in str(caught.value)
