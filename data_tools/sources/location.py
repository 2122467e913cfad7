"""A file or folder to read from, on this machine or behind a URL (fsspec).

All remote reads go through here. Errors of the many drivers come out as OSErrors, or as UserErrors
if the user can do something about them.
"""

from __future__ import annotations

import errno
import io
import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import unquote

from data_tools.errors import UserError, one_line
from data_tools.safe_reading.regular import open_binary, open_regular
from data_tools.sources.remote_file import RemoteFile, time_of

URL = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*(://|::)")
# file:///data/1.jpg, file://localhost/data/1.jpg, and file:/data/1.jpg, which Java writes.
LOCAL_URL = re.compile(r"file:(?://(?:localhost)?(?=/)|//|(?=/))", re.IGNORECASE)
DRIVERS = {
    "s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "hf": "huggingface_hub",
    "http": "aiohttp", "https": "aiohttp", "abfs": "adlfs", "az": "adlfs", "sftp": "paramiko",
}


class NeedsPackage(UserError):
    """A URL needs a package that is not installed."""


def is_url(name: str) -> bool:
    """True if a name in a list is a URL. In lists a name like a::b is a file, not a URL."""
    return ":" in name and ("://" in name or LOCAL_URL.match(name) is not None)


def local_path(url: str) -> Path:
    """The file that a file: URL names. %20 is a blank, unless a file has this very name."""
    plain = Path(LOCAL_URL.sub("", url, count=1))
    if "%" in url and not os.path.lexists(plain):
        return Path(unquote(str(plain), errors="surrogateescape"))
    return plain


def on_disk(path: str) -> str:
    """A path in the encoding of this process. Keys, lists and records hold UTF-8, which Python
    cannot open as it is if the locale has another encoding (LANG=C)."""
    if sys.getfilesystemencoding() == "utf-8":
        return path
    return os.fsdecode(path.encode("utf-8", "surrogateescape"))


class Location:
    """One path or URL. It opens nothing, and asks no server, before it must."""

    local: Path | None
    """Path on this machine; None for a remote place."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._text = os.fspath(path)
        self.local = None
        if isinstance(path, Path) or not (URL.match(self._text) or LOCAL_URL.match(self._text)):
            self.local = Path(on_disk(self._text))
        elif LOCAL_URL.match(self._text):
            self.local = Path(on_disk(str(local_path(self._text))))
        self._opened = -1
        self._driver: Any = None
        self._found: dict[str, Any] | None = None
        self._names: list[str] | None = None
        self._lock = threading.Lock()

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return f"Location({self._text!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Location) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __reduce__(self) -> tuple[type[Location], tuple[str | Path]]:
        # A Path stays a Path, since its text could be read as a URL.
        is_path = self.local is not None and not LOCAL_URL.match(self._text)
        return Location, (cast(Path, self.local) if is_path else self._text,)

    def __del__(self) -> None:
        if hasattr(self, "_opened"):
            self.close()

    @property
    def name(self) -> str:
        """The last part of the path."""
        if self.local is not None:
            return os.path.basename(os.path.abspath(self.local))
        path = self._text.split("?", 1)[0] if self._text.startswith("http") else self._text
        return path.rstrip("/").rpartition("/")[2]

    @property
    def parent(self) -> Location:
        if self.local is not None:
            odd = self.local.name in ("", "..")
            return Location((Path(os.path.abspath(self.local)) if odd else self.local).parent)
        head = self._text.rstrip("/").rpartition("/")[0]
        return Location(head + "//" if head.endswith((":", "/")) else head)

    def child(self, relative: str) -> Location:
        """The place with this relative path (with '/') below this one."""
        if self.local is not None:
            return Location(self.local / relative)
        return Location(f"{self._text.rstrip('/')}/{relative}")

    def exists(self) -> bool:
        """Raises UserError for a remote place that doesn't answer."""
        return self.local.exists() if self.local is not None else self._type() != ""

    def is_dir(self) -> bool:
        return self.local.is_dir() if self.local is not None else self._type() == "directory"

    def is_file(self) -> bool:
        return self.local.is_file() if self.local is not None else self._type() == "file"

    def size(self) -> int:
        """Bytes. Raises OSError."""
        if self.local is not None:
            return self.local.stat().st_size
        return int(self._info().get("size") or 0)

    def mtime(self) -> int:
        """Time of the last change, in seconds since 1970; 0 if the server doesn't say."""
        if self.local is not None:
            return int(self.local.stat().st_mtime)
        return time_of(self._info())

    def names(self) -> list[str]:
        """The names in a folder, sorted, as they were at the first call. Raises OSError."""
        if self._names is None:
            # Kept, because every kind of source asks, and there may be a million names.
            self._names = self._list()
        return list(self._names)

    def _list(self) -> list[str]:
        if self.local is not None:
            return sorted(os.listdir(self.local))
        with self.errors() as (driver, path):
            paths = {found.rstrip("/") for found in driver.ls(path, detail=False)}
        return sorted(found.rpartition("/")[2] for found in paths - {path.rstrip("/")})

    def walk(self) -> Iterator[tuple[str, int, int]]:
        """(path with '/', bytes, mtime) of all files under a folder. Raises OSError."""
        if self.local is not None:
            root = os.fspath(self.local)
            for folder, _, names in os.walk(root, followlinks=True):
                below = os.path.relpath(folder, root).replace(os.sep, "/")
                for name in names:
                    status = os.stat(os.path.join(folder, name))
                    key = name if below == "." else f"{below}/{name}"
                    yield key, status.st_size, int(status.st_mtime)
            return
        with self.errors() as (driver, path):
            listing = driver.find(path, detail=True)
        base = path.rstrip("/") + "/"
        for found, info in listing.items():
            if found.startswith(base) and info.get("type") == "file":
                yield found[len(base) :], int(info.get("size") or 0), time_of(info)

    def open(self) -> BinaryIO:
        """The file, buffered and seekable. Raises OSError."""
        if self.local is not None:
            return open_binary(self.local)
        with self.errors() as (driver, path):
            file = driver.open(path, "rb")
        return cast(BinaryIO, io.BufferedReader(RemoteFile(self, file), 1 << 16))

    def pread(self, size: int, offset: int) -> bytes:
        """Up to `size` bytes from `offset` on; fewer at the end. Safe in threads. Raises OSError.
        """
        if self.local is not None:
            if self._opened < 0:
                with self._lock:
                    if self._opened < 0:
                        self._opened = open_regular(self.local)
            return os.pread(self._opened, size, offset)
        size = min(size, self.size() - offset)
        if size <= 0:
            return b""
        with self.errors() as (driver, path):
            data = driver.cat_file(path, start=offset, end=offset + size)
        # A web server may ignore the range and send the whole file.
        return data if len(data) <= size else data[offset : offset + size]

    def read(self, most: int) -> bytes:
        """The whole of a file of up to `most` bytes. Raises OSError, also for a larger file, a FIFO
        or a device."""
        if self.local is None:
            return self._read_remote(most)
        with open(open_regular(self.local), "rb", buffering=0) as file:
            status = os.fstat(file.fileno())
            if status.st_size > most:
                raise OSError(errno.EFBIG, f"larger than {most} bytes")
            # Files below /proc say that they are empty, and may have no end.
            return file.read() if status.st_size else b""

    def _read_remote(self, most: int) -> bytes:
        size = self._info().get("size")
        if size is not None:
            if int(size) > most:
                raise OSError(errno.EFBIG, f"larger than {most} bytes")
            return self.pread(int(size), 0)
        # Some web servers don't give the size.
        with self.open() as file:
            data = file.read(most + 1)
        if len(data) > most:
            raise OSError(errno.EFBIG, f"larger than {most} bytes")
        return data

    def check_package(self) -> None:
        """Raises NeedsPackage for a URL whose driver is not installed. Asks no server."""
        try:
            if self.local is None and self._driver is None:
                self._driver = self._connect()
        except NeedsPackage:
            raise
        except UserError:  # an unknown kind of URL, or one that its driver can't parse
            pass

    def close(self) -> None:
        if self._opened >= 0:
            os.close(self._opened)
            self._opened = -1

    def _type(self) -> str:
        try:
            return str(self._info()["type"])
        except (FileNotFoundError, NotADirectoryError):
            return ""
        except OSError as error:
            raise UserError(f"{self}: can't be reached: {one_line(error)}") from None

    def _info(self) -> dict[str, Any]:
        if self._found is None:
            with self.errors() as (driver, path):
                self._found = driver.info(path)
        return cast("dict[str, Any]", self._found)

    @contextmanager
    def errors(self) -> Iterator[tuple[Any, str]]:
        """Gives the driver and the path in its form. Turns all errors in the block into OSErrors.
        """
        if self._driver is None:
            self._driver = self._connect()
        try:
            yield self._driver
        except OSError:
            raise
        except Exception as error:  # each driver's library raises its own types
            raise OSError(5, f"{type(error).__name__}: {error}", self._text) from None

    def _connect(self) -> tuple[Any, str]:
        protocol = re.split("::|://", self._text, maxsplit=1)[0]
        try:
            import fsspec
        except ImportError:
            raise NeedsPackage(f"{self}: needs fsspec: pip install 'fastmoco[remote]'") from None
        try:
            return cast("tuple[Any, str]", fsspec.core.url_to_fs(self._text))
        except ImportError:
            needs = DRIVERS.get(protocol, f"what fsspec needs for {protocol}://")
            raise NeedsPackage(f"{self}: needs {needs}: pip install 'fastmoco[remote]' "
                               f"{needs if protocol in DRIVERS else ''}".rstrip()) from None
        except Exception as error:
            raise UserError(f"{self}: can't be opened: {one_line(error)}") from None
