"""Writes and reads TFRecord files of tf.train.Example records, also those of other writers.

    record      <Q length, <I masked CRC-32C of these 8 bytes, data, <I masked CRC-32C of the data

Layout: tensorflow/core/lib/io/record_writer.h.
"""

from __future__ import annotations

import contextlib
import struct
from pathlib import Path
from typing import NamedTuple

import google_crc32c
import numpy as np

from data_tools.errors import UserError
from data_tools.formats.appended_file import AppendedFile
from data_tools.formats.scan import Scan, beginning, inflated
from data_tools.formats.tf_example import (
    FLOATS,
    bytes_of,
    example_head,
    features_of,
    image_name,
    integer_of,
    label_name,
    unused_label,
)
from data_tools.images.prepare_image import Prepared
from data_tools.progress import Tick
from data_tools.store import JPEG, RAW

SUFFIX = ".tfrecord"


class Writer(AppendedFile):
    """Appends one Example per image: image/encoded, /format, /height, /width and /class/label."""

    def append(self, i: int, image: Prepared, label: int) -> tuple[int, int]:
        """Writes the next record; returns (offset of the image's bytes or pixels, JPEG or RAW)."""
        head = example_head(image, label)
        length = struct.pack("<Q", len(head) + len(image.data))
        checksum = google_crc32c.extend(google_crc32c.value(head), image.data)
        self._file.write(length + masked(google_crc32c.value(length)) + head)
        self._file.write(image.data)
        self._file.write(masked(checksum))
        offset = self._end + 12 + len(head)
        self._end = offset + len(image.data) + 4
        return offset, RAW if image.raw else JPEG


def masked(checksum: int) -> bytes:
    """A CRC-32C as TFRecord stores it: rotated, plus a constant.

    Otherwise the CRC of data that contains its own CRC would have a constant value.
    """
    return struct.pack("<I", ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def dali_index(rows: np.ndarray) -> str:
    """DALI's index of one of our files: "offset size" per record. rows: INDEX_DTYPE, all."""
    ends = (rows["offset"] + rows["size"] + 4).tolist()  # a checksum of 4 bytes follows
    starts = [0, *ends[:-1]]
    return "".join(f"{a} {b - a}\n" for a, b in zip(starts, ends, strict=True))


def is_tfrecord(path: Path) -> bool:
    """True for a file that starts with a length and its checksum, even if it is compressed."""
    head = beginning(path, 1 << 12)
    return begins_record(head) or begins_record(inflated(head, 12))


def begins_record(head: bytes) -> bool:
    return len(head) >= 12 and head[8:12] == masked(google_crc32c.value(head[:8]))


class FirstLabel(NamedTuple):
    """The label in the first record of a file."""

    name: bytes = b""
    """The feature that holds it; b"": none does."""
    is_float: bool = False
    unused: bytes = b""
    """A feature whose name says label, but whose value is not used."""


def first_label(path: Path) -> FirstLabel:
    """The label in the first record. Empty if the file can't be read: `scan` gives the reason."""
    with contextlib.suppress(UserError, ValueError), Scan(path, None) as scan:
        head = scan.take(12)
        if begins_record(head):
            data = scan.take(int.from_bytes(head[:8], "little"))
            features = features_of(data)
            name = label_name(features, data)
            if name:
                return FirstLabel(name, features[name][0] == FLOATS)
            return FirstLabel(unused=unused_label(features, data))
    return FirstLabel()


def labels_are_floats(path: Path) -> bool:
    """True if the first label is a float. Older versions of this program ignored such labels."""
    return first_label(path).is_float


def why_no_labels(path: Path) -> str:
    """A line for the user: the reason that no image of this file has a label."""
    first = first_label(path)
    if first.name:
        return (f"no labels: {first.name.decode('utf-8', 'replace')} is below 0 in each record, "
                "which counts as unlabelled; write a number from 0 if it is a class")
    if not first.unused:
        return "no labels in it"
    return (f"warning: no labels: the feature {first.unused.decode('utf-8', 'replace')} is not "
            "used, since it is no whole number; write the label as an int64 to image/class/label")


def scan(
    path: Path, progress: Tick | None = None, check: bool = True
) -> tuple[np.ndarray, list[str]]:
    """The index of a TFRecord file: INDEX_DTYPE [N], and no classes.

    The image is the feature image/encoded, or else the first feature (by name) of the first record
    whose bytes start like an image. The label is image/class/label, or label, or else the first
    feature whose name contains label, class or target. It must be an integer or a whole float; a
    list counts as no label.

    check: also compare the checksums of the data. Raises UserError if the file is damaged,
    truncated or compressed, or if a record has no image.
    """
    head = beginning(path, 1 << 12)
    if not begins_record(head) and begins_record(inflated(head, 12)):
        raise UserError(f"{path}: a compressed TFRecord, which can't be read at random; "
                        "decompress it first (gunzip)")
    image = label = b""
    with Scan(path, progress) as scan:
        while scan.begin():
            head = scan.take(12)
            if not begins_record(head):
                raise scan.damaged(f"the checksum of record {scan.number}'s length doesn't match")
            start = scan.position
            data = scan.take(int.from_bytes(head[:8], "little"))
            checksum = scan.take(4)
            if check and checksum != masked(google_crc32c.value(data)):
                raise scan.damaged(f"the checksum of record {scan.number} doesn't match")
            try:
                features = features_of(data)
                image = image or image_name(features, data)
                span = bytes_of(features[image], data) if image in features else None
                label = label or label_name(features, data)
                value = integer_of(features[label], data) if label in features else None
            except ValueError:
                raise UserError(f"{path}: record {scan.number} at byte {scan.start} is no "
                                "tf.train.Example; images are read from these only") from None
            if span is None:
                names = b", ".join(sorted(features)[:20]).decode("utf-8", "replace")
                raise UserError(f"{path}: record {scan.number} at byte {scan.start} has no image; "
                                f"its features: {names or 'none'}")
            scan.add(data[span[0] : span[1]], start + span[0], -1 if value is None else value)
        return scan.rows(), []
