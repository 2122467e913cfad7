"""How long work reports its progress: a callback per step, and who shows it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

Tick = Callable[[int, int], None]  # (done, total)
ShowProgress = Callable[[str, str], AbstractContextManager[Tick]]  # (title, unit)


@contextmanager
def silent(title: str, unit: str) -> Iterator[Tick]:
    """Progress that is shown to nobody."""
    yield lambda done, total: None
