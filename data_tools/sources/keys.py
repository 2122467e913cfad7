"""Sequences of names that take little memory: packed, computed, or picked from another one."""

from __future__ import annotations

import bisect
import itertools
from abc import abstractmethod
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, overload

import numpy as np

if TYPE_CHECKING:
    from data_tools.store import MappedStore


class Lazy(Sequence[str]):
    """A sequence whose names are made when they are asked for. Subclasses give len() and _name().

    It indexes as a list does: negative positions count from the end, and a slice is a list.
    """

    @abstractmethod
    def _name(self, i: int) -> str:
        """The name at i, 0 <= i < len(self)."""

    @overload
    def __getitem__(self, i: int) -> str: ...

    @overload
    def __getitem__(self, i: slice) -> list[str]: ...

    def __getitem__(self, i: int | slice) -> str | list[str]:
        places = range(len(self))[i]
        return self._name(places) if isinstance(places, int) else [*map(self._name, places)]

    def __iter__(self) -> Iterator[str]:
        return map(self._name, range(len(self)))


class Keys(Lazy):
    """Given names, packed: each takes its bytes and 8 more, while a str takes 50 more."""

    def __init__(self, names: Iterable[str]) -> None:
        blob, ends = bytearray(), array("Q", [0])
        for name in names:
            blob += name.encode("utf-8", "surrogateescape")
            ends.append(len(blob))
        self._blob = bytes(blob)
        self._starts = np.frombuffer(ends, np.uint64)

    def __len__(self) -> int:
        return len(self._starts) - 1

    def _name(self, i: int) -> str:
        return self._blob[int(self._starts[i]) : int(self._starts[i + 1])].decode(
            "utf-8", "surrogateescape"
        )

    def __iter__(self) -> Iterator[str]:
        # Bounds become plain integers a block at a time: numpy's are slow one by one.
        for begin in range(0, len(self), 4096):
            bounds = self._starts[begin : begin + 4097].tolist()
            for start, stop in zip(bounds, bounds[1:], strict=False):
                yield self._blob[start:stop].decode("utf-8", "surrogateescape")

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Keys):
            same = np.array_equal(self._starts, other._starts)
            return bool(same) and self._blob == other._blob
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]


class RowKeys(Lazy):
    """Keys "file/row", computed, so that a million of them take no memory."""

    def __init__(self, files: Sequence[str], rows: Sequence[int]) -> None:
        self._files = list(files)
        self._ends = list(itertools.accumulate(rows))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def _name(self, i: int) -> str:
        file, row = self.locate(i)
        return f"{self._files[file]}/{row}"

    def locate(self, i: int) -> tuple[int, int]:
        """The number of the file that holds sample i, and the sample's row there."""
        file = bisect.bisect_right(self._ends, i)
        return file, i - (self._ends[file - 1] if file else 0)


class StoreKeys(Lazy):
    """The keys in a dataset that prep wrote: paths as they were in its source."""

    def __init__(self, store: MappedStore) -> None:
        self._store = store

    def __len__(self) -> int:
        return len(self._store)

    def _name(self, i: int) -> str:
        return self._store.key(i)


class Picked(Lazy):
    """Some of the names of another sequence, by their positions there."""

    def __init__(self, names: Sequence[str], which: Sequence[int]) -> None:
        self._names, self._which = names, which

    def __len__(self) -> int:
        return len(self._which)

    def _name(self, i: int) -> str:
        return self._names[self._which[i]]
