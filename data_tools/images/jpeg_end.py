"""Repairs the ends of JPEG files: bytes behind the end marker, or a missing end marker.

Phones append videos and panoramas to photographs, and cameras append further pictures. No decoder
reads those bytes. Other files have lost their last two bytes and nothing else. This module makes
complete JPEGs of both, with the same pixels, without re-encoding.
"""

from __future__ import annotations

from typing import NamedTuple

from data_tools.images import codec
from data_tools.images.bad_image import BadImage, TruncatedJpeg
from data_tools.images.jpeg_header import JpegHeader, sniff_jpeg
from data_tools.images.jpeg_segments import (
    BASELINE,
    END,
    EXTENDED,
    PROGRESSIVE,
    SCAN,
    SCAN_END,
    next_segment,
)

CUT = "bytes behind the end of a JPEG dropped"
ENDED = "missing end marker of a JPEG appended"
END_MARKER = b"\xff\xd9"
COEFFICIENTS = 64


class WholeJpeg(NamedTuple):
    """A complete JPEG."""

    data: bytes
    """Its bytes, from the start marker to the end marker."""
    header: JpegHeader
    change: str
    """CUT or ENDED; "" if these are the file's own bytes."""


def whole_jpeg(data: bytes, max_pixels: int) -> WholeJpeg:
    """The JPEG at the start of a file. Raises BadImage if it is damaged or lacks pixels.

    max_pixels: larger images without an end marker are refused, since the search for missing pixels
    would have to decode them.
    """
    try:
        header = sniff_jpeg(data, whole=True)
    except TruncatedJpeg:
        ended = data + (
            END_MARKER[1:] if data.endswith(END_MARKER[:1]) else END_MARKER)
        header_or_none = checked_header(ended, max_pixels)
        if header_or_none is None:
            raise
        return WholeJpeg(ended, header_or_none, ENDED)
    if header.end < len(data):
        return WholeJpeg(data[: header.end], header, CUT)
    return WholeJpeg(data, header, "")


def checked_header(data: bytes, max_pixels: int) -> JpegHeader | None:
    """The header of a JPEG to which an end marker was appended; None if pixels are missing.

    A decoder reports a scan that is cut off. It can't report scans of a progressive JPEG that are
    missing altogether, so the scan headers must cover every bit of every coefficient. The decoder
    of arithmetic coding never runs out of bits, so such files count as truncated.
    """
    try:
        header = sniff_jpeg(data, whole=True)
        readable = header.frame in (BASELINE, EXTENDED, PROGRESSIVE) and header.precision == 8
        if not readable or header.height * header.width > max_pixels:
            return None
        if header.frame == PROGRESSIVE and not has_all_scans(data, header.components):
            return None
        codec.check_jpeg(data, "CMYK" if header.components == 4 else "RGB")
    except BadImage:
        return None
    return header


def has_all_scans(data: bytes, components: int) -> bool:
    """True if a progressive JPEG's scans cover every bit of every coefficient (annex G.1.1.1)."""
    missing: dict[tuple[int, int], int] = {}  # lowest bit so far, by component and coefficient
    position = 2
    while True:
        marker, body, position = next_segment(data, position)
        if marker == END:
            break
        if marker == SCAN:
            count = data[body]
            named = data[body + 1 : body + 1 + 2 * count : 2]
            first, last, bits = data[body + 1 + 2 * count : body + 4 + 2 * count]
            for component in named:
                for coefficient in range(first, last + 1):
                    missing[component, coefficient] = bits & 15
            found = SCAN_END.search(data, position)
            if found is None:
                return False
            position = found.start()
    return len(missing) == components * COEFFICIENTS and not any(missing.values())
