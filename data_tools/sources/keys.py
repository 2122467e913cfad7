"""Many names in little memory: one run of bytes, and where each ends."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import numpy as np


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
