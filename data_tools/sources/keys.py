"""Many names in little memory: one run of bytes, and where each ends."""

from __future__ import annotations

import bisect
import itertools
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, overload

import numpy as np

if TYPE_CHECKING:
    from data_tools.store import MappedStore


class Keys(Sequence[str]):
    """The names given, in their order: their bytes and 8 more each, where a str takes 50 more."""

    def __init__(self, names: Iterable[str]) -> None:
        blob, ends = bytearray(), array("Q", [0])
        for name in names:
            blob += name.encode("utf-8", "surrogateescape")
            ends.append(len(blob))
        self._blob = bytes(blob)
        self._starts = np.frombuffer(ends, np.uint64)

    def __len__(self) -> int:
        return len(self._starts) - 1

    @overload
    def __getitem__(self, i: int) -> str: ...

    @overload
    def __getitem__(self, i: slice) -> list[str]: ...

    def __getitem__(self, i: int | slice) -> str | list[str]:
        if isinstance(i, slice):
            return [self[j] for j in range(*i.indices(len(self)))]
        i = range(len(self))[i]
        return self._blob[int(self._starts[i]) : int(self._starts[i + 1])].decode(
            "utf-8", "surrogateescape"
        )

    def __iter__(self) -> Iterator[str]:
        # Blocks of bounds as plain integers: numpy's own are slow one at a time.
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


class RowKeys(Sequence[str]):
    """Keys "file/row", made when they are asked for: a million of them take no memory."""

    def __init__(self, files: Sequence[str], rows: Sequence[int]) -> None:
        self._files = list(files)
        self._ends = list(itertools.accumulate(rows))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, i: int) -> str: ...

    @overload
    def __getitem__(self, i: slice) -> list[str]: ...

    def __getitem__(self, i: int | slice) -> str | list[str]:
        if isinstance(i, slice):
            return [self[j] for j in range(*i.indices(len(self)))]
        file, row = self.locate(range(len(self))[i])
        return f"{self._files[file]}/{row}"

    def locate(self, i: int) -> tuple[int, int]:
        """The file that sample i lies in, and its row there."""
        file = bisect.bisect_right(self._ends, i)
        return file, i - (self._ends[file - 1] if file else 0)


class StoreKeys(Sequence[str]):
    """The keys that prep kept: paths as its own source had them."""

    def __init__(self, store: MappedStore) -> None:
        self._store = store

    def __len__(self) -> int:
        return len(self._store)

    @overload
    def __getitem__(self, i: int) -> str: ...

    @overload
    def __getitem__(self, i: slice) -> list[str]: ...

    def __getitem__(self, i: int | slice) -> str | list[str]:
        if isinstance(i, slice):
            return [self[j] for j in range(*i.indices(len(self)))]
        return self._store.key(range(len(self))[i])


class Picked(Sequence[str]):
    """Some of many names, without a list of them."""

    def __init__(self, names: Sequence[str], which: Sequence[int]) -> None:
        self._names, self._which = names, which

    def __len__(self) -> int:
        return len(self._which)

    def __getitem__(self, i):  # type: ignore[no-untyped-def]
        if isinstance(i, slice):
            return [self._names[j] for j in self._which[i]]
        return self._names[self._which[i]]
