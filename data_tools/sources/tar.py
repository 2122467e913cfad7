"""A tar of a folder of images, read in place.

Headers are walked by hand (POSIX.1-2001 pax, and GNU tar's own extensions): one pass over the
headers, then every member is one positioned read, in any order and from any thread. The standard
library's tarfile keeps a Python object a member and takes twenty times as long.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
from array import array
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from data_tools.errors import UserError
from data_tools.sources import is_ignored
from data_tools.sources.archive import Archive, head_of
from data_tools.sources.keys import Keys
from data_tools.sources.labels import HEAD, label_files

if TYPE_CHECKING:
    from data_tools.location import Location

BLOCK = 512
# Read at once. A request to a distant place takes as long as megabytes do.
WINDOW, REMOTE_WINDOW = 1 << 16, 1 << 23
# Bytes of an extension header; real ones hold a path.
LONGEST = 1 << 20
LATEST = 1 << 62
REGULAR, LINKS = b"0\0007", b"12"
Pread = Callable[[int, int], bytes]


class Member(NamedTuple):
    """One header, extensions applied."""

    kind: bytes
    name: str
    target: str
    offset: int
    size: int
    mtime: int
    sparse: bool

    @property
    def is_file(self) -> bool:
        return self.kind in REGULAR and not self.name.endswith("/")


def recognises(location: Location) -> bool:
    """True for a tar, also a compressed one, by its first header."""
    try:
        return location.is_file() and is_header(head_of(location, BLOCK))
    except (OSError, UserError):
        return False


def open(location: Location, labels: Location | None = None) -> TarSource:
    """Raises UserError for what is no tar, or damaged, or holds train and val side by side."""
    archive = Archive(location)
    try:
        return TarSource(archive, read_listing(archive, 0, archive.size), "tar of images", labels)
    except BaseException:
        archive.close()
        raise


class Listing:
    """The files of a tar by key, in compact columns; of several of one name the last counts."""

    def __init__(self) -> None:
        self.index: dict[str, int] = {}
        self.offsets, self.sizes, self.mtimes = array("q"), array("q"), array("q")
        self.hidden: set[str] = set()

    def add(self, key: str, offset: int, size: int, mtime: int) -> None:
        self.index[key] = len(self.offsets)
        self.offsets.append(offset)
        self.sizes.append(size)
        self.mtimes.append(mtime)


class TarSource:
    """The regular files of a tar; links stand for the members they point at."""

    def __init__(
        self, archive: Archive, listing: Listing, kind: str, labels: Location | None = None
    ) -> None:
        place = archive.location
        self.name, self.kind = place.name, kind
        self.ignored = len(listing.hidden)
        names = sorted(listing.index)
        if not names:
            raise UserError(f"{place}: holds no files; give a folder or a tar of images")
        rows = np.array([listing.index[name] for name in names], np.int64)
        self.keys = Keys(names)
        self.sizes = np.frombuffer(listing.sizes, np.int64)[rows]
        self._offsets = np.frombuffer(listing.offsets, np.int64)[rows]
        times = np.frombuffer(listing.mtimes, np.int64)[rows]
        self.fingerprint = digest_of(names, self.sizes, times)
        self._archive = archive
        found = label_files(self.keys, self._head, place, labels)
        self.labels, self.classes, self.notes = found
        if archive.packed:
            self.notes.append(f"unpacked ({archive.packed}) to a temporary file of "
                              f"{archive.size:,} bytes")

    def _head(self, i: int) -> bytes:
        return self._read(i, HEAD)

    def read(self, i: int) -> bytes:
        return self._read(i, int(self.sizes[i]))

    def _read(self, i: int, most: int) -> bytes:
        if self._offsets[i] < 0:
            raise OSError("a link to a file that the tar doesn't hold")
        return self._archive.pread(min(most, int(self.sizes[i])), int(self._offsets[i]))

    def close(self) -> None:
        self._archive.close()


def digest_of(keys: list[str], sizes: np.ndarray, mtimes: np.ndarray) -> str:
    digest = hashlib.sha256()
    for row in zip(keys, sizes.tolist(), mtimes.tolist(), strict=True):
        digest.update(repr(row).encode())
    return digest.hexdigest()


def read_listing(archive: Archive, start: int, end: int, name: str = "") -> Listing:
    """All files of the tar between two bytes; name: of an inner tar, for messages."""
    listing = Listing()
    links: dict[str, str] = {}
    place = f"{archive.location}{'/' if name else ''}{name}"
    window = WINDOW if archive.packed or archive.location.local is not None else REMOTE_WINDOW
    for member in members(archive.pread, start, end, place, window):
        parts = [part for part in member.name.split("/") if part not in ("", ".")]
        key = "/".join(parts)
        mark = next((i for i, part in enumerate(parts) if is_ignored(part)), -1)
        if mark >= 0:
            listing.hidden.add("/".join(parts[: mark + 1]))
        elif member.kind in LINKS:
            # A hard link names a member from the top, a symbolic one from where it lies.
            base = "" if member.kind == b"1" else posixpath.dirname(key)
            links[key] = posixpath.normpath(posixpath.join(base, member.target))
        elif member.sparse:
            raise UserError(f"{place}: {key} is stored sparse; pack it without --sparse")
        elif member.is_file and key:
            listing.add(key, member.offset, member.size, member.mtime)
            links.pop(key, None)
        elif member.kind not in b"5" + REGULAR:
            listing.hidden.add(key)  # devices, pipes
    for key, target in links.items():
        at = follow(target, listing.index, links)
        if at < 0:
            listing.add(key, -1, 0, 0)
        else:
            listing.add(key, listing.offsets[at], listing.sizes[at], listing.mtimes[at])
    return listing


def follow(target: str, index: dict[str, int], links: dict[str, str]) -> int:
    for _ in range(40):  # the kernel's own limit for chains of links
        if target in index:
            return index[target]
        if target not in links:
            break
        target = links[target]
    return -1


def members(
    pread: Pread, start: int, end: int, place: object, window_size: int = WINDOW
) -> Iterator[Member]:
    """Every member of the tar between two bytes. Raises UserError for what is no tar, or damaged.

    Member.offset is from the beginning of the file, whatever `start`.
    """
    try:
        yield from _members(pread, start, end, place, window_size)
    except ValueError:
        raise UserError(f"{place}: damaged: a header holds no number where one must be; "
                        "copy or download it again") from None
    except OSError as error:
        raise UserError(f"{place}: can't be read: {error.strerror or error}") from None


def _members(
    pread: Pread, start: int, end: int, place: object, window_size: int
) -> Iterator[Member]:
    pax: dict[str, str] = {}  # what an extension header says of the next member
    position = window_at = start
    window = b""
    if end - start < BLOCK:
        raise no_tar(pread(end - start, start), place)
    while position + BLOCK <= end:
        at = position - window_at
        if not 0 <= at <= len(window) - BLOCK:
            window = pread(min(window_size, end - position), position)
            window_at, at = position, 0
        block = window[at : at + BLOCK]
        if len(block) < BLOCK:
            raise UserError(f"{place}: became shorter while it was read")
        if block[0] == 0 and not any(block):
            return  # the end of the archive
        if not is_header(block):
            if position == start:
                raise no_tar(block, place)
            raise UserError(f"{place}: damaged: no tar header at byte {position - start}; "
                            "copy or download it again")
        kind = block[156:157]
        size = int(pax["size"]) if "size" in pax else octal(block[124:136])
        if size < 0:
            raise ValueError("negative size")
        data = position + BLOCK
        position = data + (0 if kind in LINKS else -(-size // BLOCK) * BLOCK)
        if data + size > end and kind not in LINKS:
            raise UserError(f"{place}: truncated: its last member ends {data + size - end} "
                            "bytes behind the end of the file; copy or download it again")
        if kind in b"LKxg":
            if size > LONGEST:
                raise UserError(f"{place}: damaged: {size:,} bytes of one member's attributes")
            body = pread(size, data)
            if kind == b"x":
                pax |= pax_records(body)
            elif kind != b"g":  # GNU long name (L), long link target (K)
                pax["path" if kind == b"L" else "linkpath"] = text(body)
            continue
        name, target = names_of(block, pax)
        sparse = kind == b"S" or any(key.startswith("GNU.sparse") for key in pax)
        pax = {}
        mtime = min(octal(block[136:148]), LATEST) if kind not in LINKS else 0
        yield Member(kind, name, target, data, size, mtime, sparse)
    if position < end:
        raise UserError(f"{place}: truncated in a header; copy or download it again")


def is_header(block: bytes) -> bool:
    """True where the checksum holds: the sum of the header's bytes, itself blank."""
    try:
        good = len(block) == BLOCK and octal(block[148:156]) == (
            sum(block) - sum(block[148:156]) + 8 * 32
        )
    except ValueError:
        return False
    return good


def no_tar(block: bytes, place: object) -> UserError:
    if block.startswith(b"PK\3\4"):
        return UserError(f"{place}: a zip; unpack it to a folder first")
    return UserError(f"{place}: neither a folder nor a tar; give one of these")


def names_of(block: bytes, pax: dict[str, str]) -> tuple[str, str]:
    name = text(block[:100])
    # Only POSIX headers have a prefix; GNU's old magic has times in its place.
    if block[257:263] == b"ustar\0" and block[345]:
        name = f"{text(block[345:500])}/{name}"
    return pax.get("path", name), pax.get("linkpath", text(block[157:257]))


def text(field: bytes) -> str:
    return os.fsdecode(field.split(b"\0", 1)[0])


def octal(field: bytes) -> int:
    """A number of a header: octal digits, or GNU's base 256 (top bit set) for what is too large."""
    if field[0] & 0x80:
        return int.from_bytes(field[1:], "big")
    return int(field.strip(b" \0") or b"0", 8)


def pax_records(body: bytes) -> dict[str, str]:
    """The records "length key=value\\n" of a pax extension header."""
    records: dict[str, str] = {}
    start = 0
    while start < len(body):
        blank = body.find(b" ", start, start + 20)
        digits = body[start:blank] if blank >= 0 else b""
        if not digits.isdigit() or int(digits) <= len(digits):
            break
        key, _, value = body[blank + 1 : start + int(digits) - 1].partition(b"=")
        records[os.fsdecode(key)] = os.fsdecode(value)
        start += int(digits)
    return records
