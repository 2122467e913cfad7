"""Random access to encoded images, whatever the format: the Store, and the index that makes it.

Every format comes down to one file and, for each sample, where its bytes lie in it. The index is
that table in one .npy (numpy's format 1.0), memory-mapped, so opening reads next to nothing.
"""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Protocol

import numpy as np

from data_tools.errors import UserError

INDEX = "index.npy"
KEYS = "keys.txt"
INDEX_DTYPE = np.dtype(
    [
        ("offset", "<u8"),  # bytes from the start of the data file
        ("size", "<u8"),  # bytes
        ("height", "<i4"),  # pixels
        ("width", "<i4"),
        ("label", "<i8"),  # -1: unlabelled
        ("raw", "u1"),  # 1: height x width x 3 uint8 RGB; 0: JPEG
    ]
)


class Store(Protocol):
    """A random-access sequence of N encoded images."""

    path: Path
    sizes: np.ndarray
    """int32 [N, 2]: height, width in pixels."""
    labels: np.ndarray
    """int64 [N]; -1 where unlabelled."""
    classes: list[str]
    """Names by label; empty where there are none or the file doesn't tell."""
    raw: np.ndarray
    """bool [N]: True where the sample is raw RGB, height x width x 3 uint8, and not a JPEG."""
    fingerprint: str
    """Hex digest that changes with the data."""

    def __len__(self) -> int: ...

    def encoded(self, i: int) -> np.ndarray:
        """Sample i's bytes, uint8 [size], without a copy. Read-only; holds the file open."""

    def key(self, i: int) -> str:
        """What to call sample i in a message: its path in the source, where that is known."""


class MappedStore:
    """A Store over one memory-mapped data file and an index into it (INDEX_DTYPE, [N]).

    Threads may share it. It pickles as its path, so worker processes reopen it.
    """

    def __init__(
        self,
        path: Path,
        data: Path,
        index: np.ndarray,
        classes: list[str],
        fingerprint: str,
        keys: Path | None = None,
    ) -> None:
        self.path = path
        self.classes = classes
        self.fingerprint = fingerprint
        self.sizes = np.stack([index["height"], index["width"]], axis=1)
        self.labels = index["label"].astype(np.int64)
        self.raw = index["raw"].astype(bool)
        self._data_path = data
        self._keys_path = keys
        self._keys: list[str] | None = None
        self._starts = index["offset"].astype(np.int64)
        self._ends = self._starts + index["size"].astype(np.int64)
        with open(data, "rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        # A plain array: slices of numpy's memmap class cost several times as much.
        self._bytes = np.frombuffer(mapped, np.uint8)
        if len(index) and int(self._ends.max()) > len(self._bytes):
            raise UserError(f"{data}: truncated: samples lie behind its end; prepare it again")

    def __len__(self) -> int:
        return len(self._starts)

    def encoded(self, i: int) -> np.ndarray:
        return self._bytes[self._starts[i] : self._ends[i]]

    def key(self, i: int) -> str:
        if self._keys is None and self._keys_path is not None:
            self._keys = read_keys(self._keys_path)
        if self._keys is None:
            return f"sample {i} of {self._data_path}"
        return self._keys[i]

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        from data_tools.open import open_store

        return open_store, (self.path,)


def read_index(path: Path, samples: int) -> np.ndarray:
    """The index in `path`, INDEX_DTYPE [samples], memory-mapped. Raises UserError if damaged."""
    try:
        index = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        index = None
    if index is None or index.dtype != INDEX_DTYPE or index.shape != (samples,):
        raise UserError(f"{path}: damaged; remove {path.parent} and run prep again")
    return index


def write_keys(keys: list[str]) -> bytes:
    """Keys as lines of UTF-8; backslash and newline are escaped, undecodable bytes come back."""
    lines = [key.replace("\\", "\\\\").replace("\n", "\\n") for key in keys]
    return ("\n".join(lines) + "\n").encode("utf-8", "surrogateescape")


def read_keys(path: Path) -> list[str]:
    lines = path.read_bytes().decode("utf-8", "surrogateescape").split("\n")[:-1]
    plain = [line.replace("\\\\", "\0").replace("\\n", "\n").replace("\0", "\\") for line in lines]
    return plain
