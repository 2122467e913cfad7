"""The types of callbacks by which long work reports its progress."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

Tick = Callable[[int, int], None]  # (done, total)
ShowProgress = Callable[[str, str], AbstractContextManager[Tick]]  # (title, unit)


@contextmanager
def silent(title: str, unit: str) -> Iterator[Tick]:
    """A ShowProgress that shows nothing."""
    yield lambda done, total: None
