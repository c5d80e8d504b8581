"""Recorded matches replayed among many others."""

from concurrent.futures import ThreadPoolExecutor

from spiral.game.recording import record, replay

GAMES = ("textarena/PigDice-v0", "textarena/TicTacToe-v0", "textarena/KuhnPoker-v0", "leduc_poker", "openspiel/pig")


def test_sixteen_threads_of_fifty_interleaved_matches_equal_sequential_play() -> None:
    recorded = [(game_id, record(game_id, seed)) for game_id in GAMES for seed in range(50)]
    assert len({recording.fingerprint for _, recording in recorded}) > 150

    def fifty_interleaved(thread: int) -> list[bool]:
        """One action in each unfinished match, round after round. Each thread has its own selection and order."""
        mine = [recorded[(thread * 31 + n * 7) % len(recorded)] for n in range(50)]
        running = [replay(game_id, recording.seed, recording.actions) for game_id, recording in mine]
        last = [""] * 50
        while not all(last):
            last = [found or next(match) for found, match in zip(last, running, strict=True)]
        return [recording.fingerprint == found for (_, recording), found in zip(mine, last, strict=True)]

    with ThreadPoolExecutor(16) as pool:
        assert [all(same) for same in pool.map(fifty_interleaved, range(16))] == [True] * 16
