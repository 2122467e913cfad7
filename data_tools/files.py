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
    """A temporary name beside `path`, unique among all processes on all machines."""
    return path.with_name(f"{path.name}.{secrets.token_hex(8)}{PARTIAL}")


@contextmanager
def atomic(path: Path, partial: Path | None = None) -> Iterator[Path]:
    """Gives a temporary file beside `path` to write, which replaces `path` if the block succeeds.

    So `path` is the old file or the whole new one at every instant. If the block fails, the
    temporary file is removed, and `path` is unchanged.

    partial: the temporary file's path, by default a unique one. A fixed name is for a `path` that
    one process at a time writes: the file that a killed process leaves is then written over.
    """
    partial = partial or partial_name(path)
    try:
        yield partial
        os.replace(partial, path)
    except BaseException:
        with suppress(OSError):  # it would hide the error
            partial.unlink(missing_ok=True)
        raise


def write_whole(path: Path, data: bytes) -> None:
    """Writes a file that is either all there or not at all, also after a power cut."""
    with atomic(path) as partial, open(partial, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Like `atomic`, for a file that the user named: keeps its suffix, since writers choose the
    format by it, and raises UserError, with the path and the reason, if it can't be written."""
    partial = path.with_name(f"{path.stem}.{secrets.token_hex(8)}{PARTIAL}{path.suffix}")
    try:
        with atomic(path, partial):
            yield partial
    except OSError as error:
        raise UserError(f"{path}: can't be written: {why(error)}; make room there, or name another "
                        "file") from None


@dataclass(frozen=True)
class FileRecord:
    """One file of a dataset."""

    bytes: int
    sha256: str = ""
    """In hexadecimal. Empty for data files: the index holds a checksum of each image."""


class Sealed:
    """A file that is written once, and is on the disk when the `with` block ends.

    `record` has its size and checksum, computed from the bytes that were to be written.
    """

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
        """Writes one line of JSON."""
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
    """Waits until the names in a folder are on the disk: new files may vanish in a power cut
    before that, even if their content was synced."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def cache_dir() -> Path:
    """$XDG_CACHE_HOME/fastmoco, by default ~/.cache/fastmoco."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "fastmoco"
