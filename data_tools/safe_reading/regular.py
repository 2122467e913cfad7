"""Opens plain files only: a pipe, socket, device or folder in place of a file is an error.

Time passes between the listing of a folder and the reading of its files. By then a name may belong
to a pipe, on which a plain open() would wait for ever, or to a file of another size.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import BinaryIO

from data_tools.errors import UserError

# With O_NONBLOCK, a pipe that nobody writes to opens at once. It has no effect on plain files.
FLAGS = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
KINDS = {
    stat.S_IFIFO: "a pipe, not a file", stat.S_IFSOCK: "a socket, not a file",
    stat.S_IFCHR: "a device, not a file", stat.S_IFBLK: "a device, not a file",
}
READ_BYTES = 1 << 30  # Linux reads a little less than 2 GiB at a time


def open_regular(path: str | os.PathLike[str], flags: int = os.O_RDONLY) -> int:
    """A file descriptor for reading. It can be the opener of open().

    flags: further flags of os.open. Raises OSError, also for everything but a plain file.
    """
    try:
        handle = os.open(path, FLAGS | flags, 0o644)
    except OSError as error:
        if error.errno == errno.ENXIO and (kind := special_kind(path)):  # a socket
            raise OSError(errno.EINVAL, kind, os.fspath(path)) from None
        raise
    try:
        mode = os.fstat(handle).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, KINDS.get(stat.S_IFMT(mode), "not a file"), os.fspath(path))
    except BaseException:
        os.close(handle)
        raise
    return handle


def special_kind(path: str | os.PathLike[str]) -> str:
    """A description such as "a pipe, not a file"; "" for a file, a folder and a missing path."""
    try:
        return KINDS.get(stat.S_IFMT(os.stat(path).st_mode), "")
    except OSError:
        return ""


def open_binary(path: str | os.PathLike[str]) -> BinaryIO:
    """The file, buffered, as open(path, "rb") gives it. Raises OSError as open_regular does."""
    return os.fdopen(open_regular(path), "rb")


def read_all(path: str | os.PathLike[str]) -> bytes:
    """All bytes of a file. Raises OSError as open_regular does."""
    with open_binary(path) as file:
        return file.read()


def refuse_other(path: str | os.PathLike[str]) -> None:
    """Raises UserError if a pipe, a folder or the like has the name of a file that this program
    makes. A missing file is fine."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise UserError(f"{os.fspath(path)}: not a plain file; remove it, and run the same again")


def read_regular(path: str | os.PathLike[str], listed: int) -> bytes:
    """All bytes of a file that had `listed` bytes when its folder was listed.

    Raises OSError as open_regular does, and if the file now has another size: then it is being
    written, or it is another file, and half an image might decode without an error.
    """
    handle = open_regular(path)
    try:
        data = read_up_to(handle, listed + 1)
        if len(data) != listed:
            now = max(len(data), os.fstat(handle).st_size)
            raise OSError(errno.ESTALE, f"changed since it was listed: {listed:,} bytes then, "
                                        f"{now:,} now", os.fspath(path))
    finally:
        os.close(handle)
    return data


def read_head(path: str | os.PathLike[str], most: int) -> bytes:
    """The first `most` bytes, or all if there are fewer. Raises OSError as open_regular does."""
    handle = open_regular(path)
    try:
        return read_up_to(handle, most)
    finally:
        os.close(handle)


def read_up_to(handle: int, most: int) -> bytes:
    """The next bytes of an open file: `most` of them, or fewer at the file's end."""
    data = os.read(handle, min(most, READ_BYTES))
    if not data or len(data) == most:
        return data
    pieces = [data]  # network file systems may return fewer bytes than requested
    while (rest := most - sum(map(len, pieces))) > 0:
        piece = os.read(handle, min(rest, READ_BYTES))
        if not piece:
            break
        pieces.append(piece)
    return b"".join(pieces) if len(pieces) > 1 else data
