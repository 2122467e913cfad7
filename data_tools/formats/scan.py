"""Makes the index of a file of records in one pass over its bytes.

The file may be damaged or hostile. So a length is compared with the rest of the file before its
bytes are read, and memory holds one record, plus an index row of 41 bytes for each image so far.
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
# Bytes of the largest record. It is also protobuf's limit; no training image comes near it.
LARGEST = 2 << 30
REPORT = 32 << 20  # bytes between two reports of progress
WINDOW = 1 << 20


class Scan:
    """Reads a file forwards and collects the rows of the images in it.

    progress(done, total): called with bytes, now and then. unit: the name of a record in messages.
    Raises UserError, with the record's number and first byte, if the file ends too early.
    """

    def __init__(self, path: Path, progress: Tick | None = None, unit: str = "record") -> None:
        self.path = path
        self.unit = unit
        """Name of a record in messages."""
        self.number = -1
        """Number of the current record, from 0."""
        self.start = 0
        """Offset of the current record."""
        self.position = 0
        """Offset of the next byte that `take` reads."""
        self._progress = progress
        self._reported = 0
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
        """Starts the next record. Returns False at the end of the file."""
        if self._progress and self.position - self._reported >= REPORT:
            self._reported = self.position
            self._progress(self.position, self.size)
        self.number += 1
        self.start = self.position
        return self.position < self.size

    def take(self, size: int) -> bytes:
        """Reads the next `size` bytes."""
        self._check(size)
        if size > LARGEST:
            raise self.damaged(f"{self.unit} {self.number} claims {size} bytes")
        data = self._file.read(size)
        self.position += size
        if len(data) < size:  # the file has become shorter meanwhile
            raise self._truncated()
        return data

    def pread(self, size: int, offset: int) -> bytes:
        """Reads bytes at any offset, fewer at the file's end. Leaves `position` unchanged.

        Keeps one window of the file, which moves forwards, to save system calls for small reads.
        """
        at = offset - self._window_at
        if at >= len(self._window):
            self._window = os.pread(self._file.fileno(), max(size, WINDOW), offset)
            self._window_at, at = offset, 0
        if at < 0 or (at + size > len(self._window) and offset + size <= self.size):
            return os.pread(self._file.fileno(), size, offset)
        return self._window[at : at + size]

    def reach(self, position: int) -> None:
        """Starts a record at this offset, for a reader that finds the records itself."""
        self.position = position
        self.begin()

    def skip(self, size: int) -> None:
        """Moves over the next `size` bytes."""
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
        """Returns the error to raise. what: the fault and its place."""
        return UserError(f"{self.path}: damaged at byte {self.start}: {what}; copy or download it "
                         "again")

    def add(self, data: bytes, offset: int, label: int, flags: int = 0) -> None:
        """Appends the index row of an image.

        data: the image's bytes. offset: its first byte in the file. label: below 0 means none.
        flags: SPLIT if the file doesn't hold the bytes in one piece.
        """
        kind, height, width, head = sniff(data)
        label = label if 0 <= label < 1 << 63 else -1
        self._rows += ROW.pack(
            offset + head, len(data) - head, height, width, label, 0, 0, kind | flags
        )

    def rows(self) -> np.ndarray:
        """The index, INDEX_DTYPE [N]. Call it once, at the end."""
        if self._progress:
            self._progress(self.size, self.size)
        return np.frombuffer(self._rows, INDEX_DTYPE)


def beginning(path: Path, size: int) -> bytes:
    """The first `size` bytes of a file, or all if it has fewer."""
    with open(path, "rb", opener=open_regular) as file:
        return file.read(size)


def inflated(head: bytes, size: int) -> bytes:
    """The first `size` unpacked bytes of a gzip or zlib stream; b"" if it is none."""
    try:
        return zlib.decompressobj(wbits=47).decompress(head, size)
    except zlib.error:
        return b""
