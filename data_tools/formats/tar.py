"""Reads the headers of a tar. All code that reads tars uses this one parser.

A tar is a list of members, each a header of 512 bytes and the member's bytes, padded to 512. Two
blocks of zeros end it. Offsets in a header (POSIX.1-2001 pax, which GNU tar extends:
www.gnu.org/software/tar/manual, "Basic Tar Format"):

    0     100   124   136    148       156   157     257    263      345     500
    name  ...   size  mtime  checksum  kind  target  magic  version  prefix

A member of a kind in EXTENSIONS holds a longer name or size of the member that follows it. One pass
reads the headers alone; other code reads members' bytes by their offsets. The standard library's
tarfile keeps a Python object per member and takes twenty times as long.
"""

from __future__ import annotations

import posixpath
import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

from data_tools.errors import UserError

BLOCK = 512
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
LATEST = 1 << 62
REGULAR, LINKS = b"0\0007", b"12"
# Kinds without bytes, also if their headers have a size: links, devices, folders and pipes.
EMPTY = b"123456"
EXTENSIONS = b"LKxXg"
WANTED = (b"path", b"linkpath", b"size", b"GNU.sparse.name")
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


def is_header(block: bytes) -> bool:
    """True if the block's checksum is right.

    It is the sum of the header's bytes, with the checksum's own 8 bytes taken as blanks. Some old
    writers summed the bytes as signed numbers, which is accepted too.
    """
    if len(block) != BLOCK:
        return False
    try:
        stated = number(block[148:156])
    except ValueError:
        return False
    total = byte_sum(block) - sum(block[148:156]) + 8 * 32
    if stated == total:
        return True
    high = sum(byte > 127 for byte in block[:148] + block[156:])
    return stated == total - 256 * high and high > 0


def byte_sum(block: bytes) -> int:
    """The sum of a header's 512 bytes, ten times as fast as sum()."""
    # The lower half of Adler-32 is 1 plus the sum, modulo 65521. 256 bytes sum to less than that.
    halves = zlib.adler32(block[:256]) & 0xFFFF, zlib.adler32(block[256:]) & 0xFFFF
    return halves[0] + halves[1] - 2


def no_tar(block: bytes, place: object) -> UserError:
    """The error for a file that starts with `block`, which is no tar header."""
    if block.startswith(b"PK\3\4"):
        return UserError(f"{place}: a zip; unpack it to a folder first")
    return UserError(f"{place}: neither a folder nor a tar; give one of these")


def names_of(block: bytes, pax: dict[str, str]) -> tuple[str, str]:
    """(name, target of a link) of a header. pax: the attributes from extension headers."""
    target = text(block[157:257]) if block[157] else ""
    if pax:
        target = pax.get("linkpath", target)
        if "path" in pax:
            return pax["path"], target
    name = text(block[:100])
    # A long name continues to the left in the prefix, of POSIX headers only: in headers with GNU's
    # old magic, times are stored there.
    if block[345] and block[257:263] == b"ustar\0":
        name = f"{text(block[345:500])}/{name}"
    return name, target


def text(field: bytes) -> str:
    """A field up to its first NUL."""
    return field.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


def number(field: bytes) -> int:
    """A number of a header. Raises ValueError.

    It is stored as octal digits; GNU tar stores large and negative numbers in base 256, big-endian
    two's complement, with the top bit set as a mark.
    """
    digits = field.rstrip(b" \0")
    if digits.isdigit():
        return int(digits, 8)
    if field[0] & 0x80:
        bits = 8 * len(field)
        value = int.from_bytes(field, "big") - (1 << (bits - 1))  # without the top bit
        return value - (1 << (bits - 1)) if field[0] & 0x40 else value
    digits = field.split(b"\0", 1)[0].strip() or field.strip(b" \0") or b"0"
    return int(digits, 8)


def time_of(block: bytes) -> int:
    """A header's modification time in seconds since 1970, at most LATEST."""
    mtime = number(block[136:148])
    return mtime if 0 <= mtime <= LATEST else LATEST


def pax_records(body: bytes) -> dict[str, str]:
    """The records "length key=value\\n" of a pax extension header, for the keys in WANTED.

    If any other key starts with GNU.sparse, the key "GNU.sparse" is present.
    """
    records: dict[str, str] = {}
    start = 0
    while start < len(body):
        blank = body.find(b" ", start, start + 20)
        digits = body[start:blank] if blank >= 0 else b""
        if not digits.isdigit() or int(digits) <= len(digits):
            break
        stop = start + int(digits)
        equals = body.find(b"=", blank, stop)
        key = body[blank + 1 : equals] if equals >= 0 else b""
        if key in WANTED:
            records[key.decode()] = text(body[equals + 1 : stop - 1])
        if key.startswith(b"GNU.sparse"):
            records["GNU.sparse"] = ""
        start = stop
    return records
