"""JPEG files by their markers: what they hold, and whether they are whole. Nothing is decoded.

After ITU-T T.81 annex B; Exif 2.3 section 4.6 for the orientation; Adobe's TN 5116 for the
transform byte of its APP14 segment.
"""

from __future__ import annotations

import re
from typing import NamedTuple

# Start of frame markers: all but DHT, JPG and DAC, which lie among them.
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
BASELINE, EXTENDED, PROGRESSIVE, ARITHMETIC, ARITHMETIC_PROGRESSIVE = 0xC0, 0xC1, 0xC2, 0xC9, 0xCA
# Inside a scan 0xFF is followed by 0 (a data byte), a restart marker or another 0xFF (a fill byte).
SCAN_END = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
# Encoders write some ten. Each costs a pass over the whole image, and may be a few bytes: a bomb.
MAX_SCANS = 100


class BadImage(Exception):
    """A file that can't be stored. `str(error)` is the reason; details follow a colon."""

    def __init__(self, reason: str, is_image: bool = True) -> None:
        super().__init__(reason)
        self.is_image = is_image
        """False where the file is no image at all, rather than a broken one."""


class JpegHeader(NamedTuple):
    height: int
    width: int
    components: int
    precision: int
    """Bits a component."""
    frame: int
    """The start-of-frame marker's second byte, 0xC0 to 0xCF."""
    orientation: int
    """Exif's, 1 (upright) to 8."""
    adobe_transform: int
    """-1: no Adobe segment; 0: RGB or CMYK, 1: YCbCr, 2: YCCK."""
    sampling: bytes
    """A byte a component: its horizontal (high half) and vertical sampling factor."""


def sniff_jpeg(data: bytes | memoryview, whole: bool = False) -> JpegHeader:
    """Walks the segments of a JPEG up to its first scan; `whole`: through all scans to its end.

    What follows the image's end (padding, a second picture) is not looked at. Raises BadImage for
    a file that is broken or, as far as it is walked, cut off.
    """
    position, end, scans = 2, len(data), 0
    orientation, transform = 1, -1
    frame = ids = sampling = b""
    scanned: set[int] = set()
    while True:
        while data[position : position + 2] == b"\xff\xff":  # fill bytes
            position += 1
        if position + 2 > end:
            raise BadImage("truncated JPEG")
        if data[position] != 0xFF:
            raise BadImage("damaged JPEG: no marker where one must be")
        marker = data[position + 1]
        if marker == 0xD9:
            break
        if marker == 0x01 or 0xD0 <= marker <= 0xD7:  # markers without a segment
            position += 2
            continue
        if marker == 0xD8:
            raise BadImage("truncated JPEG: another image begins before its end")
        if marker < 0xC0 or 0xF0 <= marker <= 0xFD:
            raise BadImage("damaged JPEG: an unknown marker")
        body, position = position + 4, position + 2
        length = int.from_bytes(data[position : position + 2], "big")
        if position + 2 <= end and length < 2:
            raise BadImage("damaged JPEG: a segment of impossible length")
        position += length
        if body > end or position > end:
            raise BadImage("truncated JPEG")
        if marker in FRAMES:
            if frame:
                raise BadImage("damaged JPEG: two frame headers")
            frame = bytes((marker, *data[body:position]))
            if length < 11 or length != 8 + 3 * frame[6]:
                raise BadImage("damaged JPEG: a frame header of the wrong length")
            ids, sampling = frame[7::3], frame[8::3]
        elif marker == 0xE1 and data[body : body + 6] == b"Exif\0\0":
            orientation = exif_orientation(bytes(data[body + 6 : position]))
        elif marker == 0xEE and length >= 14 and data[body : body + 5] == b"Adobe":
            transform = data[body + 11]
        elif marker == 0xDA:
            if not frame:
                raise BadImage("damaged JPEG: a scan before the frame header")
            if not whole:
                break
            scanned |= scan_components(bytes(data[body:position]), ids)
            scans += 1
            if scans > MAX_SCANS:
                raise BadImage(f"JPEG of more than {MAX_SCANS} scans")
            found = SCAN_END.search(data, position)
            if found is None:
                raise BadImage("truncated JPEG")
            position = found.start()
    if not frame or (whole and len(scanned) < len(ids)):
        raise BadImage("damaged JPEG: it ends before its image")
    height, width = int.from_bytes(frame[2:4], "big"), int.from_bytes(frame[4:6], "big")
    if not height or not width:  # height 0: it comes behind the first scan, which nobody decodes
        raise BadImage("damaged JPEG: no size in its header")
    return JpegHeader(height, width, len(ids), frame[1], frame[0], orientation, transform, sampling)


def scan_components(header: bytes, ids: bytes) -> set[int]:
    """The numbers of the frame's components that a scan header (its segment's body) names."""
    count = header[0] if header else 0
    named = header[1 : 1 + 2 * count : 2]
    if not 1 <= count <= 4 or len(header) != 4 + 2 * count or any(c not in ids for c in named):
        raise BadImage("damaged JPEG: a scan header that does not fit the frame's")
    return {number for number, component in enumerate(ids) if component in named}


def exif_orientation(tiff: bytes) -> int:
    """The orientation, 1 to 8, in an Exif block (a TIFF header and its first directory); else 1."""
    order = {b"II*\0": "little", b"MM\0*": "big"}.get(tiff[:4])
    if order is None:
        return 1

    def number(at: int, size: int) -> int:
        return int.from_bytes(tiff[at : at + size], order)  # type: ignore[arg-type]

    directory = number(4, 4)
    for entry in range(number(directory, 2)):
        at = directory + 2 + 12 * entry
        if at + 12 > len(tiff):
            break
        if number(at, 2) == 0x0112:
            value = number(at + 8, 2)
            return value if 1 <= value <= 8 else 1
    return 1
