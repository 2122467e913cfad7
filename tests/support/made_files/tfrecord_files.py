"""TFRecord files made byte by byte: records with checksums, and Examples."""

import struct

from data_tools.formats.tf_example import feature, field
from data_tools.formats.tfrecord import masked


def crc32c(data: bytes) -> int:
    """CRC-32C bit by bit (RFC 3720, appendix B.4)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def framed(data: bytes) -> bytes:
    """A record, with checksums of our own making."""
    length = struct.pack("<Q", len(data))
    return length + masked(crc32c(length)) + data + masked(crc32c(data))


def example(**features: bytes) -> bytes:
    """An Example of (name, Feature), '/' in names written as '__'."""
    named = {name.replace("__", "/").encode(): value for name, value in features.items()}
    return field(1, b"".join(feature(name, value) for name, value in named.items()))


def integers(*values: int) -> bytes:
    """A Feature of an Int64List that isn't packed, as old writers leave it."""
    return field(3, b"".join(b"\x08" + bytes([value]) for value in values))
