"""Opening a file that may have turned into a pipe or a device since it was listed."""

from __future__ import annotations

import errno
import os
import stat


def open_regular(path: str | os.PathLike[str], flags: int = os.O_RDONLY) -> int:
    """A descriptor of a regular file; also an opener for open(). Raises OSError for anything else.

    Without O_NONBLOCK, opening a pipe that nobody writes to never returns.
    """
    found = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
    if stat.S_ISREG(os.fstat(found).st_mode):
        return found
    os.close(found)
    raise OSError(errno.EINVAL, "not a regular file", os.fspath(path))
