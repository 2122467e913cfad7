"""Reads the orientation of an image from its metadata: Exif 2.3 section 4.6, XMP part 2.

The first Exif block counts. XMP is read only if that block has no orientation.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

ORIENTATION = 0x0112
UPRIGHT = 1
# Bytes per value of the integer types of TIFF 6.0: Exif allows SHORT alone, writers use others.
INTEGERS = {1: 1, 3: 2, 4: 4, 6: 1, 8: 2, 9: 4}
XMP_TIFF = rb"http://ns\.adobe\.com/tiff/1\.0/"
XMP_PREFIX = re.compile(rb"xmlns:([\w.-]{1,64})\s*=\s*[\"']" + XMP_TIFF + rb"[\"']")


def orientation_of(exif: bytes, xmp: Sequence[bytes]) -> int:
    """The orientation, 1 (upright) to 8. exif: the first Exif block; xmp: XMP packets, in order.

    Any other value counts as upright, as in decoders.
    """
    value = exif_orientation(exif) if exif else 0
    for packet in xmp:
        value = value or xmp_orientation(packet)
    return value if 1 <= value <= 8 else UPRIGHT


def exif_orientation(tiff: bytes) -> int:
    """The orientation tag of an Exif block, which is a small TIFF file; 0 if it has none."""
    order = {b"II*\0": "little", b"MM\0*": "big"}.get(tiff[:4])
    if order is None:
        return 0

    def number(at: int, size: int) -> int:
        return int.from_bytes(tiff[at : at + size], order)  # type: ignore[arg-type]

    directory = number(4, 4)
    for entry in range(number(directory, 2)):
        at = directory + 2 + 12 * entry
        if at + 12 > len(tiff):
            break
        if number(at, 2) == ORIENTATION:
            # A value starts at the first of its four bytes. So a big-endian LONG must be read with
            # its own size: its first two bytes are always 0.
            return number(at + 8, INTEGERS.get(number(at + 2, 2), 2))
    return 0


def xmp_orientation(packet: bytes) -> int:
    """tiff:Orientation of an XMP packet, an attribute or an element with any prefix; 0: none."""
    if b"\0" in packet[:64]:  # UTF-16 or UTF-32: the names are ASCII between zeros
        packet = packet.replace(b"\0", b"")
    if b":Orientation" not in packet:
        return 0
    packet = without_comments(packet)
    for prefix in dict.fromkeys([*XMP_PREFIX.findall(packet), b"tiff"]):
        name = re.escape(prefix) + rb":Orientation"
        found = re.search(
            rb"[\s<]" + name + rb"(?:\s*=\s*[\"']\s*([0-9]{1,3})\s*[\"']"
            rb"|(?:\s[^<>]*)?>\s*([0-9]{1,3})\s*<)", packet
        )  # fmt: skip
        if found:
            return int(found[1] or found[2])
    return 0


def without_comments(xml: bytes) -> bytes:
    """The text without its comments.

    One pass. A regular expression would search to the end of the text for each unclosed comment.
    """
    kept: list[bytes] = []
    at = 0
    while True:
        start = xml.find(b"<!--", at)
        end = xml.find(b"-->", start) if start >= 0 else -1
        if end < 0:
            return b"".join([*kept, xml[at:]])
        kept.append(xml[at:start])
        at = end + 3
