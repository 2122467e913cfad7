"""TFRecord files of tf.train.Example records: written for every reader, read whoever wrote them.

    record      <Q length, <I masked CRC-32C of these 8 bytes, data, <I masked CRC-32C of the data

Layout: tensorflow/core/lib/io/record_writer.h.
"""

from __future__ import annotations

import contextlib
import os
import struct
from pathlib import Path
from typing import NamedTuple

import google_crc32c
import numpy as np

from data_tools.errors import UserError
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


def dali_index(rows: np.ndarray) -> str:
    """DALI's index of one file of ours, from all its INDEX_DTYPE rows: "offset size" a record."""
    ends = (rows["offset"] + rows["size"] + 4).tolist()
    starts = [0, *ends[:-1]]
    return "".join(f"{a} {b - a}\n" for a, b in zip(starts, ends, strict=True))


def is_tfrecord(path: Path) -> bool:
    """True for a file that begins with a length and its checksum, even if it is compressed."""
    head = beginning(path, 1 << 12)
    return begins_record(head) or begins_record(inflated(head, 12))


def begins_record(head: bytes) -> bool:
    return len(head) >= 12 and head[8:12] == masked(google_crc32c.value(head[:8]))


class FirstLabel(NamedTuple):
    """The label in the first record of a file."""

    name: bytes = b""
    """The feature that holds it; empty: none does."""
    is_float: bool = False
    unused: bytes = b""
    """A feature that looks like a label and is none that is read."""


def first_label(path: Path) -> FirstLabel:
    """Nothing is found in a file that can't be read: the scan names the reason."""
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
    """True if the first label is a float, which older versions did not take for a label."""
    return first_label(path).is_float


def why_no_labels(path: Path) -> str:
    """The reason, for the user, why a file whose images have no labels has none."""
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
    """The images of a TFRecord file: INDEX_DTYPE [N], and no classes.

    The image is image/encoded, or else the first bytes feature (by name) of the first record that
    begins as an image does. The label is image/class/label, label, or else the first feature
    whose name says so: an integer, or a whole float; lists have none. check: also the checksums of
    the data.
    Raises UserError for what is damaged, truncated or compressed, and where an image is missing.
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
