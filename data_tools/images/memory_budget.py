"""A budget of memory over all threads: work that needs much of it takes turns.

A semaphore whose permits are bytes. Requests are served in the order in which they came, so that a
large one is not passed by small ones for ever. A request above the whole budget waits until
nothing else is under way, and then runs alone.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

# Work that needs less than this does not wait: the threads are few, so it adds little.
SMALL = 16 << 20


class MemoryBudget:
    """Bytes that may be in use at once by those who ask."""

    def __init__(self, total: int) -> None:
        self._total = max(1, total)
        self._used = 0
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()

    def resize(self, total: int) -> None:
        """Sets another total, for those who ask from now on."""
        with self._changed:
            self._total = max(1, total)
            self._changed.notify_all()

    @contextmanager
    def take(self, size: int) -> Iterator[None]:
        """Waits until `size` bytes fit beside what others hold, and holds them meanwhile.

        A thread that holds some must not take more of the same budget.
        """
        if size < SMALL:
            yield
            return
        ticket = object()
        with self._changed:
            self._waiting.append(ticket)
            try:
                self._changed.wait_for(
                    lambda: self._waiting[0] is ticket
                    and (not self._used or self._used + size <= self._total)
                )
                self._used += size
            finally:
                self._waiting.remove(ticket)
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._used -= size
                self._changed.notify_all()


# Of this process: what its threads hold while they decode, and while they hold files' bytes. A
# thread that holds bytes waits for the turn to decode, never the other way, so none waits for ever.
DECODING = MemoryBudget(4 << 30)
READING = MemoryBudget(1 << 30)
