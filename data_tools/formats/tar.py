"""The headers of a tar: the one parser for all that read tars.

POSIX.1-2001 pax and GNU tar's own extensions (www.gnu.org/software/tar/manual, "Basic Tar Format").
One pass over the headers; the members' bytes are left where they are, for positioned reads. The
standard library's tarfile keeps a Python object per member and takes twenty times as long.
"""

from __future__ import annotations

import posixpath
import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

from data_tools.errors import UserError

BLOCK = 512
# Read at once. A request to a distant place takes as long as megabytes do.
WINDOW, REMOTE_WINDOW = 1 << 16, 1 << 23
# Read behind a large member: its label and the next header.
NEAR = 4 * BLOCK
# Bytes of an extension header; real ones hold a path.
LONGEST = 1 << 20
# Tars are written in records of this size.
RECORD = 20 * BLOCK
# Zeros behind the end that are searched for a further tar.
LONGEST_GAP = 1 << 28
ZEROS = bytes(1 << 20)
LATEST = 1 << 62
REGULAR, LINKS = b"0\0007", b"12"
# Links, devices, folders and pipes have no bytes, whatever their size says.
EMPTY = b"123456"
EXTENSIONS = b"LKxXg"
WANTED = (b"path", b"linkpath", b"size", b"GNU.sparse.name")
Pread = Callable[[int, int], bytes]
"""(size, offset) -> up to `size` bytes from there, fewer at the end. Raises OSError."""


class Member(NamedTuple):
    """One header, extensions applied."""

    kind: bytes
    name: str
    """Bytes that are not UTF-8 as surrogate escapes (PEP 383); ends at the first NUL."""
    target: str
    """The name that a link points at."""
    offset: int
    """The offset of the bytes, from the beginning of the file."""
    size: int
    mtime: int

    @property
    def is_file(self) -> bool:
        return self.kind in REGULAR and not self.name.endswith("/")


class Walk:
    """Iterates over the members of the tar between two bytes of a file.

    Behind the end of the tar, more tars may follow (`cat a.tar b.tar`): they are read too, like
    with GNU tar's --ignore-zeros. Raises UserError for a file that is no tar, is damaged or
    truncated, and for sparse members and volumes of a set.
    """

    def __init__(
        self, pread: Pread, start: int, end: int, place: object, window: int = WINDOW
    ) -> None:
        self.place = place
        self.joined = 0
        """How many further tars followed the first; to be asked at the end."""
        self.stray = 0
        """Bytes behind the end that are no tar; fewer than RECORD."""
        self.ended = False
        """Whether the mark of a tar's end was met."""
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
                # Behind a large member little is read: the next one will be large too.
                far = self._size == WINDOW and at - len(window) > WINDOW
                window = self._pread(min(NEAR if far else self._size, end - position), position)
                window_at, at = position, 0
                if len(window) < BLOCK:
                    raise UserError(f"{self.place}: became shorter while it was read")
            block = window[at : at + BLOCK]
            if block[0] == 0 and not any(block):
                position = self._behind_end(position)
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
        if size > LONGEST:
            raise self._damaged(f"{size:,} bytes of one member's attributes")
        body = self._pread(size, data)
        if kind in b"xX":
            return pax_records(body)
        # A global header (g) describes the archive: comments, not names or sizes.
        return {} if kind == b"g" else {"path" if kind == b"L" else "linkpath": text(body)}

    def _behind_end(self, position: int) -> int:
        """The offset of the next tar behind the zeros at `position`, or else the end."""
        begin, self.ended = position, True
        while position < self._end:
            piece = self._pread(min(len(ZEROS), self._end - position), position)
            if not piece:
                raise UserError(f"{self.place}: became shorter while it was read")
            # Comparing is ten times as fast as stripping.
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
        # POSIX leaves the rest of the last record undefined, and less than a block is no tar.
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
        """Lines for the user about the whole file; to be asked at the end."""
        lines = []
        name = posixpath.basename(str(self.place))
        if self.joined:
            lines.append(f"{name}: {self.joined + 1} tars joined one behind another: all of them "
                         "are read")
        if not self.ended:
            lines.append(f"{name}: its end mark is missing: it may have been cut off")
        if self.stray:
            lines.append(f"{name}: {self.stray:,} bytes behind its end are no tar: passed over")
        return lines


def is_header(block: bytes) -> bool:
    """True if the checksum holds: the sum of the header's bytes, itself taken as blanks.

    Some old writers sum the bytes as signed ones.
    """
    if len(block) != BLOCK:
        return False
    try:
        told = number(block[148:156])
    except ValueError:
        return False
    total = byte_sum(block) - sum(block[148:156]) + 8 * 32
    if told == total:
        return True
    high = sum(byte > 127 for byte in block[:148] + block[156:])
    return told == total - 256 * high and high > 0


def byte_sum(block: bytes) -> int:
    """The sum of a header's bytes, ten times as fast as sum()."""
    # Adler-32's lower half is 1 plus the sum modulo 65521, which 256 bytes can't reach.
    halves = zlib.adler32(block[:256]) & 0xFFFF, zlib.adler32(block[256:]) & 0xFFFF
    return halves[0] + halves[1] - 2


def no_tar(block: bytes, place: object) -> UserError:
    if block.startswith(b"PK\3\4"):
        return UserError(f"{place}: a zip; unpack it to a folder first")
    return UserError(f"{place}: neither a folder nor a tar; give one of these")


def names_of(block: bytes, pax: dict[str, str]) -> tuple[str, str]:
    """A header's name and the target of its link."""
    target = text(block[157:257]) if block[157] else ""
    if pax:
        target = pax.get("linkpath", target)
        if "path" in pax:
            return pax["path"], target
    name = text(block[:100])
    # Only POSIX headers have a prefix; GNU's old magic has times in its place.
    if block[345] and block[257:263] == b"ustar\0":
        name = f"{text(block[345:500])}/{name}"
    return name, target


def text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


def number(field: bytes) -> int:
    """A number of a header: octal digits, or GNU's base 256 (top bit set) for a large or negative
    one. Raises ValueError."""
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
    mtime = number(block[136:148])
    return mtime if 0 <= mtime <= LATEST else LATEST


def pax_records(body: bytes) -> dict[str, str]:
    """The records "length key=value\\n" of a pax extension header, of the keys that are used.

    "GNU.sparse" stands for any key that begins so.
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
