"""JPEG files by their markers: what they hold, and whether they are whole. Nothing is decoded.

After ITU-T T.81 annex B; Adobe's TN 5116 for the transform byte of its APP14 segment; XMP part 3
for where a JPEG holds its XMP packets.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from data_tools.images.orientation import orientation_of

# Start of frame markers: all but DHT, JPG and DAC, which lie among them.
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
BASELINE, EXTENDED, PROGRESSIVE, ARITHMETIC, ARITHMETIC_PROGRESSIVE = 0xC0, 0xC1, 0xC2, 0xC9, 0xCA
# Inside a scan 0xFF is followed by 0 (a data byte), a restart marker or another 0xFF (a fill byte).
SCAN_END = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
# Encoders write some ten. Each costs a pass over the whole image, and may be a few bytes: a bomb.
MAX_SCANS = 100
FEW_SCANS = 15
# The same for large images: a pass over 134 megapixels takes a decoder a fifth of a second.
MAX_SCANNED_PIXELS = 1 << 31
EXIF = b"Exif\0\0"
ICC = b"ICC_PROFILE\0"
XMP = b"http://ns.adobe.com/xap/1.0/\0"
# What a packet has beyond the 64 kB of a segment. A digest in 32 letters, the text's length and
# its offset stand before the text.
XMP_MORE, XMP_MORE_HEAD = b"http://ns.adobe.com/xmp/extension/\0", 32 + 4 + 4


class BadImage(Exception):
    """A file that can't be stored. `str(error)` is the reason; details follow a colon."""

    def __init__(self, reason: str, is_image: bool = True) -> None:
        super().__init__(reason)
        self.is_image = is_image
        """False where the file is no image at all, rather than a broken one."""


class TruncatedJpeg(BadImage):
    """A JPEG whose bytes end before its end marker."""


class JpegHeader(NamedTuple):
    height: int
    width: int
    components: int
    precision: int
    """Bits a component."""
    frame: int
    """The start-of-frame marker's second byte, 0xC0 to 0xCF."""
    orientation: int
    """1 (upright) to 8: that of the first Exif segment, or else of XMP."""
    adobe_transform: int
    """-1: no Adobe segment; 0: RGB or CMYK, 1: YCbCr, 2: YCCK."""
    sampling: bytes
    """A byte a component: its horizontal (high half) and vertical sampling factor."""
    jfif: int
    """JFIF's major version; 1 where there is no JFIF segment."""
    has_profile_fault: bool = False
    """Whether parts of its ICC profile are missing, empty or doubled: simplejpeg refuses those."""
    end: int = 0
    """Where the image ends: just behind its end marker. 0 if it was not walked so far."""


def sniff_jpeg(data: bytes | memoryview, whole: bool = False) -> JpegHeader:
    """Walks the segments of a JPEG up to its first scan; `whole`: through all scans to its end.

    What follows the image's end (padding, a film, a second picture) is not looked at. Raises
    BadImage for a file that is broken or, as far as it is walked, cut off (TruncatedJpeg).
    """
    position, scans = 2, 0
    transform, jfif = -1, 1
    exif: bytes | None = None
    xmp: list[bytes] = []
    more_xmp: list[bytes] = []
    profile: list[bytes] = []
    height_follows = False
    frame = ids = sampling = b""
    scanned: set[int] = set()
    quantised: set[int] = set()
    coded: set[int] = set()
    while True:
        marker, body, position = next_segment(data, position)
        if marker == 0xD9:
            position += 2
            break
        length = position - body + 2
        if marker in FRAMES:
            if frame:
                raise BadImage("damaged JPEG: two frame headers")
            frame = frame_header(marker, bytes(data[body:position]))
            ids, sampling = frame[7::3], frame[8::3]
        elif marker == 0xE1:
            if data[body : body + 6] == EXIF:
                exif = bytes(data[body + 6 : position]) if exif is None else exif
            elif data[body : body + len(XMP)] == XMP:
                xmp.append(bytes(data[body + len(XMP) : position]))
            elif data[body : body + len(XMP_MORE)] == XMP_MORE:
                more_xmp.append(bytes(data[body + len(XMP_MORE) + XMP_MORE_HEAD : position]))
        elif marker == 0xE2 and not scans and data[body : body + len(ICC)] == ICC:
            at = body + len(ICC)
            profile.append(bytes(data[at : min(at + 3, position)]))
        elif marker == 0xDC:
            height_follows = True
        elif marker == 0xE0 and length >= 16 and data[body : body + 5] == b"JFIF\0":
            jfif = data[body + 5]
        elif marker == 0xEE and length >= 14 and data[body : body + 5] == b"Adobe":
            transform = data[body + 11]
        elif marker == 0xC4:
            coded |= huffman_tables(bytes(data[body:position]))
        elif marker == 0xDB:
            quantised |= quantisation_tables(bytes(data[body:position]))
        elif marker == 0xDA:
            if not frame:
                raise BadImage("damaged JPEG: a scan before the frame header")
            if not whole:
                break
            scanned |= scan_components(bytes(data[body:position]), ids, frame[0], coded)
            scans += 1
            if scans > FEW_SCANS:
                check_scans(scans, frame)
            found = SCAN_END.search(data, position)
            if found is None:
                raise TruncatedJpeg("truncated JPEG")
            position = found.start()
    if not frame or (whole and len(scanned) < len(ids)):
        raise BadImage("damaged JPEG: it ends before its image")
    if whole and not quantised.issuperset(frame[9::3]):
        raise BadImage("damaged JPEG: a quantisation table is missing")
    height, width = size_of(frame)
    if width and not height and height_follows:  # libjpeg does not read DNL segments
        raise BadImage("JPEG with its height behind its first scan (DNL): not supported, convert "
                       "it first")  # fmt: skip
    if not height or not width:
        raise BadImage("damaged JPEG: no size in its header")
    orientation = 1
    if exif or xmp or more_xmp:
        orientation = orientation_of(exif or b"", [*xmp, b"".join(more_xmp)])
    return JpegHeader(
        height, width, len(ids), frame[1], frame[0], orientation, transform, sampling, jfif,
        bool(profile) and not is_whole_profile(profile), position if whole else 0,
    )  # fmt: skip


def size_of(frame: bytes) -> tuple[int, int]:
    """(height, width) by a start-of-frame marker and its segment's body."""
    return int.from_bytes(frame[2:4], "big"), int.from_bytes(frame[4:6], "big")


def is_whole_profile(parts: list[bytes]) -> bool:
    """Whether ICC segments (ICC.1:2022 annex B.4) are all there, and not all are empty.

    parts: the first bytes of each: its number, how many there are, one of the profile.
    """
    parts = [part for part in parts if len(part) >= 2]
    numbers = sorted(part[0] for part in parts)
    filled = any(len(part) > 2 for part in parts)
    counts = {part[1] for part in parts}
    whole = counts == {len(parts)} and numbers == list(range(1, len(parts) + 1))
    return not parts or (whole and filled)


def check_scans(scans: int, frame: bytes) -> None:
    """Raises BadImage for so many scans that decoding is out of proportion to the image."""
    height, width = size_of(frame)
    most = min(MAX_SCANS, max(1, MAX_SCANNED_PIXELS // max(1, height * width)))
    if scans > most:
        size = f" at {width} x {height} pixels" if most < MAX_SCANS else ""
        raise BadImage(f"JPEG of more than {most} scans{size}")


def next_segment(data: bytes | memoryview, position: int) -> tuple[int, int, int]:
    """The marker at a position, and where its segment's body begins and ends (annex B.1.1).

    Fill bytes and markers without a segment are passed over; at the image's end, 0xD9, both places
    are the position. Raises BadImage where there is no whole segment.
    """
    end = len(data)
    while True:
        while data[position : position + 2] == b"\xff\xff":  # fill bytes
            position += 1
        if position + 2 > end:
            raise TruncatedJpeg("truncated JPEG")
        if data[position] != 0xFF:
            raise BadImage("damaged JPEG: no marker where one must be")
        marker = data[position + 1]
        if marker == 0xD9:
            return marker, position, position
        if marker != 0x01 and not 0xD0 <= marker <= 0xD7:  # those have no segment
            break
        position += 2
    if marker == 0xD8:
        raise BadImage("truncated JPEG: another image begins before its end")
    if marker == 0xF7:  # its frame header (ITU-T T.87)
        raise BadImage("JPEG-LS: not supported, convert it first")
    if marker < 0xC0 or 0xF0 <= marker <= 0xFD:
        raise BadImage("damaged JPEG: an unknown marker")
    body = position + 4
    length = int.from_bytes(data[position + 2 : body], "big")
    if body <= end and length < 2:
        raise BadImage("damaged JPEG: a segment of impossible length")
    if body > end or body + length - 2 > end:
        raise TruncatedJpeg("truncated JPEG")
    return marker, body, body + length - 2


def frame_header(marker: int, body: bytes) -> bytes:
    """A start-of-frame segment's body behind its marker, of a length and with sampling factors
    that can be (annex B.2.2)."""
    if len(body) < 9 or len(body) != 6 + 3 * body[5]:
        raise BadImage("damaged JPEG: a frame header of the wrong length")
    if not all(1 <= s >> 4 <= 4 and 1 <= s & 15 <= 4 for s in body[7::3]):
        raise BadImage("damaged JPEG: impossible sampling factors")
    return bytes((marker, *body))


def scan_components(header: bytes, ids: bytes, frame: int, coded: set[int]) -> set[int]:
    """The numbers of the frame's components that a scan header (its segment's body) names.

    coded: the Huffman tables so far. Raises BadImage for what no decoder can follow.
    """
    count = header[0] if header else 0
    if not 1 <= count <= 4 or len(header) != 4 + 2 * count:
        raise BadImage("damaged JPEG: a scan header of the wrong length")
    named, tables = header[1:-3:2], header[2:-3:2]
    first, last, high, low = *header[-3:-1], header[-1] >> 4, header[-1] & 15
    fits = all(component in ids for component in named)
    needed = {table >> 4 for table in tables} | {0x10 | table & 15 for table in tables}
    if frame in (PROGRESSIVE, ARITHMETIC_PROGRESSIVE):
        # Spectral selection and successive approximation: annex G.1.1.1.
        fits = fits and (last == 0 if first == 0 else first <= last <= 63 and count == 1)
        fits = fits and low <= 13 and (high == 0 or high == low + 1)
        needed = {t for t in needed if t >> 4 == (first > 0) and not (first == 0 and high)}
    else:  # decoders know the standard's own tables 0 and 1: frames of MJPEG films have none
        needed = {table for table in needed if table & 15 > 1}
    if not fits or (frame < ARITHMETIC and not needed <= coded):
        raise BadImage("damaged JPEG: a scan header that does not fit what came before")
    return {number for number, component in enumerate(ids) if component in named}


@lru_cache(64)  # most files hold the standard's own
def huffman_tables(tables: bytes) -> frozenset[int]:
    """The tables in a DHT segment's body: 0 to 3 of DC, 16 to 19 of AC coefficients.

    Raises BadImage unless they are whole and their codes possible (annex C; no code is all ones).
    """
    found = set()
    while tables:
        counts, table = tables[1:17], tables[0]
        codes = sum(counts)
        room = sum(count << 15 - i for i, count in enumerate(counts)) < 1 << 16
        whole = len(tables) >= 17 + codes and codes <= 256 and not table & ~0x13
        if not whole or not room or (table < 4 and max(tables[17 : 17 + codes], default=0) > 15):
            raise BadImage("damaged JPEG: an impossible Huffman table")
        found.add(table)
        tables = tables[17 + codes :]
    return frozenset(found)


def quantisation_tables(tables: bytes) -> set[int]:
    """The numbers of the tables in a DQT segment's body."""
    numbers = set()
    while tables:
        size = 129 if tables[0] >> 4 else 65
        if len(tables) < size or tables[0] & ~0x13:
            raise BadImage("damaged JPEG: an impossible quantisation table")
        numbers.add(tables[0] & 3)
        tables = tables[size:]
    return numbers
