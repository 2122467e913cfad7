"""A budget of memory for all threads, so that work that needs much of it takes turns.

It is a semaphore that counts bytes. Requests are served in their order: otherwise small ones could
overtake a large one for ever. A request above the whole budget waits until nothing else runs, and
then runs alone.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

# Bytes. Smaller requests never wait: there are few threads, so they add little.
SMALL = 16 << 20


class MemoryBudget:
    """A number of bytes that threads may use at once. They ask with `take`."""

    def __init__(self, total: int) -> None:
        self._total = max(1, total)
        self._used = 0
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()

    def resize(self, total: int) -> None:
        """Sets another total, for requests from now on."""
        with self._changed:
            self._total = max(1, total)
            self._changed.notify_all()

    @contextmanager
    def take(self, size: int) -> Iterator[None]:
        """Waits until `size` bytes are free, and holds them during the block.

        A thread must not take twice from the same budget: it could wait for itself.
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


# This process's budgets, for decoding and for the bytes of files that were read. A thread takes
# from READING first and from DECODING second, never in the other order, so none waits for ever.
DECODING = MemoryBudget(4 << 30)
READING = MemoryBudget(1 << 30)
