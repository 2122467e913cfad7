"""The times of a run: of training without pauses, and of its budget with all of them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """Measures the training time of this process, and adds that of the processes before it."""

    def __init__(
        self, started: float, train_before: float = 0.0, budget_before: float = 0.0
    ) -> None:
        """started: time.monotonic() from which the budget counts. The others are the seconds that
        earlier processes of this run took."""
        self.started, self._train_before, self.budget_before = started, train_before, budget_before
        self.start()

    def start(self) -> None:
        """Start the training time: set-up is not part of it."""
        self._start = self._mark = time.perf_counter()
        self._paused = 0.0

    def seconds(self) -> float:
        """Training time of this process, without pauses."""
        return time.perf_counter() - self._start - self._paused

    def train_seconds(self) -> float:
        """Training time of the whole run."""
        return self._train_before + self.seconds()

    def budget_seconds(self) -> float:
        """Time of the whole run, pauses and set-up included."""
        return self.budget_before + time.monotonic() - self.started

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Do not count the time of this block as training time."""
        started = time.perf_counter()
        yield
        self._paused += time.perf_counter() - started

    def mark(self) -> None:
        """Start since_mark() at 0 again."""
        self._mark = time.perf_counter()

    def since_mark(self) -> float:
        """Seconds since the last mark, pauses included."""
        return time.perf_counter() - self._mark
