"""One pass over a file of records, whoever wrote it: bytes come in order, index rows go out.

Nothing is believed before it is checked: a length is compared with what the file still holds
before a byte is read for it, and memory holds one record and 41 bytes for each that was.
"""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path
from types import TracebackType

import numpy as np

from data_tools.errors import UserError
from data_tools.images.sniff import sniff
from data_tools.progress import Tick
from data_tools.safe_reading.regular import open_regular
from data_tools.store import INDEX_DTYPE

ROW = struct.Struct("<QQiiqIIB")
# protobuf's limit for a message too; no image of a training set comes near it.
LARGEST = 2 << 30
REPORT = 32 << 20
WINDOW = 1 << 20


class Scan:
    """Reads a file forwards and collects the rows of the images in it.

    Raises UserError, naming the record and the byte it begins at, where the file ends too early.
    progress(done, total): told bytes, now and then.
    """

    def __init__(self, path: Path, progress: Tick | None = None, unit: str = "record") -> None:
        self.path = path
        self.unit = unit
        """What `begin` counts, in messages."""
        self.number = -1
        """Of the record that is being read, from 0."""
        self.start = 0
        """Where it begins: bytes from the start of the file."""
        self.position = 0
        self._progress = progress
        self._told = 0
        self._window, self._window_at = b"", 0
        self._rows = bytearray()
        self._file = open(path, "rb", buffering=1 << 20, opener=open_regular)
        self.size = os.fstat(self._file.fileno()).st_size

    def __enter__(self) -> Scan:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:  # fmt: skip
        self._file.close()

    def begin(self) -> bool:
        """Begins the next record; False at the end of the file."""
        if self._progress and self.position - self._told >= REPORT:
            self._told = self.position
            self._progress(self.position, self.size)
        self.number += 1
        self.start = self.position
        return self.position < self.size

    def take(self, size: int) -> bytes:
        """The next bytes."""
        self._check(size)
        if size > LARGEST:
            raise self.damaged(f"{self.unit} {self.number} claims {size} bytes")
        data = self._file.read(size)
        self.position += size
        if len(data) < size:  # the file shrinks while it is read
            raise self._truncated()
        return data

    def pread(self, size: int, offset: int) -> bytes:
        """Bytes from any place, fewer at the end; `position` stays.

        One window moves forwards through the file: a system call for each read would cost more.
        """
        at = offset - self._window_at
        if at >= len(self._window):
            self._window = os.pread(self._file.fileno(), max(size, WINDOW), offset)
            self._window_at, at = offset, 0
        if at < 0 or (at + size > len(self._window) and offset + size <= self.size):
            return os.pread(self._file.fileno(), size, offset)
        return self._window[at : at + size]

    def reach(self, position: int) -> None:
        """For a reader that finds its records itself: begins one at this byte."""
        self.position = position
        self.begin()

    def skip(self, size: int) -> None:
        self._check(size)
        self.position += size
        self._file.seek(self.position)

    def _check(self, size: int) -> None:
        if size > self.size - self.position:
            raise self._truncated()

    def _truncated(self) -> UserError:
        return UserError(f"{self.path}: truncated in {self.unit} {self.number} at byte "
                         f"{self.start}; copy or download it again")

    def damaged(self, what: str) -> UserError:
        """To be raised: `what` says what is wrong where."""
        return UserError(f"{self.path}: damaged at byte {self.start}: {what}; copy or download it "
                         "again")

    def add(self, data: bytes, offset: int, label: int, flags: int = 0) -> None:
        """Takes an image, which lies at `offset`; one that isn't 0 or more is no label.

        flags: SPLIT, where the file doesn't hold the bytes in one piece.
        """
        kind, height, width, head = sniff(data)
        label = label if 0 <= label < 1 << 63 else -1
        self._rows += ROW.pack(
            offset + head, len(data) - head, height, width, label, 0, 0, kind | flags
        )

    def rows(self) -> np.ndarray:
        """INDEX_DTYPE, one for each image. To be called at the end."""
        if self._progress:
            self._progress(self.size, self.size)
        return np.frombuffer(self._rows, INDEX_DTYPE)


def beginning(path: Path, size: int) -> bytes:
    with open(path, "rb", opener=open_regular) as file:
        return file.read(size)


def inflated(head: bytes, size: int) -> bytes:
    """At most `size` bytes of what lies compressed in a gzip or zlib stream; b"" for no stream."""
    try:
        return zlib.decompressobj(wbits=47).decompress(head, size)
    except zlib.error:
        return b""
