"""TensorBoard: the rows of metrics.jsonl as scalars, in event files. Needs the extra `tensorboard`."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from spiral.config import Config
from spiral.monitor.sink import Sink
from spiral.types import Episode


class TensorboardSink(Sink):
    """RUN_DIR/tensorboard, to be shown with `tensorboard --logdir RUN_DIR`."""

    def __init__(self, config: Config, first_step: int, state: Mapping[str, Any]) -> None:
        self._dir = str(config.run_dir / "tensorboard")
        self._writer: EventFileWriter | None = None

    def row(self, row: Mapping[str, float], transcripts: Sequence[Episode]) -> None:
        step, now_s = int(row["step"]), time.time()
        values = [Summary.Value(tag=key, simple_value=value) for key, value in row.items() if key != "step"]
        try:
            if self._writer is None:
                self._writer = EventFileWriter(self._dir)
                # Readers drop what earlier files hold from this step on.
                start = SessionLog(status=SessionLog.START)
                self._writer.add_event(Event(wall_time=now_s, step=step, session_log=start))
            self._writer.add_event(Event(wall_time=now_s, step=step, summary=Summary(value=values)))
            self._writer.flush()
        except OSError:
            self._writer = None  # its file may end in the middle of an event: the next attempt begins another one
            raise

    def close(self, *, failed: bool) -> str | None:
        if self._writer is not None:
            self._writer.close()
        return None
