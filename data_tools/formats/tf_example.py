"""Encodes and decodes tf.train.Example, the records of TFRecord files, without TensorFlow.

    Example     1: Features
    Features    1: map entries (1: name, 2: Feature)
    Feature     1: BytesList, 2: FloatList or 3: Int64List, each with its values as field 1

The numbers are protobuf's field numbers. A field is a head, number << 3 | wire type, then its
value. For wire type 2 (BYTES), the value is a length and that many bytes, often another message:

    0A 05 | 0A 03 61 62 63          field 1 of 5 bytes: in it, field 1 of 3 bytes: "abc"

Layout: tensorflow/core/example/example.proto and feature.proto, in protobuf's wire format
(protobuf.dev/programming-guides/encoding).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import islice

from data_tools.images.magic import HEAD, is_picture
from data_tools.images.prepare_image import Prepared
from data_tools.images.sniff import ppm_header

IMAGE, LABEL = b"image/encoded", b"image/class/label"
# A feature with one of these words in its name may hold the label.
LABEL_WORDS = (b"label", b"class", b"target")
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
FLOATS = 2
# A feature's list: (1 bytes, 2 float, 3 int64; its first byte; the byte behind its last).
Feature = tuple[int, int, int]


def example_head(image: Prepared, label: int) -> bytes:
    """The Example of an image, up to the image's bytes or pixels, which are the last in it.

    So a writer appends the image's bytes without copying them into the message.
    """
    ppm = ppm_header(image.height, image.width) if image.raw else b""
    size = len(ppm) + len(image.data)
    head = b""
    # Built from the inside out, since each head holds the length of all that follows it: the value
    # in a BytesList, the list in a Feature, the Feature in a map entry.
    for number in (1, 1, 2):
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
    """A Feature that holds a BytesList of one value."""
    return field(1, field(1, value))


def integer(value: int) -> bytes:
    """A Feature that holds an Int64List of one value."""
    return field(3, field(1, varint(value % (1 << 64))))


def field(number: int, payload: bytes) -> bytes:
    """A field of wire type BYTES."""
    return field_head(number, len(payload)) + payload


def field_head(number: int, size: int) -> bytes:
    """The start of a field of `size` bytes; numbers up to 15."""
    return bytes([number << 3 | BYTES]) + varint(size)


def varint(value: int) -> bytes:
    """A number of 7 bits per byte, the lowest first; the top bit is set in all but the last."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def features_of(data: bytes) -> dict[bytes, Feature]:
    """The features of an Example by name. Raises ValueError if the bytes are no Example."""
    features: dict[bytes, Feature] = {}
    for number, wire, start, stop in fields(data, 0, len(data)):
        if number != 1 or wire != BYTES:
            continue
        for number, wire, entry, end in fields(data, start, stop):
            if number != 1 or wire != BYTES:
                continue
            name, value = b"", (0, 0, 0)
            for number, wire, at, to in fields(data, entry, end):
                if number == 1 and wire == BYTES:
                    name = data[at:to]
                elif number == 2 and wire == BYTES:
                    for kind, wire, first, last in fields(data, at, to):
                        if kind in (1, 2, 3) and wire == BYTES:
                            value = kind, first, last
            features[name] = value
    return features


def image_name(features: dict[bytes, Feature], data: bytes) -> bytes:
    """The feature that holds the image; b"" if none does."""
    if IMAGE in features and bytes_of(features[IMAGE], data):
        return IMAGE
    for name in sorted(features):
        span = bytes_of(features[name], data)
        if span and is_picture(data[span[0] : min(span[0] + HEAD, span[1])]):
            return name
    return b""


def label_name(features: dict[bytes, Feature], data: bytes) -> bytes:
    """The feature that holds the label; b"" if none does."""
    named = [name for name in sorted(features)
               if any(word in name.lower() for word in LABEL_WORDS)]
    for name in (LABEL, b"label", *named):
        if name in features and integer_of(features[name], data) is not None:
            return name
    return b""


def unused_label(features: dict[bytes, Feature], data: bytes) -> bytes:
    """A feature that is named like a label, but is no whole number; b"" if there is none."""
    return next((name for name in sorted(features)
                 if any(word in name.lower() for word in LABEL_WORDS)
                 and integer_of(features[name], data) is None), b"")


def bytes_of(feature: Feature, data: bytes) -> tuple[int, int] | None:
    """(start, stop) of the first value of a BytesList; None for any other feature."""
    kind, start, stop = feature
    if kind == 1:
        for number, wire, at, to in fields(data, start, stop):
            if number == 1 and wire == BYTES:
                return at, to
    return None


def integer_of(feature: Feature, data: bytes) -> int | None:
    """The one value of an Int64List, or of a FloatList if it is whole (3.0); else None."""
    kind, start, stop = feature
    values: list[int] = []
    if kind == FLOATS:
        return whole_float(data, start, stop)
    if kind == 3:
        for number, wire, at, to in fields(data, start, stop):
            if number == 1 and wire == VARINT:
                values.append(at)
            while number == 1 and wire == BYTES and at < to and len(values) < 2:  # packed
                value, at = read_varint(data, at, to)
                values.append(value)
            if len(values) > 1:
                return None
    # A varint is unsigned: a negative number is stored as its two's complement of 64 bits.
    return (values[0] + (1 << 63)) % (1 << 64) - (1 << 63) if values else None


def whole_float(data: bytes, start: int, stop: int) -> int | None:
    """The one value of a FloatList, packed or not, if it is whole and of 64 bits; else None."""
    found = [data[at:to] for number, wire, at, to in islice(fields(data, start, stop), 2)
             if number == 1 and wire in (FIXED32, BYTES)]
    if len(found) != 1 or len(found[0]) != 4:
        return None
    value, = struct.unpack("<f", found[0])
    return int(value) if value.is_integer() and -(2.0**63) <= value < 2.0**63 else None


def fields(data: bytes, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Yields the fields of a protobuf message in data[at:end] as (number, wire type, start, stop).

    For a varint, start is its value. Raises ValueError if the bytes are no message.
    """
    while at < end:
        tag, at = read_varint(data, at, end)
        number, wire = tag >> 3, tag & 7
        if wire == VARINT:
            value, at = read_varint(data, at, end)
            yield number, wire, value, at
            continue
        if wire == BYTES:
            size, at = read_varint(data, at, end)
        elif wire in (FIXED32, FIXED64):
            size = 4 if wire == FIXED32 else 8
        else:
            raise ValueError(f"wire type {wire}")
        if size > end - at:
            raise ValueError("a field that ends behind its message")
        yield number, wire, at, at + size
        at += size


def read_varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """(value, offset behind it) of the varint at `at`; the value is cut to 64 bits."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            break
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & (1 << 64) - 1, at
    raise ValueError("a varint without an end")
