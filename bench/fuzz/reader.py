"""A reader to fuzz: its valid files, its edits, and its errors."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from bench.fuzz import mutations
from data_tools.errors import UserError

Edit = Callable[[random.Random, bytes], bytes]
"""A structure-aware change of a file. It may raise any error if it cannot parse the bytes."""


class Case(NamedTuple):
    """A changed file."""

    target: str
    """Name of the reader's file that was changed."""
    data: bytes
    mended: bool
    """Whether its checksums were corrected."""


@dataclass(frozen=True)
class Reader:
    """One way in which foreign bytes come in."""

    name: str
    build: Callable[[Path], list[str]]
    """Writes valid files into an empty folder; returns the names of the files to change."""
    read: Callable[[Path, str], Any]
    """Reads the files in a folder, of which the named one was changed, as the commands do.

    Returns the content, as `same` compares it; None if the file counts as absent. It must not map
    the file, which is restored before the comparison."""
    edits: tuple[Edit, ...] = ()
    mending: tuple[Edit, ...] = ()
    """Edits that also correct the file's checksums, so that a reader may accept the file."""
    same: Callable[[Any, Any], bool] | None = None
    """For files with checksums: returns whether accepted content is the written content."""
    settle: Callable[[Path], list[str]] | None = None
    """For files that depend on the folder's path: called in a copy of the built folder; returns the
    names of the files to change."""
    writes: bool = False
    """True if reading changes files of the folder; they are restored after each case."""
    slow: bool = False
    """True if a file takes more than 50 ms; then --files allows an eighth."""
    refusals: tuple[type[BaseException], ...] = (UserError,)
    """The exceptions that reading may raise."""

    def mutate(self, number: int, seed: int, originals: dict[str, bytes], flips: bool) -> Case:
        """Return case `number`, which only the arguments decide. flips: change one bit."""
        rng = random.Random(f"{seed} {self.name} {number}")
        target = rng.choice(sorted(originals))
        data = originals[target]
        if flips or rng.random() < 0.1:
            return Case(target, mutations.flip(rng, data), False)
        others = [originals[name] for name in sorted(originals)]
        edits, mended = (*self.edits, *self.mending), False
        most = len(data) + mutations.GROWTH
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            data = data[:most]
            if edits and rng.random() < 0.6:
                edit = rng.choice(edits)
                try:
                    data = edit(rng, data)
                    mended |= edit in self.mending
                    continue
                except Exception:  # an earlier change left nothing that can be parsed
                    pass
            data = mutations.change(rng, data, others)
        return Case(target, data[:most], mended)


def equal(a: Any, b: Any) -> bool:
    """Return whether values are equal in structure and content, arrays and tensors in every bit."""
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(equal, a, b))
    if hasattr(a, "dtype"):
        return (getattr(b, "dtype", None) == a.dtype and a.shape == b.shape
                and bytes_of(a) == bytes_of(b))
    return type(a) is type(b) and (a == b or repr(a) == repr(b))  # repr: NaN equals itself


def bytes_of(array: Any) -> bytes:
    """Return the bytes of a numpy array or a tensor."""
    if hasattr(array, "numpy"):
        import torch

        array = array.detach().contiguous().view(-1).view(torch.uint8).numpy()
    return array.tobytes()
