"""Finds the records of a zip file that torch.save wrote, and refuses files that contradict
themselves.

A zip describes each record twice: in a header before the record, and in a directory at the end of
the file. torch takes the place of a record's bytes from the first, its name and size from the
second. So torch reads wrong weights, without an error, from a file in which the two disagree. Here
both must agree in every field, records must be stored uncompressed (torch never compresses), and
they must fill the file without gaps or overlaps.

Format: APPNOTE.TXT 6.3 of PKWARE, sections 4.3.6 to 4.3.16; 4.5.3 for files beyond 4 GB.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

MAGIC = b"PK\3\4"
LOCAL = struct.Struct("<4s5H3L2H")
CENTRAL = struct.Struct("<4s6H3L5H2L")
END = struct.Struct("<4s4H2LH")
END64_PLACE = struct.Struct("<4sLQL")
END64 = struct.Struct("<4sQ2H2L4Q")
ALL_16, ALL_32 = 0xFFFF, 0xFFFFFFFF  # placeholders: the value is in a zip64 field
RECORDS = 100_000  # most records of a file
DIRECTORY_BYTES = 64 << 20  # largest directory
DOS_DIRECTORY = 0x10  # attribute of a folder
ENCRYPTED, DESCRIPTOR, UTF8 = 1, 8, 1 << 11  # flags
ZIP64, PADDING, UNIX_TIMES = 1, 0x4246, {0x5455, 0x5855, 0x7875}  # kinds of extra fields
CHUNK = 256 << 10  # for larger reads the system gives fresh memory each time, which is slower


class ZipDamaged(ValueError):
    """A zip file contradicts itself. The error's text says where, in one line."""


class ZipCutShort(ZipDamaged):
    """A zip file has no end record."""


class NotFromTorchSave(ZipDamaged):
    """A zip file holds something that torch.save never writes."""


@dataclass(frozen=True)
class Record:
    """One record (file) of a zip."""

    name: str
    """Name without the folder into which torch puts all records."""
    start: int
    """Offset of its bytes in the file."""
    size: int
    crc: int
    """CRC-32 of its bytes according to the file; not verified here."""


@dataclass(frozen=True)
class _Entry:
    """A record as the directory describes it."""

    name: bytes
    flags: int
    method: int
    crc: int
    size: int
    header: int
    """Offset of the record's own header."""


def read_records(file: IO[bytes]) -> dict[str, Record]:
    """All records by name. Raises ZipDamaged."""
    size = os.fstat(file.fileno()).st_size
    start, end, count = _directory(file, size)
    entries = list(_entries(_read(file, start, end - start), count))
    folder = entries[0].name.partition(b"/")[0] + b"/"
    if any(entry.name == folder + b"constants.pkl" for entry in entries):
        raise NotFromTorchSave("a TorchScript program, which is not run: save its state_dict() "
                               "with torch.save")
    records: dict[str, Record] = {}
    seen: set[bytes] = set()
    # Each record must end where the next one's header starts, the last one at the directory.
    for entry, behind in zip(entries, [*(e.header for e in entries[1:]), start], strict=True):
        record = _record(file, entry, folder, behind)
        if entry.name.lower() in seen:  # torch's reader ignores case
            raise ZipDamaged(f"it holds {record.name} twice")
        seen.add(entry.name.lower())
        records[record.name] = record
    if entries[0].header != 0:
        raise ZipDamaged("there are bytes before its first record")
    return records


def chunks(file: IO[bytes], record: Record) -> Iterator[bytes]:
    """A record's bytes, in chunks."""
    for at in range(record.start, record.start + record.size, CHUNK):
        yield _read(file, at, min(CHUNK, record.start + record.size - at))


def content(file: IO[bytes], record: Record, most: int) -> bytes:
    """All of a record's bytes. Raises ZipDamaged if there are more than `most`."""
    if record.size > most:
        raise ZipDamaged(f"{record.name} has {record.size:,} bytes, at most {most:,} are read")
    return b"".join(chunks(file, record))


def _directory(file: IO[bytes], size: int) -> tuple[int, int, int]:
    """Return (start, end, number of records) of the directory, from the end record and, in large
    files, the two zip64 end records before it."""
    if size < END.size:
        raise ZipCutShort
    magic, disk, first, here, count, length, start, comment = END.unpack(
        _read(file, size - END.size, END.size)
    )
    if magic != b"PK\5\6":
        raise ZipCutShort
    end = size - END.size
    if disk or first or here != count or comment:
        raise ZipDamaged("its end record is not one that torch writes")
    place = end - END64_PLACE.size
    if place >= END64.size and (raw := _read(file, place, END64_PLACE.size))[:4] == b"PK\6\7":
        _, disk, end, disks = END64_PLACE.unpack(raw)
        if end != place - END64.size or disk or disks > 1:
            raise ZipDamaged("its end records disagree")
        magic, more, _, _, disk, first, here64, count64, length64, start64 = END64.unpack(
            _read(file, end, END64.size)
        )
        # Each short field must equal the long one, or be the placeholder for it.
        for short, long, full in ((count, count64, ALL_16), (length, length64, ALL_32),
                                  (start, start64, ALL_32)):
            if short not in (long, full):
                raise ZipDamaged("its end records disagree")
        if magic != b"PK\6\6" or more != END64.size - 12 or disk or first or here64 != count64:
            raise ZipDamaged("its end records disagree")
        count, length, start = count64, length64, start64
    if start + length != end or not 0 < count <= RECORDS or length > DIRECTORY_BYTES:
        raise ZipDamaged("its end record does not fit its directory")
    return start, end, count


def _entries(directory: bytes, count: int) -> Iterator[_Entry]:
    """The entries of the directory, in the order of their headers in the file."""
    at, header = 0, -1
    for _ in range(count):
        if len(directory) - at < CENTRAL.size:
            raise ZipDamaged("its directory is cut short")
        (magic, _, _, flags, method, _, _, crc, packed, size, name_bytes, extra_bytes, comment,
         disk, _, attributes, place) = CENTRAL.unpack_from(directory, at)
        at += CENTRAL.size
        name = directory[at : at + name_bytes]
        fields = _extra(directory[at + name_bytes : at + name_bytes + extra_bytes])
        at += name_bytes + extra_bytes
        if magic != b"PK\1\2" or at > len(directory) or disk or comment:
            raise ZipDamaged("its directory is damaged")
        if attributes & DOS_DIRECTORY or name.endswith(b"/"):
            # for a folder, torch's reader returns uninitialised memory
            raise ZipDamaged("its directory has a folder in place of a record")
        if flags & ENCRYPTED:
            raise NotFromTorchSave("it is encrypted, which a checkpoint never is")
        # The zip64 field holds only the values that do not fit into 32 bits, in this order.
        large = fields.get(ZIP64, b"")
        wide = [v for v in (size, packed, place) if v == ALL_32]
        if len(large) != 8 * len(wide):
            raise ZipDamaged("its directory is damaged")
        values = iter(struct.unpack(f"<{len(wide)}Q", large))
        size, packed, place = (next(values) if v == ALL_32 else v for v in (size, packed, place))
        if method == 0 and packed != size or place <= header:
            raise ZipDamaged("its directory is damaged")
        header = place
        yield _Entry(name, flags, method, crc, size, place)
    if at != len(directory):
        raise ZipDamaged("its directory holds more than its end record says")


def _record(file: IO[bytes], entry: _Entry, folder: bytes, behind: int) -> Record:
    """Read the header of a record; check that it agrees with the directory's entry, and that the
    record ends at `behind`, where the next one starts."""
    if entry.method:
        raise NotFromTorchSave("it is compressed, which torch.save never does")
    if entry.flags & ~(DESCRIPTOR | UTF8):
        raise ZipDamaged("its directory has flags that torch.save does not set")
    try:
        name = entry.name.decode()
    except UnicodeDecodeError:
        raise ZipDamaged("a record's name is not UTF-8") from None
    if not entry.name.startswith(folder) or "\0" in name:
        raise ZipDamaged("its records are not in one folder")
    inside = name[len(folder.decode()) :]
    disagrees = ZipDamaged(f"{inside} in it is not where its directory says")
    magic, _, flags, method, _, _, crc, packed, size, name_bytes, extra_bytes = LOCAL.unpack(
        _read(file, entry.header, LOCAL.size)
    )
    start = entry.header + LOCAL.size + name_bytes + extra_bytes
    if magic != MAGIC or method or start + entry.size > behind:
        raise disagrees
    raw = _read(file, entry.header + LOCAL.size, name_bytes + extra_bytes)
    # Only the flag for UTF-8 names may differ: Python omits it in one place for ASCII names.
    if raw[:name_bytes] != entry.name or (flags ^ entry.flags) & ~UTF8:
        raise disagrees
    sums, end = (crc, packed, size), start + entry.size
    large = _extra(raw[name_bytes:]).get(ZIP64, b"")
    if ALL_32 in (packed, size):
        if len(large) != 16 or (packed, size) != (ALL_32, ALL_32):
            raise disagrees
        sums = (crc, *struct.unpack("<2Q", large))
    # With a descriptor, the header may hold zeros: its values follow after the record.
    if sums != (entry.crc, entry.size, entry.size) and not (flags & DESCRIPTOR and not any(sums)):
        raise disagrees
    if behind > end:  # a descriptor follows; its sizes have 4 or 8 bytes
        layout = {16: "<4s3L", 24: "<4sL2Q"}.get(behind - end if flags & DESCRIPTOR else 0)
        if layout is None or struct.unpack(layout, _read(file, end, behind - end)) != (
            b"PK\7\x08", entry.crc, entry.size, entry.size
        ):
            raise disagrees
    elif flags & DESCRIPTOR and entry.size:
        raise disagrees
    return Record(inside, start, entry.size, entry.crc)


def _extra(raw: bytes) -> dict[int, bytes]:
    """The extra fields of a header by their numbers."""
    fields: dict[int, bytes] = {}
    at = 0
    while at < len(raw):
        if len(raw) - at < 4:
            raise ZipDamaged("a record's header is damaged")
        number, size = struct.unpack_from("<2H", raw, at)
        if number not in {ZIP64, PADDING} | UNIX_TIMES or number in fields:
            raise ZipDamaged("a record's header holds more than torch.save writes")
        fields[number] = raw[at + 4 : at + 4 + size]
        at += 4 + size
    if at > len(raw):
        raise ZipDamaged("a record's header is damaged")
    return fields


def _read(file: IO[bytes], at: int, size: int) -> bytes:
    """Bytes at an offset. Raises ZipCutShort if the file ends before."""
    found = os.pread(file.fileno(), size, at)
    if len(found) != size:
        raise ZipCutShort
    return found
