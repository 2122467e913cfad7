"""Makes finished parts durable in the background."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

# Number of parts that may wait to be synced while the next one is written.
COMMITS = 2


class Commits:
    """Makes parts durable, in order, in a thread of its own: one part is synced while the next one
    is written."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1)
        self._pending: deque[Future[None]] = deque()

    def submit(self, commit: Callable[[], None]) -> None:
        while len(self._pending) >= COMMITS:
            self._pending.popleft().result()
        self._pending.append(self._pool.submit(commit))

    def wait(self) -> None:
        while self._pending:
            self._pending.popleft().result()

    def __enter__(self) -> Commits:
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown()
