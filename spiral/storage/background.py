"""Writing files in a thread, while the process goes on."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class BackgroundWriter:
    """Runs one writing function at a time in a thread called `name`.

    What the function raises (a full disk) is raised by the next `begin`, `finish` or `raise_failure`.
    """

    def __init__(self, name: str) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)
        self._writing: Future[object] | None = None

    def begin(self, write: Callable[[], object]) -> None:
        """Call `write` in the thread, once the previous one is finished. It must not touch what the caller changes."""
        self.finish()
        self._writing = self._thread.submit(write)

    def finish(self) -> None:
        """Wait until the function that is running, if any, has returned."""
        if self._writing is not None:
            writing, self._writing = self._writing, None
            writing.result()

    def raise_failure(self) -> None:
        """Raise what a function that has ended raised; do not wait for one that is running."""
        if self._writing is not None and self._writing.done():
            self.finish()
