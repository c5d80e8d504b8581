"""Threads in which scripted players think, so that a tree search in one match does not hold up the others."""

import asyncio
import queue
import threading
import time
from collections.abc import Callable

NUM_THREADS = 2
"""Scripts are mostly Python, which runs in one thread at a time: more threads would only slow the event loop down."""


class ScriptTooSlow(Exception):
    """A scripted player took longer than its limit."""


class _Call:
    """A call on its way through a thread. `done` belongs to the event loop."""

    def __init__(self, run: Callable[[], str]) -> None:
        self.run = run
        self.loop = asyncio.get_running_loop()
        self.done: asyncio.Future[str] = self.loop.create_future()
        self.started_s: float | None = None
        self.abandoned = False

    def finish(self, result: str, error: Exception | None) -> None:
        """Called in the event loop, which may have stopped waiting."""
        if self.abandoned:
            return
        if error is None:
            self.done.set_result(result)
        else:
            self.done.set_exception(error)


class ScriptThreads:
    """A few daemon threads that run calls one after another. They start with the first call.

    The threads are daemons, unlike those of `concurrent.futures`: one that never returns does not keep the process from
    ending.
    """

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[_Call] = queue.SimpleQueue()
        self._num_threads = 0

    async def run(self, function: Callable[[], str], limit_s: float) -> str:
        """The result of `function()`. Raises ScriptTooSlow if the call takes longer than `limit_s`.

        The time until a thread is free does not count. A call that takes too long, or whose caller is cancelled, is
        abandoned, and another thread takes the place of its thread.
        """
        if self._num_threads < NUM_THREADS:
            self._add_thread()
        call = _Call(function)
        self._calls.put(call)
        try:
            while not call.done.done():
                left_s = limit_s if call.started_s is None else call.started_s + limit_s - time.monotonic()
                if left_s <= 0:
                    raise ScriptTooSlow
                await asyncio.wait([call.done], timeout=left_s)
        finally:
            if not call.done.done():
                call.abandoned = True
                self._add_thread()
        return call.done.result()

    def _add_thread(self) -> None:
        self._num_threads += 1
        threading.Thread(target=self._work, name=f"script_{self._num_threads}", daemon=True).start()

    def _work(self) -> None:
        call = self._calls.get()
        while not call.abandoned:
            call.started_s = time.monotonic()
            result, error = "", None
            try:
                result = call.run()
            except Exception as raised:  # noqa: BLE001 -- it belongs to whoever waits for the call
                error = raised
            if call.abandoned:
                return
            call.loop.call_soon_threadsafe(call.finish, result, error)
            call = self._calls.get()
