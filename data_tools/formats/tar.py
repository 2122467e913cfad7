"""Reads the headers of a tar. All code that reads tars uses this one parser.

A tar is a list of members, each a header of 512 bytes and the member's bytes, padded to 512. Two
blocks of zeros end it. A member of a kind in EXTENSIONS holds a longer name or size of the member
that follows it. tar_header.py has the layout of a header.

One pass reads the headers alone; other code reads members' bytes by their offsets. The standard
library's tarfile keeps a Python object per member and takes twenty times as long.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterator
from typing import NamedTuple

from data_tools.errors import UserError
from data_tools.formats.tar_header import (
    BLOCK,
    is_header,
    names_of,
    number,
    pax_records,
    text,
    time_of,
)

# Bytes per read. On a distant server, a request takes as long as megabytes of data.
WINDOW, REMOTE_WINDOW = 1 << 16, 1 << 23
# Bytes to read behind a large member: enough for its label and the next header.
NEAR = 4 * BLOCK
# Bytes of the longest extension header. Real ones hold a path.
LONGEST = 1 << 20
# Tars are written in records of this size.
RECORD = 20 * BLOCK
# Bytes of zeros behind the end that are searched for another tar.
LONGEST_GAP = 1 << 28
ZEROS = bytes(1 << 20)
REGULAR, LINKS = b"0\0007", b"12"
# Kinds without bytes, also if their headers have a size: links, devices, folders and pipes.
EMPTY = b"123456"
EXTENSIONS = b"LKxXg"
Pread = Callable[[int, int], bytes]
"""(size, offset) -> `size` bytes from the offset on, or fewer at the end. Raises OSError."""


class Member(NamedTuple):
    """One header, with the extensions before it applied."""

    kind: bytes
    name: str
    """Path in the tar, up to a NUL. Bytes that are not UTF-8 are surrogate escapes (PEP 383)."""
    target: str
    """Name that a link points at."""
    offset: int
    """Offset of the member's bytes in the file."""
    size: int
    mtime: int

    @property
    def is_file(self) -> bool:
        return self.kind in REGULAR and not self.name.endswith("/")


class Walk:
    """Iterates over the members of the tar at bytes start..end of a file.

    If other tars follow it (`cat a.tar b.tar`), their members are read too, as GNU tar does with
    --ignore-zeros. place: the name for messages. window: bytes per read.

    Raises UserError if the file is no tar, is damaged or truncated, if a member is sparse, or if
    the tar is one volume of a set.
    """

    def __init__(
        self, pread: Pread, start: int, end: int, place: object, window: int = WINDOW
    ) -> None:
        self.place = place
        self.joined = 0
        """Number of tars that followed the first. Valid after the last member."""
        self.stray = 0
        """Number of bytes behind the end that are no tar; less than RECORD."""
        self.ended = False
        """True if the tar has its end mark. Valid after the last member."""
        self._pread, self._start, self._end, self._size = pread, start, end, window

    def __iter__(self) -> Iterator[Member]:
        try:
            yield from self._members()
        except ValueError:
            raise self._damaged("a header holds no number where one must be") from None
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"{self.place}: can't be read: {reason}") from None

    def again(self) -> Walk:
        """A second pass over the same bytes."""
        return Walk(self._pread, self._start, self._end, self.place, self._size)

    def _members(self) -> Iterator[Member]:
        start, end = self._start, self._end
        pax: dict[str, str] = {}  # from extension headers, for the next member
        position = window_at = start
        window = b""
        if end - start < BLOCK:
            raise no_tar(self._pread(max(end - start, 0), start), self.place)
        while position + BLOCK <= end:
            at = position - window_at
            if not 0 <= at <= len(window) - BLOCK:
                # After a large member, the next one will be large too: read little beyond the
                # header.
                far = self._size == WINDOW and at - len(window) > WINDOW
                window = self._pread(min(NEAR if far else self._size, end - position), position)
                window_at, at = position, 0
                if len(window) < BLOCK:
                    raise UserError(f"{self.place}: became shorter while it was read")
            block = window[at : at + BLOCK]
            if block[0] == 0 and not any(block):
                position = self._behind_end(position)  # zeros: this tar ends here
                pax = {}
                continue
            if not is_header(block):
                if position == start:
                    raise no_tar(block, self.place)
                raise self._damaged(f"no tar header at byte {position - start}")
            kind = block[156:157]
            size = int(pax["size"]) if "size" in pax else number(block[124:136])
            if size < 0:
                raise ValueError("negative size")
            data = position + BLOCK
            if kind in EMPTY:
                size = 0 if kind not in LINKS else size
                position = data
            else:
                position = data - (-size // BLOCK) * BLOCK
                if data + size > end:
                    raise UserError(
                        f"{self.place}: truncated: its member at byte {data - BLOCK - start} ends "
                        f"{data + size - end} bytes behind the end; copy or download it again")
            if kind in EXTENSIONS:
                pax |= self._extension(kind, data, size)
                continue
            name, target = names_of(block, pax)
            if kind in b"SM" or "GNU.sparse" in pax:
                self._refuse(kind, pax.get("GNU.sparse.name", name))
            if pax:
                pax = {}
            mtime = 0 if kind in LINKS else time_of(block)
            yield Member(kind, name, target, data, size, mtime)
        if position < end:
            raise UserError(f"{self.place}: truncated: the header at byte {position - start} is "
                            "cut off; copy or download it again")

    def _extension(self, kind: bytes, data: int, size: int) -> dict[str, str]:
        """The attributes that an extension header gives the member behind it."""
        if size > LONGEST:
            raise self._damaged(f"{size:,} bytes of one member's attributes")
        body = self._pread(size, data)
        if kind in b"xX":
            return pax_records(body)
        # L and K are GNU's long name and long link. A global header (g) holds comments on the tar.
        return {} if kind == b"g" else {"path" if kind == b"L" else "linkpath": text(body)}

    def _behind_end(self, position: int) -> int:
        """Offset of the next tar after the zeros at `position`; the file's end if there is none."""
        begin, self.ended = position, True
        while position < self._end:
            piece = self._pread(min(len(ZEROS), self._end - position), position)
            if not piece:
                raise UserError(f"{self.place}: became shorter while it was read")
            # Comparing with zeros is ten times as fast as stripping them.
            zeros = len(piece) - (0 if piece == ZEROS else len(piece.lstrip(b"\0")))
            position += zeros
            if zeros < len(piece):
                break
            if position - begin > LONGEST_GAP:
                raise UserError(f"{self.place}: more than {LONGEST_GAP:,} zeros follow its end; "
                                f"cut them off (truncate -s {begin})")
        if position >= self._end:
            return self._end
        position -= (position - self._start) % BLOCK
        block = self._pread(BLOCK, position)
        if is_header(block):
            self.joined += 1
            self.ended = False
            return position
        self.stray = self._end - position
        record = -(-(begin + BLOCK - self._start) // RECORD) * RECORD
        # POSIX leaves the rest of the last record undefined. Less than a block can be no tar.
        if self.stray >= BLOCK and self._end - self._start > record:
            raise UserError(
                f"{self.place}: {self.stray:,} bytes that are no tar follow its end, from byte "
                f"{position - self._start} on; cut them off (truncate -s {position - self._start}) "
                "or download it again")
        return self._end

    def _refuse(self, kind: bytes, name: str) -> None:
        if kind == b"M":
            raise UserError(f"{self.place}: one volume of a set; join the volumes first")
        raise UserError(f"{self.place}: {name} is stored sparse; pack it without --sparse")

    def _damaged(self, reason: str) -> UserError:
        return UserError(f"{self.place}: damaged: {reason}; copy or download it again")

    def notes(self) -> list[str]:
        """Lines for the user about the whole file. Valid after the last member."""
        lines = []
        name = posixpath.basename(str(self.place))
        if self.joined:
            lines.append(f"{name}: {self.joined + 1} tars joined in one file: all of them are read")
        if not self.ended:
            lines.append(f"{name}: its end mark is missing: it may have been cut off")
        if self.stray:
            lines.append(f"{name}: {self.stray:,} bytes behind its end are no tar: ignored")
        return lines


def no_tar(block: bytes, place: object) -> UserError:
    """The error for a file that starts with `block`, which is no tar header."""
    if block.startswith(b"PK\3\4"):
        return UserError(f"{place}: a zip; unpack it to a folder first")
    return UserError(f"{place}: neither a folder nor a tar; give one of these")
