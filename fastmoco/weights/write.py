"""Weight files of ours: on disk whole or not at all, each with the digests of its records."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO, Any

import torch

from data_tools.files import atomic
from fastmoco.weights.record_digests import add_digests


class _Noticing:
    """A file for torch's zip writer, which makes a RuntimeError without a reason of the system's
    errors: the first of them is kept."""

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
    """torch.save, with digests. Written beside, synced and renamed: at every instant the old file
    or the new one is whole. Raises OSError with the system's reason, and leaves nothing behind."""
    # One name for all times: a killed run leaves gigabytes there, which the next save replaces.
    with atomic(path, path.with_name(path.name + ".partial")) as partial, open(
        partial, "w+b"
    ) as file:
        noticing = _Noticing(file)
        try:
            torch.save(content, noticing)  # type: ignore[arg-type]
        except RuntimeError:
            if noticing.error is None:
                raise
            raise noticing.error from None
        add_digests(file)
        file.flush()
        os.fsync(file.fileno())
