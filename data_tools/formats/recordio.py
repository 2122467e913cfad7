"""RecordIO files of MXNet image records: written for every reader, read whoever wrote them.

    record      <I magic, <I flag << 29 | length, payload, zeros up to a multiple of 4 bytes
    payload     <IfQQ (flag, label, id, id2), then `flag` more labels as <f, then the image

Where the magic number occurs in a payload at a multiple of 4 bytes, the record is broken there into
several, and the magic is left out: the next record's own stands for it. So, seen in the file, a
word is slipped in behind each such magic, and leaving these words out gives the payload back.

Layout: dmlc-core/include/dmlc/recordio.h and src/recordio.cc; mxnet/recordio.py and its
src/io/image_recordio.h.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np

from data_tools.errors import UserError
from data_tools.formats.scan import LARGEST, Scan, beginning
from data_tools.images.prepare_image import Prepared
from data_tools.images.sniff import ppm_header
from data_tools.progress import Tick
from data_tools.store import JPEG, RAW, SPLIT

SUFFIX = ".rec"
MAGIC = 0xCED7230A
MAGIC_BYTES = struct.pack("<I", MAGIC)
WHOLE, FIRST, MIDDLE, LAST = range(4)
IMAGE_HEAD = struct.Struct("<IfQQ")
LENGTH_BITS = 29
# float32, the label's type, holds every integer up to here.
LARGEST_LABEL = 1 << 24


class Writer:
    """Appends one image record an image: its number in the source as id, its label as float32.

    A full disk is an OSError, here and in finish().
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = open(path, "wb", buffering=1 << 20)
        self._end = 0

    def append(self, i: int, image: Prepared, label: int) -> tuple[int, int]:
        """Writes the next record; -> (where the image's bytes or pixels begin, kind).

        The kind is JPEG or RAW, with SPLIT where the image is broken at the magic number.
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

    def finish(self) -> None:
        """Makes the file whole and durable."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def close(self) -> None:
        self._file.close()


def aligned_magics(payload: bytes) -> list[int]:
    """Where the magic number occurs at multiples of 4 bytes."""
    words = np.frombuffer(payload, "<u4", len(payload) // 4)
    return [4 * int(at) for at in np.flatnonzero(words == MAGIC)]


def in_file(breaks: list[int], at: int) -> int:
    """Where byte `at` of a payload lies, counted from where the payload begins in the file."""
    return at + 4 * sum(magic + 4 <= at for magic in breaks)


def is_split(breaks: list[int], at: int) -> int:
    """SPLIT if the payload from `at` on is broken, else 0."""
    return SPLIT if any(magic + 4 > at for magic in breaks) else 0


def join(content: np.ndarray, start: int, size: int) -> np.ndarray:
    """A broken image, uint8 [size], from its file's bytes; `start`: where its own begin there.

    Records begin at multiples of 4, so the file's words are the payload's, with one slipped in
    behind each magic (which no length can equal: 6 is no flag).
    """
    first = start // 4 * 4
    slipped = 0
    while True:
        whole = content[first : start + size + 4 * slipped]
        words = whole[: len(whole) // 4 * 4].view("<u4")
        magics = np.flatnonzero(words == MAGIC)
        if len(magics) == slipped:
            break
        slipped = len(magics)
    keep = np.ones(len(whole) + 4, bool)
    keep[(4 * magics[:, None] + np.arange(4, 8)).ravel()] = False
    joined = whole[keep[: len(whole)]][start - first :]
    joined.flags.writeable = False
    return joined


def dali_index(rows: np.ndarray, first: int, base: int) -> str:
    """The part of DALI's (and MXNet's) index for one file of ours: "key<tab>offset" a record.

    rows: INDEX_DTYPE, of the file. first: how many records the files before it hold, base: how many
    bytes. The parts of all files, in order, make the one index of the dataset.
    """
    heads = np.full(len(rows), 8 + IMAGE_HEAD.size, np.int64)
    for k in np.flatnonzero(rows["kind"] & ~np.uint8(SPLIT) == RAW):
        heads[k] += len(ppm_header(int(rows["height"][k]), int(rows["width"][k])))
    starts = rows["offset"].astype(np.int64) - heads + base
    return "".join(f"{first + k}\t{start}\n" for k, start in enumerate(starts.tolist()))


def is_recordio(path: Path) -> bool:
    """True for a file that begins as a RecordIO file does."""
    head = beginning(path, 8)
    return head[:4] == MAGIC_BYTES and len(head) == 8 and head[7] >> 5 in (WHOLE, FIRST)


def scan(path: Path, progress: Tick | None = None) -> tuple[np.ndarray, list[str]]:
    """The images of a RecordIO file: INDEX_DTYPE [N], and no classes.

    A record without an image (some files begin with one) is passed over. A label that is no whole
    number, or a list, is none: -1. Raises UserError for what is damaged or truncated.
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
            # False for NaN too.
            whole = listed < 2 and 0 <= label < 1 << 62 and label == int(label)
            if image < len(payload):
                scan.add(payload[image:], start + in_file(breaks, image),
                         int(label) if whole else -1, is_split(breaks, image))
        return scan.rows(), []


def take_record(scan: Scan) -> tuple[bytes, list[int]]:
    """The payload of the next record, and where it was broken."""
    payload, breaks = bytearray(), []
    begun = False
    while True:
        magic, word = struct.unpack("<II", scan.take(8))
        flag, length = word >> LENGTH_BITS, word & (1 << LENGTH_BITS) - 1
        if magic != MAGIC:
            raise scan.damaged(f"no magic number where record {scan.number} must be")
        if flag not in ((MIDDLE, LAST) if begun else (WHOLE, FIRST)):
            raise scan.damaged(f"a part is missing in record {scan.number}")
        payload += scan.take(length)
        scan.skip(-length % 4)
        if flag in (WHOLE, LAST):
            break
        begun = True
        breaks.append(len(payload))
        payload += MAGIC_BYTES
        if len(payload) > LARGEST:
            raise scan.damaged(f"record {scan.number} is of more than {LARGEST} bytes")
    whole = bytes(payload)
    # What `join` goes by.
    if breaks and breaks != aligned_magics(whole):
        raise scan.damaged(f"record {scan.number} is broken at other places than its magic numbers")
    return whole, breaks
