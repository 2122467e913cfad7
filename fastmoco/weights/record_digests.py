"""Adds a digest of every record to a checkpoint, and checks the digests.

The records of a checkpoint are its pickle (names, shapes, settings) and the storage of each tensor.
The digests are in a record of their own. They are CRC-32C, which has another polynomial than the
zip's CRC-32, and takes 0.1 s per GB on any processor of the last fifteen years. Both are checked.
They detect damage, not forgery.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from typing import IO

import google_crc32c

from fastmoco.weights.safetensors_header import bounded_json
from fastmoco.weights.zip_records import Record, ZipDamaged, chunks, content, read_records

NAME = "fastmoco/crc32c"
MOST_BYTES = 16 << 20  # largest record of digests that is read
BEFORE_TIME = (1980, 1, 1, 0, 0, 0)  # a fixed date, so that equal content gives equal bytes


def add_digests(file: IO[bytes]) -> None:
    """Append digests of its records to a file that torch.save wrote, open for reading and writing.
    torch.load ignores the new record."""
    file.flush()
    records = read_records(file)
    digests = {name: _crc32c(file, record) for name, record in records.items()}
    with zipfile.ZipFile(file, "a") as archive:
        folder = archive.namelist()[0].partition("/")[0]
        place = zipfile.ZipInfo(f"{folder}/{NAME}", BEFORE_TIME)
        archive.writestr(place, json.dumps(digests, indent=0))


def check(file: IO[bytes], records: dict[str, Record]) -> bool:
    """Compare all records with their checksums and digests. Return False if the file has no
    digests.

    A file that torch wrote with checksums off has zeros for its CRC-32, which are not compared.
    Raises ZipDamaged, which names the record.
    """
    others = [r for name, r in records.items() if name != NAME]
    digests = _digests(file, records[NAME]) if NAME in records else {}
    if digests and digests.keys() != {r.name for r in others}:
        raise ZipDamaged("its digests are of other records")
    summed = any(r.crc for r in others)
    for record in others if summed or digests else ():
        crc, digest = _sums(file, record)
        if summed and crc != record.crc or digests and digest != digests[record.name]:
            raise ZipDamaged(f"{record.name} in it is not what was written")
    return bool(digests)


def _sums(file: IO[bytes], record: Record) -> tuple[int, str]:
    """CRC-32 and, in hexadecimal, CRC-32C of a record's bytes."""
    crc = digest = 0
    for chunk in chunks(file, record):
        crc, digest = zlib.crc32(chunk, crc), google_crc32c.extend(digest, chunk)
    return crc, f"{digest:08x}"


def _crc32c(file: IO[bytes], record: Record) -> str:
    digest = 0
    for chunk in chunks(file, record):
        digest = google_crc32c.extend(digest, chunk)
    return f"{digest:08x}"


def _digests(file: IO[bytes], record: Record) -> dict[str, str]:
    text = content(file, record, MOST_BYTES)
    if zlib.crc32(text) != record.crc:
        raise ZipDamaged(f"{NAME} in it is not what was written")
    found = bounded_json(text)
    if not isinstance(found, dict) or not found or not all(type(v) is str for v in found.values()):
        raise ZipDamaged("its record of digests is no list of digests")
    return found
