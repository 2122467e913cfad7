"""A log file that loses no record while the disk is full."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


class Appended:
    """A file that holds only whole records.

    Records that the disk refuses wait in memory, and are written in order together with a later
    one. So a full disk does not stop a run, and no record is lost once there is room again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.trouble = ""
        """Reason why the last write failed; empty if every record is on disk."""
        self._waiting = bytearray()
        self._reported = ""

    def write(self, record: bytes) -> None:
        """Append a record, with its line end. Raises no OSError: `trouble` holds the reason."""
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
            with contextlib.suppress(OSError):  # report the first error
                os.ftruncate(file, before)  # remove the part of a record that did fit
            raise

    def news(self) -> str | None:
        """Return a line if writing has started to fail, or works again, since the last call."""
        if self.trouble == self._reported:
            return None
        self._reported = self.trouble
        if not self.trouble:
            return f"{self.path} is written again; nothing is missing"
        return (
            f"{self.path} cannot be written ({self.trouble}): its records wait in memory; make room"
        )
