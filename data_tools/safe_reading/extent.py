"""How large a value becomes for those who walk over it, following each reference to a shared part.

Sixty lists, each of which holds the one before it twice, take a few kilobytes, and have no end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

# A checkpoint of a ResNet-50 with its optimizer has 20,000 values in 5 levels, CIFAR-100 150,000.
VALUES = 1_000_000
LEVELS = 64
PATHS = 256 << 20  # characters of all values' dotted names together


class TooLarge(ValueError):
    """A value is more than what may be walked over. `str(error)` goes on behind its name."""


class Extent(NamedTuple):
    levels: int = 0
    values: int = 1
    path: int = 0
    """Characters of the dotted names of all values in it."""
    bytes: int = 0
    """Memory of the arrays in it."""


def measure(value: Any, array_bytes: Callable[[Any], int]) -> Extent:
    """The extent of a value of lists, tuples, dicts and sets; `array_bytes` gives the memory of
    any other value. Raises TooLarge, also for a container that holds itself."""
    return _measure(value, array_bytes, LEVELS, {})


def _measure(
    value: Any, array_bytes: Callable[[Any], int], levels: int, known: dict[int, Extent | None]
) -> Extent:
    if isinstance(value, (set, frozenset)):
        return Extent(1, 1 + len(value))
    if not isinstance(value, (list, tuple, dict)):
        return Extent(bytes=array_bytes(value))
    seen = known.get(id(value), Extent())
    if seen is None:
        raise TooLarge("holds a container that holds itself")
    if not levels or seen.levels > levels:
        raise TooLarge(f"is nested deeper than {LEVELS} levels")
    if id(value) in known:
        return seen
    known[id(value)] = None  # until all that is in it is known
    deepest, values, path, size = 0, 1, 0, 0
    for key, part in value.items() if isinstance(value, dict) else enumerate(value):
        name = len(key) + 1 if isinstance(key, (str, bytes)) else 8
        inner = _measure(part, array_bytes, levels - 1, known)
        deepest = max(deepest, inner.levels)
        values += inner.values
        path += inner.path + name * inner.values
        size += inner.bytes
    if values > 2 * VALUES or path > PATHS:
        raise TooLarge("unfolds to more than a checkpoint holds")
    known[id(value)] = found = Extent(deepest + 1, values, path, size)
    return found
