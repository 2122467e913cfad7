"""Opening what must be a plain file: a pipe, socket, device or folder in its place is an error.

A listing is old when its files are read: what was a file may be a pipe by then, which a plain
open would wait on for ever, or may have another size.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import BinaryIO

from data_tools.errors import UserError

# A pipe that nobody writes to opens at once with this. Plain files ignore it.
FLAGS = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
KINDS = {
    stat.S_IFIFO: "a pipe, not a file", stat.S_IFSOCK: "a socket, not a file",
    stat.S_IFCHR: "a device, not a file", stat.S_IFBLK: "a device, not a file",
}
READ_BYTES = 1 << 30  # Linux reads a little less than 2 GiB at a time


def open_regular(path: str | os.PathLike[str], flags: int = os.O_RDONLY) -> int:
    """A file descriptor for reading; also an opener for open(). Raises OSError, also for anything
    but a plain file."""
    handle = os.open(path, FLAGS | flags, 0o644)
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


def open_binary(path: str | os.PathLike[str]) -> BinaryIO:
    """The file, buffered, as open(path, "rb") gives it. Raises OSError as open_regular does."""
    return os.fdopen(open_regular(path), "rb")


def read_all(path: str | os.PathLike[str]) -> bytes:
    """All bytes of a file. Raises OSError as open_regular does."""
    with open_binary(path) as file:
        return file.read()


def refuse_other(path: str | os.PathLike[str]) -> None:
    """Raises UserError if something that is no plain file has the name of a file that this program
    makes: a pipe, a folder. A missing file is right."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise UserError(f"{os.fspath(path)}: not a plain file; remove it, and run the same again")


def read_regular(path: str | os.PathLike[str], listed: int) -> bytes:
    """All bytes of a file that had `listed` bytes when its folder was listed.

    Raises OSError as open_regular does, and if the file has another size by now: it is being
    written, or is another file, and half of an image may decode.
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
    """Bytes from here on, at most `most`: fewer only at the file's end."""
    data = os.read(handle, min(most, READ_BYTES))
    if not data or len(data) == most:
        return data
    pieces = [data]  # a network's file system may give less than it is asked for
    while (rest := most - sum(map(len, pieces))) > 0:
        piece = os.read(handle, min(rest, READ_BYTES))
        if not piece:
            break
        pieces.append(piece)
    return b"".join(pieces) if len(pieces) > 1 else data
