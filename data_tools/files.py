"""Files that appear whole or not at all, records of their checksums, and the cache folder."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_tools.errors import UserError
from data_tools.safe_reading.limits import why

PARTIAL = ".partial"


def partial_name(path: Path) -> Path:
    """A name of its own: two processes, on any machines, that do the same part don't meet."""
    return path.with_name(f"{path.name}.{secrets.token_hex(8)}{PARTIAL}")


def write_whole(path: Path, data: bytes) -> None:
    """Write a file durably: a reader sees the old file or all of the new one, never a part."""
    partial = partial_name(path)
    try:
        with open(partial, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError:
        with suppress(OSError):  # report the first error
            partial.unlink(missing_ok=True)
        raise


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to; what is written takes the place of `path` if all goes well.

    Raises UserError, which names `path` and the reason, if it can't be written.
    """
    partial = path.with_name(f"{path.stem}.{secrets.token_hex(8)}{PARTIAL}{path.suffix}")
    try:
        yield partial
        os.replace(partial, path)
    except OSError as error:
        raise UserError(f"{path}: can't be written: {why(error)}; make room there, or name another "
                        "file") from None
    finally:
        partial.unlink(missing_ok=True)


@dataclass(frozen=True)
class FileRecord:
    """One file of a dataset."""

    bytes: int
    sha256: str = ""
    """Empty for data files: the index holds a checksum of each image."""


class Sealed:
    """A file that is written once, durably, and gets a record."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = open(path, "wb")
        self._digest = hashlib.sha256()
        self._bytes = 0

    def write(self, data: bytes) -> None:
        self._digest.update(data)
        self._bytes += len(data)
        self._file.write(data)

    def write_json(self, value: dict[str, Any]) -> None:
        """One line of JSON."""
        self.write(json.dumps(value).encode() + b"\n")

    @property
    def record(self) -> FileRecord:
        return FileRecord(self._bytes, self._digest.hexdigest())

    def __enter__(self) -> Sealed:
        return self

    def __exit__(self, *error: object) -> None:
        if error[0] is None:
            self._file.flush()
            os.fsync(self._file.fileno())
        self._file.close()


def sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def cache_dir() -> Path:
    """$XDG_CACHE_HOME/fastmoco, by default ~/.cache/fastmoco."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "fastmoco"
