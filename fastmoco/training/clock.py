"""Training time, without pauses."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """Training time: what passes inside `with clock`, less what is paused."""

    def __enter__(self) -> Clock:
        self._begun = self._mark = time.perf_counter()
        self._paused = 0.0
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to close: a context, so that the time begins where the run does."""

    def seconds(self) -> float:
        return time.perf_counter() - self._begun - self._paused

    @contextmanager
    def paused(self) -> Iterator[None]:
        begun = time.perf_counter()
        yield
        self._paused += time.perf_counter() - begun

    def mark(self) -> None:
        self._mark = time.perf_counter()

    def since_mark(self) -> float:
        return time.perf_counter() - self._mark
