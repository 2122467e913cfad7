"""A JPEG's header, and whether the file is whole, by its markers. No pixel is decoded.

Sources: ITU-T T.81 annex B; Adobe's Technical Note 5116 for the transform byte of the APP14
segment; XMP specification part 3 for the segments that hold XMP packets.
"""

from __future__ import annotations

from typing import NamedTuple

from data_tools.images.bad_image import BadImage, TruncatedJpeg
from data_tools.images.jpeg_segments import (
    END,
    FRAMES,
    HEIGHT,
    HUFFMAN,
    QUANTISATION,
    SCAN,
    SCAN_END,
    check_scans,
    frame_header,
    huffman_tables,
    next_segment,
    quantisation_tables,
    scan_components,
    size_of,
)
from data_tools.images.orientation import orientation_of

FEW_SCANS = 15  # no image of a size that JPEG can have is refused for this many
APP0, APP1, APP2, APP14 = 0xE0, 0xE1, 0xE2, 0xEE
METADATA = frozenset((APP0, APP1, APP2, APP14))
EXIF = b"Exif\0\0"
ICC = b"ICC_PROFILE\0"
XMP = b"http://ns.adobe.com/xap/1.0/\0"
# A packet of more than 64 kB goes on in segments of this name. Before the text, each has a digest
# of 32 letters, the text's whole length and this piece's offset.
XMP_MORE, XMP_MORE_HEAD = b"http://ns.adobe.com/xmp/extension/\0", 32 + 4 + 4


class JpegHeader(NamedTuple):
    """The properties of a JPEG that decide how it is stored."""

    height: int
    width: int
    components: int
    precision: int
    """Bits per component."""
    frame: int
    """The start-of-frame marker's second byte, 0xC0 to 0xCF."""
    orientation: int
    """1 (upright) to 8, of the first Exif segment, or else of XMP."""
    adobe_transform: int
    """-1: no Adobe segment; 0: RGB or CMYK, 1: YCbCr, 2: YCCK."""
    sampling: bytes
    """A byte per component: its horizontal (high half) and vertical sampling factor."""
    jfif: int
    """JFIF's major version; 1 if there is no JFIF segment."""
    has_profile_fault: bool = False
    """True if parts of its ICC profile are missing, empty or doubled: simplejpeg refuses those."""
    end: int = 0
    """Offset of the first byte behind its end marker. 0 if the file was not read to its end."""


class Metadata:
    """Collects the application segments that matter for decoding."""

    __slots__ = ("exif", "jfif", "more_xmp", "profile", "transform", "xmp")

    def __init__(self) -> None:
        self.transform, self.jfif = -1, 1  # JpegHeader.adobe_transform, JpegHeader.jfif
        self.exif: bytes | None = None
        self.xmp: list[bytes] = []
        self.more_xmp: list[bytes] = []
        self.profile: list[bytes] = []

    def add(self, marker: int, body: bytes) -> None:
        """Takes a segment with a marker of METADATA."""
        if marker == APP1:
            if body.startswith(EXIF):
                if self.exif is None:  # decoders read the first one
                    self.exif = body[len(EXIF) :]
            elif body.startswith(XMP):
                self.xmp.append(body[len(XMP) :])
            elif body.startswith(XMP_MORE):
                self.more_xmp.append(body[len(XMP_MORE) + XMP_MORE_HEAD :])
        elif marker == APP0:
            if len(body) >= 14 and body.startswith(b"JFIF\0"):
                self.jfif = body[5]
        elif marker == APP14:
            if len(body) >= 12 and body.startswith(b"Adobe"):
                self.transform = body[11]
        elif body.startswith(ICC):
            self.profile.append(body[len(ICC) : len(ICC) + 3])

    def orientation(self) -> int:
        """1 (upright) to 8."""
        if self.exif or self.xmp or self.more_xmp:
            return orientation_of(self.exif or b"", [*self.xmp, b"".join(self.more_xmp)])
        return 1


def sniff_jpeg(data: bytes | memoryview, whole: bool = False) -> JpegHeader:
    """Reads the segments of a JPEG up to its first scan; `whole`: all scans, up to its end.

    Bytes behind the image's end (padding, a film, a second picture) are not read. Raises BadImage
    if the file is broken, or TruncatedJpeg if it is cut off, as far as it is read.
    """
    position, scans = 2, 0  # behind the start marker
    metadata = Metadata()
    height_follows = False
    frame = ids = b""
    scanned: set[int] = set()
    quantised: set[int] = set()
    coded: set[int] = set()
    while True:
        marker, body, position = next_segment(data, position)
        if marker == END:
            position += 2
            break
        if marker in FRAMES:
            if frame:
                raise BadImage("damaged JPEG: two frame headers")
            frame = frame_header(marker, bytes(data[body:position]))
            ids = frame[7::3]
        elif marker in METADATA:
            if marker != APP2 or not scans:  # decoders stop looking for a profile at the first scan
                metadata.add(marker, bytes(data[body:position]))
        elif marker == HEIGHT:
            height_follows = True
        elif marker == HUFFMAN:
            coded |= huffman_tables(bytes(data[body:position]))
        elif marker == QUANTISATION:
            quantised |= quantisation_tables(bytes(data[body:position]))
        elif marker == SCAN:
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
    return header_of(frame, metadata, height_follows, position if whole else 0)


def header_of(frame: bytes, metadata: Metadata, height_follows: bool, end: int) -> JpegHeader:
    """The header by a frame header and the metadata. Raises BadImage if it has no size.

    height_follows: the file has a DNL segment, which holds the height behind the first scan.
    """
    height, width = size_of(frame)
    if width and not height and height_follows:  # libjpeg does not read DNL segments
        raise BadImage("JPEG with its height behind its first scan (DNL): not supported, convert "
                       "it first")  # fmt: skip
    if not height or not width:
        raise BadImage("damaged JPEG: no size in its header")
    profile = metadata.profile
    return JpegHeader(
        height, width, len(frame[7::3]), frame[1], frame[0], metadata.orientation(),
        metadata.transform, frame[8::3], metadata.jfif,
        bool(profile) and not is_whole_profile(profile), end,
    )  # fmt: skip


def is_whole_profile(parts: list[bytes]) -> bool:
    """True if all ICC segments of a profile are there, and not all are empty (ICC.1:2022 annex
    B.4).

    parts: the first three bytes of each: its number, the number of segments, a byte of the profile.
    """
    parts = [part for part in parts if len(part) >= 2]
    numbers = sorted(part[0] for part in parts)
    filled = any(len(part) > 2 for part in parts)
    counts = {part[1] for part in parts}
    whole = counts == {len(parts)} and numbers == list(range(1, len(parts) + 1))
    return not parts or (whole and filled)
