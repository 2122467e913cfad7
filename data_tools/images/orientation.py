"""The orientation that a file's metadata gives its image: Exif 2.3 section 4.6, XMP part 2.

An image has one orientation. The first Exif block counts if it names one; only then XMP is read.
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
    """1 (upright) to 8. exif: the first Exif block, a TIFF file; xmp: XMP packets, in order.

    A value that is no orientation counts as upright, as a decoder would treat it.
    """
    value = exif_orientation(exif) if exif else 0
    for packet in xmp:
        value = value or xmp_orientation(packet)
    return value if 1 <= value <= 8 else UPRIGHT


def exif_orientation(tiff: bytes) -> int:
    """The value of the tag in an Exif block (a TIFF header and its first directory); 0: none."""
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
            # The value stands at the front of its four bytes, so a big-endian LONG read as a
            # SHORT would always be 0.
            return number(at + 8, INTEGERS.get(number(at + 2, 2), 2))
    return 0


def xmp_orientation(packet: bytes) -> int:
    """tiff:Orientation of an XMP packet, an attribute or an element, by any prefix; 0: none."""
    if b"\0" in packet[:64]:  # UTF-16 or UTF-32: every name in it is ASCII
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
    """In one pass: a regular expression would look for each comment's end up to the file's."""
    kept: list[bytes] = []
    at = 0
    while True:
        start = xml.find(b"<!--", at)
        end = xml.find(b"-->", start) if start >= 0 else -1
        if end < 0:
            return b"".join([*kept, xml[at:]])
        kept.append(xml[at:start])
        at = end + 3
