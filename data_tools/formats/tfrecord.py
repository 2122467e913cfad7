"""TFRecord files of tf.train.Example records: written for every reader, read whoever wrote them.

    record      <Q length, <I masked CRC-32C of these 8 bytes, data, <I masked CRC-32C of the data

Layout: tensorflow/core/lib/io/record_writer.h; core/example/example.proto and feature.proto, in
protobuf's wire format (protobuf.dev/programming-guides/encoding).
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

import google_crc32c
import numpy as np

from data_tools.formats.pictures import ppm_header
from data_tools.image import Prepared
from data_tools.store import JPEG, RAW

SUFFIX = ".tfrecord"
IMAGE, LABEL = b"image/encoded", b"image/class/label"
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


class Writer:
    """Appends one Example an image: image/encoded, /format, /height, /width and /class/label.

    A full disk is an OSError, here and in finish().
    """

    def __init__(self, path: Path) -> None:
        self._file = open(path, "wb", buffering=1 << 20)
        self._end = 0

    def append(self, i: int, image: Prepared, label: int) -> tuple[int, int]:
        """Writes the next record; -> (where the image's bytes or pixels begin, JPEG or RAW)."""
        head = example_head(image, label)
        length = struct.pack("<Q", len(head) + len(image.data))
        checksum = google_crc32c.extend(google_crc32c.value(head), image.data)
        self._file.write(length + masked(google_crc32c.value(length)) + head)
        self._file.write(image.data)
        self._file.write(masked(checksum))
        offset = self._end + 12 + len(head)
        self._end = offset + len(image.data) + 4
        return offset, RAW if image.raw else JPEG

    def finish(self) -> None:
        """Makes the file whole and durable."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def close(self) -> None:
        self._file.close()


def masked(checksum: int) -> bytes:
    """A CRC-32C as TFRecord stores it: rotated and shifted, so that a CRC of CRCs stays one."""
    return struct.pack("<I", ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def example_head(image: Prepared, label: int) -> bytes:
    """The Example of an image, up to its bytes or pixels. They come last, so nothing follows."""
    ppm = ppm_header(image.height, image.width) if image.raw else b""
    size = len(ppm) + len(image.data)
    head = b""
    for number in (1, 1, 2):  # the value in a BytesList, in a Feature, in a map entry
        head = field_head(number, len(head) + size) + head
    head = field(1, IMAGE) + head
    head = field_head(1, len(head) + size) + head
    head = b"".join((
        feature(LABEL, integer(label)),
        feature(b"image/format", text(b"ppm" if image.raw else b"jpeg")),
        feature(b"image/height", integer(image.height)),
        feature(b"image/width", integer(image.width)),
        head,
    ))
    return field_head(1, len(head) + size) + head + ppm


def feature(name: bytes, value: bytes) -> bytes:
    """An entry of the map in Features."""
    return field(1, field(1, name) + field(2, value))


def text(value: bytes) -> bytes:
    """A Feature that holds a BytesList of one."""
    return field(1, field(1, value))


def integer(value: int) -> bytes:
    """A Feature that holds an Int64List of one."""
    return field(3, field(1, varint(value % (1 << 64))))


def field(number: int, payload: bytes) -> bytes:
    return field_head(number, len(payload)) + payload


def field_head(number: int, size: int) -> bytes:
    return bytes([number << 3 | BYTES]) + varint(size)


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def dali_index(rows: np.ndarray) -> str:
    """DALI's index of one file of ours, from all its INDEX_DTYPE rows: "offset size" a record."""
    ends = (rows["offset"] + rows["size"] + 4).tolist()
    starts = [0, *ends[:-1]]
    return "".join(f"{a} {b - a}\n" for a, b in zip(starts, ends, strict=True))
