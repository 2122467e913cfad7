"""Writes and reads RecordIO files of MXNet image records, also those of other writers.

    record      <I magic, <I flag << 29 | length, payload, zeros up to a multiple of 4 bytes
    payload     <IfQQ (flag, label, id, id2), then `flag` more labels as <f, then the image

A payload may contain the magic number. At each multiple of 4 bytes where it does, the writer splits
the record and leaves the magic number out, since the next part starts with one anyway:

    payload     a a a a  MAGIC          b b b b
    file        a a a a  MAGIC  length  b b b b

So in the file there is one extra word, the length, after each magic number of the payload. A reader
that removes these words gets the payload back (see `join`).

Layout: dmlc-core's include/dmlc/recordio.h and src/recordio.cc; mxnet's python/mxnet/recordio.py
and src/io/image_recordio.h.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from data_tools.errors import UserError
from data_tools.formats.appended_file import AppendedFile
from data_tools.formats.scan import LARGEST, Scan, beginning
from data_tools.images.prepare_image import Prepared
from data_tools.images.sniff import ppm_header
from data_tools.progress import Tick
from data_tools.store import JPEG, RAW, SPLIT

SUFFIX = ".rec"
MAGIC = 0xCED7230A
MAGIC_BYTES = struct.pack("<I", MAGIC)
WHOLE, FIRST, MIDDLE, LAST = range(4)  # flags: a record, or a part of a split one
IMAGE_HEAD = struct.Struct("<IfQQ")
LENGTH_BITS = 29
# Labels are float32, which represents every integer up to here.
LARGEST_LABEL = 1 << 24


class Writer(AppendedFile):
    """Appends one record per image: its number in the source as id, its label as float32."""

    def append(self, i: int, image: Prepared, label: int) -> tuple[int, int]:
        """Writes the next record; returns (offset of the image's bytes or pixels, kind).

        The kind is JPEG or RAW, plus SPLIT if the image is split at the magic number. Raises
        UserError for a label or an image that the format cannot hold.
        """
        if abs(label) > LARGEST_LABEL:
            raise UserError(f"{self.path}: RecordIO's labels are float32, and {label} is beyond "
                            f"{LARGEST_LABEL}; choose another format")
        head = IMAGE_HEAD.pack(0, label, i, 0)
        if image.raw:
            head += ppm_header(image.height, image.width)
        payload = head + image.data
        if len(payload) >> LENGTH_BITS:
            raise UserError(f"{self.path}: RecordIO holds images below {1 << LENGTH_BITS} bytes, "
                            f"not {len(payload)}; choose another format, or give --max-side")
        breaks = aligned_magics(payload)
        offset = self._end + 8 + in_file(breaks, len(head))
        start = 0
        for at in breaks:
            self._write(MIDDLE if start else FIRST, payload[start:at])
            start = at + 4
        self._write(LAST if breaks else WHOLE, payload[start:])
        kind = RAW if image.raw else JPEG
        return offset, kind | is_split(breaks, len(head))

    def _write(self, flag: int, payload: bytes) -> None:
        length = len(payload)
        self._file.write(struct.pack("<II", MAGIC, flag << LENGTH_BITS | length))
        self._file.write(payload)
        self._file.write(bytes(-length % 4))
        self._end += 8 + length + -length % 4


def aligned_magics(payload: bytes) -> list[int]:
    """Offsets of the magic number in a payload, among the multiples of 4 bytes."""
    words = np.frombuffer(payload, "<u4", len(payload) // 4)
    return [4 * int(at) for at in np.flatnonzero(words == MAGIC)]


def in_file(breaks: list[int], at: int) -> int:
    """Offset in the file of byte `at` of a payload, counted from the payload's first byte.

    breaks: the magic numbers in the payload, each of which adds 4 bytes to the file.
    """
    return at + 4 * sum(magic + 4 <= at for magic in breaks)


def is_split(breaks: list[int], at: int) -> int:
    """SPLIT if the record is split at or after byte `at` of its payload, else 0."""
    return SPLIT if any(magic + 4 > at for magic in breaks) else 0


def join(content: np.ndarray, start: int, size: int) -> np.ndarray:
    """Puts a split image together: uint8 [size], read-only.

    content: the file's bytes, uint8. start: offset of the image's first byte in the file.

    Records start at multiples of 4, so the payload's words are also words of the file, with an
    extra one after each magic number. An extra word is a flag and a length, and never equals the
    magic number, whose upper 3 bits (6) are no flag.
    """
    first = start // 4 * 4
    extra = 0
    # The image's end in the file depends on the number of extra words before it, and each longer
    # piece may show further ones.
    while True:
        whole = content[first : start + size + 4 * extra]
        words = whole[: len(whole) // 4 * 4].view("<u4")
        magics = np.flatnonzero(words == MAGIC)
        if len(magics) == extra:
            break
        extra = len(magics)
    keep = np.ones(len(whole) + 4, bool)  # the last magic number may be the last word
    keep[(4 * magics[:, None] + np.arange(4, 8)).ravel()] = False
    joined = whole[keep[: len(whole)]][start - first :]
    joined.flags.writeable = False
    return joined


def dali_index(rows: np.ndarray, first: int, base: int) -> str:
    """The lines of DALI's (and MXNet's) index for one of our files: "key<tab>offset" per record.

    rows: INDEX_DTYPE [N], of the file. first, base: number of records and of bytes in the files
    before it, since the dataset has one index for all of its files, in order.
    """
    heads = np.full(len(rows), 8 + IMAGE_HEAD.size, np.int64)
    for k in np.flatnonzero(rows["kind"] & ~np.uint8(SPLIT) == RAW):
        heads[k] += len(ppm_header(int(rows["height"][k]), int(rows["width"][k])))
    starts = rows["offset"].astype(np.int64) - heads + base
    return "".join(f"{first + k}\t{start}\n" for k, start in enumerate(starts.tolist()))


def is_recordio(path: Path) -> bool:
    """True for a file that starts with the head of a RecordIO record."""
    head = beginning(path, 8)
    return head[:4] == MAGIC_BYTES and len(head) == 8 and head[7] >> 5 in (WHOLE, FIRST)


def scan(path: Path, progress: Tick | None = None) -> tuple[np.ndarray, list[str]]:
    """The index of a RecordIO file: INDEX_DTYPE [N], and no classes.

    Skips records without an image (some files start with one). The label is -1 if it is a list or
    no whole number. Raises UserError if the file is damaged or truncated.
    """
    with Scan(path, progress) as scan:
        while scan.begin():
            start = scan.position + 8
            payload, breaks = take_record(scan)
            if len(payload) < IMAGE_HEAD.size:
                raise scan.damaged(f"record {scan.number} is too short for an image record")
            listed, label, _, _ = IMAGE_HEAD.unpack_from(payload)
            image = IMAGE_HEAD.size + 4 * listed
            if image > len(payload):
                raise scan.damaged(f"record {scan.number} claims {listed} labels")
            if listed == 1:
                (label,) = struct.unpack_from("<f", payload, IMAGE_HEAD.size)
            # Comparisons with NaN are False.
            whole = listed < 2 and 0 <= label < 1 << 62 and label == int(label)
            if image < len(payload):
                scan.add(payload[image:], start + in_file(breaks, image),
                         int(label) if whole else -1, is_split(breaks, image))
        return scan.rows(), []


def take_record(scan: Scan) -> tuple[bytes, list[int]]:
    """The payload of the next record, and the offsets in it at which the record was split."""
    payload, breaks = bytearray(), []
    inside = False  # of a split record
    while True:
        magic, word = struct.unpack("<II", scan.take(8))
        flag, length = word >> LENGTH_BITS, word & (1 << LENGTH_BITS) - 1
        if magic != MAGIC:
            raise scan.damaged(f"no magic number where record {scan.number} must be")
        if flag not in ((MIDDLE, LAST) if inside else (WHOLE, FIRST)):
            raise scan.damaged(f"a part is missing in record {scan.number}")
        payload += scan.take(length)
        scan.skip(-length % 4)
        if flag in (WHOLE, LAST):
            break
        inside = True
        breaks.append(len(payload))
        payload += MAGIC_BYTES
        if len(payload) > LARGEST:
            raise scan.damaged(f"record {scan.number} is of more than {LARGEST} bytes")
    whole = bytes(payload)
    # `join` finds the splits by the magic numbers, so they must agree.
    if breaks and breaks != aligned_magics(whole):
        raise scan.damaged(f"record {scan.number} is broken at other places than its magic numbers")
    return whole, breaks
