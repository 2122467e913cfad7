"""The bytes of a tar, read by position: in place, or unpacked to a temporary file."""

from __future__ import annotations

import bz2
import gzip
import importlib
import lzma
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Any

from data_tools.errors import UserError

if TYPE_CHECKING:
    from data_tools.location import Location

MAGIC = {b"\x1f\x8b": "gzip", b"\xfd7zXZ\0": "xz", b"BZh": "bzip2", b"\x28\xb5\x2f\xfd": "zstd"}
COPIED = 1 << 20
BAD = (EOFError, zlib.error, lzma.LZMAError)


class Archive:
    """A tar's bytes. Compressed ones are unpacked to an unnamed file in the user's TMPDIR."""

    def __init__(self, location: Location) -> None:
        """Raises UserError for what can't be read, and where there is no room to unpack."""
        self.location = location
        self._unpacked: IO[bytes] | None = None
        self.packed = compression(location)
        try:
            if self.packed:
                self._unpacked = unpack(location, self.packed)
                self.size = os.fstat(self._unpacked.fileno()).st_size
            else:
                self.size = location.size()
        except OSError as error:
            raise UserError(f"{location}: can't be read: {error.strerror or error}") from None

    def pread(self, size: int, offset: int) -> bytes:
        """For any thread. Raises OSError."""
        if self._unpacked is not None:
            return os.pread(self._unpacked.fileno(), size, offset)
        return self.location.pread(size, offset)

    def __del__(self) -> None:
        # Whoever still reads holds the archive.
        if self._unpacked is not None:
            self._unpacked.close()

    def close(self) -> None:
        if self._unpacked is not None:
            self._unpacked.close()
        self.location.close()


def compression(location: Location) -> str:
    """gzip, xz, bzip2, zstd; "" for others. Raises UserError where it can't be read."""
    try:
        head = location.pread(6, 0)
    except OSError as error:
        raise UserError(f"{location}: can't be opened: {error.strerror or error}") from None
    return next((name for magic, name in MAGIC.items() if head.startswith(magic)), "")


def decompressor(location: Location, packed: str) -> Callable[[IO[bytes]], Any]:
    """Opens a file's unpacked bytes. Raises UserError where this Python can't."""
    if packed != "zstd":
        openers: dict[str, Callable[[IO[bytes]], Any]] = {
            "gzip": gzip.open, "xz": lzma.open, "bzip2": bz2.open,
        }
        return openers[packed]
    for name in ("compression.zstd", "zstandard"):
        with suppress(ImportError):
            found: Callable[[IO[bytes]], Any] = importlib.import_module(name).open
            return found
    raise UserError(f"{location}: is compressed with zstd: pip install zstandard, or unpack it")


def head_of(location: Location, size: int) -> bytes:
    """The first bytes, unpacked; fewer where it is short or damaged. Raises OSError, UserError."""
    packed = compression(location)
    if not packed:
        return location.pread(size, 0)
    head = b""
    with location.open() as file, suppress(*BAD):
        with decompressor(location, packed)(file) as plain:
            while len(head) < size and (piece := plain.read(min(1 << 16, size - len(head)))):
                head += piece
    return head


def unpack(location: Location, packed: str) -> IO[bytes]:
    """An unnamed file with the unpacked bytes. Raises OSError, UserError."""
    opener = decompressor(location, packed)
    out = tempfile.TemporaryFile(prefix="fastmoco-")
    try:
        with location.open() as file, opener(file) as plain:
            while True:
                try:
                    piece = plain.read(COPIED)
                except (*BAD, OSError) as error:
                    raise UserError(f"{location}: damaged ({packed}): {error}; copy or download "
                                    "it again") from None
                if not piece:
                    break
                out.write(piece)
        out.flush()
        return out
    except OSError as error:
        out.close()
        free = shutil.disk_usage(tempfile.gettempdir()).free
        raise UserError(
            f"{location}: can't be unpacked to {tempfile.gettempdir()} ({error.strerror or error}; "
            f"{free:,} bytes free): set TMPDIR to a folder with room, or unpack it yourself"
        ) from None
    except BaseException:
        out.close()
        raise
