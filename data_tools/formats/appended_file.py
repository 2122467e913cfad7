"""The file of a sharded format while it is written: bytes are only ever appended."""

from __future__ import annotations

import os
from pathlib import Path


class AppendedFile:
    """A new file at `path`. A full disk is an OSError, in writes and in finish()."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = open(path, "wb", buffering=1 << 20)
        self._end = 0
        """Bytes written so far."""

    def finish(self) -> None:
        """Writes buffered bytes to the disk, so that they survive a power cut, and closes."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def close(self) -> None:
        """Closes the file as it is, if the work is given up."""
        self._file.close()
