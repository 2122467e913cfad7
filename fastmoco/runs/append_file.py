"""Files that grow at their end, on a disk that may be full for a while."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


class Appended:
    """A file that only ever holds whole records: what the disk refuses waits in memory, in order,
    and is tried again with the next one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.trouble = ""
        """Why the last write failed; empty where all is written."""
        self._waiting = bytearray()
        self._told = ""

    def write(self, record: bytes) -> None:
        """Add a record (a line with its end); never raises for the disk: see trouble."""
        self._waiting += record
        try:
            with open(self.path, "ab", buffering=0) as file:
                self._write_all(file.fileno())
        except OSError as error:
            self.trouble = error.strerror or str(error)
        else:
            self._waiting.clear()
            self.trouble = ""

    def _write_all(self, file: int) -> None:
        before = os.fstat(file).st_size
        rest = bytes(self._waiting)
        try:
            while rest:
                rest = rest[os.write(file, rest) :]
        except OSError:
            with contextlib.suppress(OSError):  # the first error is the one to tell
                os.ftruncate(file, before)  # what a full disk took of it is no record
            raise

    def news(self) -> str | None:
        """A line where writing has begun to fail or works again since the last call."""
        if self.trouble == self._told:
            return None
        self._told = self.trouble
        if not self.trouble:
            return f"{self.path} is written again; nothing is missing"
        return (
            f"{self.path} cannot be written ({self.trouble}): its records wait in memory; make room"
        )
