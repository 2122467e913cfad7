"""Writes weight files atomically, with digests of their records."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO, Any, cast

import torch

from data_tools.files import atomic
from fastmoco.weights.record_digests import add_digests


class _Noticing:
    """A file that keeps its first error. torch's zip writer turns errors of the system into a
    RuntimeError without their reason."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = self.error or error
            raise

    def flush(self) -> None:
        try:
            self._file.flush()
        except OSError as error:
            self.error = self.error or error
            raise


def write_weights(content: Any, path: Path) -> None:
    """Save content by torch.save, with digests. The file is written under another name, synced and
    renamed, so at any moment the old or the new file is complete.

    Raises OSError with the system's reason; no partial file is left then.
    """
    # Always the same name: a killed run leaves gigabytes there, which the next save replaces.
    with atomic(path, path.with_name(path.name + ".partial")) as partial, open(
        partial, "w+b"
    ) as file:
        noticing = _Noticing(file)
        try:
            torch.save(content, cast(IO[bytes], noticing))  # it only calls write and flush
        except RuntimeError:
            if noticing.error is None:
                raise
            raise noticing.error from None
        add_digests(file)
        file.flush()
        os.fsync(file.fileno())
