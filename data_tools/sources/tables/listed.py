"""Files that a list or a table names: by a path beside it, an absolute path, or a URL."""

from __future__ import annotations

import errno
import posixpath

from data_tools.errors import UserError
from data_tools.sources.location import Location, NeedsPackage, is_url

BACKSLASHES = "paths with \\ that name no file are taken with / instead"
# No larger file is an image that prep could decode.
LARGEST_FILE = 1 << 30
# The assumed size of a remote file: asking for each file's would take longer than preparing it.
REMOTE_BYTES = 100_000


def place_of(folder: Location, name: str) -> Location:
    """The place of `name`: relative to the folder of the list, absolute, or a URL."""
    if is_url(name) or (name.startswith("/") and folder.local is None):
        return Location(name)
    return folder.child(name)


def with_slashes(folder: Location, name: str) -> str:
    """The name with / for each \\, if only that file exists; else empty. Raises nothing."""
    if "\\" not in name or is_url(name):
        return ""
    other = posixpath.normpath(name.replace("\\", "/"))
    try:
        there, found = place_of(folder, name).is_file(), place_of(folder, other).is_file()
    except (OSError, UserError, ValueError):
        return ""
    return other if found and not there else ""


def read_listed(folder: Location, name: str, listed: int = -1) -> bytes:
    """The bytes of the file `name`. listed: its size when the list was read; -1 if unknown.

    Raises OSError with the reason, in one line, for a file that can't be read. Raises UserError if
    a package must be installed first, since the files after it need that package too.
    """
    try:
        place = place_of(folder, name)
        data = place.read(LARGEST_FILE)
    except NeedsPackage:
        raise
    except UserError as error:
        raise OSError(errno.EIO, str(error)) from None
    except ValueError:  # a NUL in it, or surrogates
        raise OSError(errno.EINVAL, "its path is no name of a file") from None
    except FileNotFoundError:
        other = with_slashes(folder, name)
        if other:
            return place_of(folder, other).read(LARGEST_FILE)
        if is_url(name):  # which fsspec's error doesn't say
            raise FileNotFoundError(errno.ENOENT, f"no such file: {name}") from None
        raise
    if listed not in (-1, len(data)) and not is_url(name) and place.local is not None:
        raise OSError(errno.ESTALE, f"changed since it was listed: {listed:,} bytes then, "
                                    f"{len(data):,} now")
    return data
