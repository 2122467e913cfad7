"""The bytes of a tar, read by position: in place, or unpacked to a temporary file."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from typing import IO, TYPE_CHECKING

from data_tools.errors import UserError
from data_tools.formats.tar import REMOTE_WINDOW, WINDOW, Walk
from data_tools.safe_reading import inflate
from data_tools.safe_reading.regular import open_regular

if TYPE_CHECKING:
    from data_tools.sources.location import Location

# The percentage of TMPDIR's free space that an unpacked archive may take.
SHARE = 90
ZEROS = bytes(inflate.PIECE)


class Archive:
    """The bytes of a tar. A compressed tar is unpacked to an unnamed file in the user's TMPDIR, so
    that its members can be read in any order."""

    def __init__(self, location: Location) -> None:
        """Raises UserError if the file can't be read, if it unpacks to far more than its size, or
        if TMPDIR lacks space."""
        self.location = location
        self._unpacked: IO[bytes] | None = None
        self._file = -1
        try:
            if location.local is not None:
                self._file = open_regular(location.local)
            self.packed = compression(location)
            if self.packed:
                self._unpacked = unpack(location, self.packed)
                self.size = os.fstat(self._unpacked.fileno()).st_size
            else:
                self.size = location.size()
        except OSError as error:
            raise UserError(f"{location}: can't be read: {error.strerror or error}") from None

    def pread(self, size: int, offset: int) -> bytes:
        """Up to `size` bytes from `offset` on; fewer at the end. Safe in threads. Raises OSError.
        """
        if self._unpacked is not None:
            return os.pread(self._unpacked.fileno(), size, offset)
        if self._file >= 0:
            return os.pread(self._file, size, offset)
        return self.location.pread(size, offset)

    def walk(self, start: int = 0, end: int = -1, name: str = "") -> Walk:
        """A walk over the members between two bytes. name: that of an inner tar, for messages."""
        place = f"{self.location}/{name}" if name else self.location
        quick = self._unpacked is not None or self._file >= 0
        end = self.size if end < 0 else end
        return Walk(self.pread, start, end, place, WINDOW if quick else REMOTE_WINDOW)

    def __del__(self) -> None:
        # Only here: a thread that still reads keeps the archive alive.
        self.close()

    def close(self) -> None:
        if self._unpacked is not None:
            self._unpacked.close()
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        self.location.close()


def compression(location: Location) -> str:
    """The compression of a file: gzip, xz, bzip2, zstd, or "" for none of these.

    Raises UserError if the file can't be read.
    """
    try:
        if location.local is None:
            return inflate.compression_of(location.pread(6, 0))
        with open(location.local, "rb", opener=open_regular) as file:
            return inflate.compression_of(file.read(6))
    except OSError as error:
        raise UserError(f"{location}: can't be opened: {error.strerror or error}") from None


def head_of(location: Location, size: int) -> bytes:
    """The first bytes of a file, unpacked; fewer if it is short or damaged.

    Raises OSError, UserError.
    """
    packed = compression(location)
    if not packed:
        return location.pread(size, 0)
    head = b""
    with opened(location) as file:
        try:
            for piece in inflate.pieces(file, packed, max(inflate.LOOKED_AT, size)):
                head += piece
                if len(head) >= size:
                    break
        except inflate.Broken:
            pass
        except inflate.NoReader as error:
            raise UserError(f"{location}: {error}") from None
    return head[:size]


def opened(location: Location) -> IO[bytes]:
    """The file, opened for reading. Raises OSError, also for a pipe or a device."""
    if location.local is None:
        return location.open()
    return open(location.local, "rb", opener=open_regular)


def unpack(location: Location, packed: str) -> IO[bytes]:
    """Unpacks to an unnamed temporary file and returns it. Raises OSError, UserError."""
    folder = tempfile.gettempdir()
    room = shutil.disk_usage(folder).free * SHARE // 100
    size = location.size()
    if size > room:
        raise no_room(location, "its compressed bytes alone take more")
    out = tempfile.TemporaryFile(prefix="fastmoco-")
    try:
        with opened(location) as file:
            copy(inflate.pieces(file, packed), out, location, size, room)
        return out
    except BaseException as error:
        with suppress(OSError):
            out.close()
        if isinstance(error, inflate.Broken):
            raise UserError(f"{location}: damaged ({packed}): {error}; copy or download it "
                            "again") from None
        if isinstance(error, inflate.NoReader):
            raise UserError(f"{location}: {error}") from None
        raise


def copy(
    pieces: Iterator[bytes], out: IO[bytes], location: Location, size: int, room: int
) -> None:
    """Writes the unpacked bytes of a file of `size` bytes. Raises UserError beyond the limits: a
    few compressed bytes must not fill the disk."""
    most = inflate.most_unpacked(size, inflate.SMALL)
    done = 0
    for piece in pieces:
        done += len(piece)
        if done > most:
            raise UserError(
                f"{location}: its {size:,} bytes unpack to more than {most:,}, as no set of images "
                f"does ({inflate.GROWTH} times its size, or {inflate.SMALL >> 30} GiB, are "
                "allowed); if you trust it, unpack it yourself and give the tar")
        if done > room:
            raise no_room(location, f"it takes more than {SHARE} % of that")
        try:
            if piece == ZEROS[: len(piece)]:
                out.seek(done)  # zeros become a hole in the file, which takes no space
            else:
                out.write(piece)
        except OSError as error:
            raise no_room(location, error.strerror or str(error)) from None
    try:
        out.truncate(done)
        out.flush()
    except OSError as error:
        raise no_room(location, error.strerror or str(error)) from None


def no_room(location: Location, reason: str) -> UserError:
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    return UserError(f"{location}: can't be unpacked to {folder} ({free:,} bytes free; {reason}): "
                     "set TMPDIR to a folder with room, or unpack it yourself")
