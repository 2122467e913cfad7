"""Names the kind of a file that prep can't store, for the reason in the quarantine.

The signatures are from the formats' specifications. Only files that all readers have refused get
here, so a short signature can't refuse a good image.
"""

from __future__ import annotations

import re
import struct
import zlib
from typing import NamedTuple

CONVERT = "not supported, convert it first"


class Kind(NamedTuple):
    """The kind of a file that can't be stored."""

    name: str
    is_image: bool


# (offset, bytes, name): images that are not supported.
IMAGES = (
    (0, b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"), (0, b"\xff\x0a", "JPEG XL"),
    (128, b"DICM", "DICOM"), (0, b"\x08\0\x05\0", "DICOM"), (0, b"\x08\0\0\0", "DICOM"),
    (0, b"DDS ", "DDS"), (0, b"8BPS\0\1", "PSD"), (0, b"8BPS\0\2", "PSD"), (0, b"qoif", "QOI"),
    (0, b"\x01\xda", "SGI"), (0, b"#?RADIANCE", "HDR"), (0, b"#?RGBE", "HDR"),
    (0, b"\x76\x2f\x31\x01", "OpenEXR"), (0, b"SIMPLE  =", "FITS"),
    (344, b"n+1\0", "NIfTI"), (344, b"ni1\0", "NIfTI"), (4, b"n+2\0\r\n\x1a\n", "NIfTI"),
    (4, b"ni2\0\r\n\x1a\n", "NIfTI"), (0, b"%!PS", "EPS"), (0, b"\xc5\xd0\xd3\xc6", "EPS"),
    (0, b"FUJIFILMCCD-RAW", "camera RAW (RAF)"), (0, b"IIRO", "camera RAW (ORF)"),
    (0, b"IIRS", "camera RAW (ORF)"), (0, b"MMOR", "camera RAW (ORF)"),
    (0, b"IIU\0", "camera RAW (RW2)"), (0, b"FOVb", "camera RAW (X3F)"),
    (0, b"\0MRM", "camera RAW (MRW)"), (6, b"HEAPCCDR", "camera RAW (CRW)"),
    (4, b"ftypcrx ", "camera RAW (CR3)"),
    (0, b"II\xbc\x01", "JPEG XR"), (0, b"\x97JB2\r\n\x1a\n", "JBIG2"), (0, b"AT&TFORM", "DjVu"),
    (0, b"gimp xcf", "XCF"), (0, b"\x59\xa6\x6a\x95", "Sun raster"), (0, b"FLIF", "FLIF"),
    (0, b"BPG\xfb", "BPG"), (0, b"BLP1", "BLP"), (0, b"BLP2", "BLP"), (0, b"icns", "ICNS"),
    (0, b"FTEX", "FTEX"), (0, b"FTC\0", "FTEX"), (0, b"FTU\0", "FTEX"),
    (0, b"/* XPM */", "XPM"), (0, b"\xd7\xcd\xc6\x9a", "WMF"), (40, b" EMF", "EMF"),
    (0, b"DanM", "MSP"), (0, b"LinS", "MSP"), (0, b"P7 332", "XV thumbnail"), (0, b"P7\n", "PAM"),
    (0, b"\xb1\x68\xde\x3a", "DCX"), (0, b"\xabKTX ", "KTX"), (20, b"GIMP", "GIMP brush"),
    (0, b"CDF\1", "NetCDF"), (0, b"CDF\2", "NetCDF"), (0, b"GRIB", "GRIB"), (0, b"BUFR", "BUFR"),
    (0, b"VTF\0", "VTF"), (0, b"\0\0\0\0\0\0\0\4", "McIDAS area"),
    (0, b"\x80\xe8\0\0", "PIXAR raster"), (2048, b"PCD_", "PhotoCD"), (0, b"PF\n", "PFM"),
    (4, b"\x11\xaf", "FLI animation"), (4, b"\x12\xaf", "FLC animation"),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "OLE file (FlashPix or Office)"),
)  # fmt: skip
# (offset, bytes, name): files that are no images.
OTHERS = (
    (0, b"%PDF-", "PDF"), (0, b"\x89HDF\r\n\x1a\n", "HDF5 file"),
    (512, b"\x89HDF\r\n\x1a\n", "HDF5 file"), (0, b"\x0e\x03\x13\x01", "HDF4 file"),
    (0, b"PK\3\4", "zip archive"), (0, b"PK\5\6", "zip archive"),
    (0, b"Rar!\x1a\7", "RAR archive"), (0, b"7z\xbc\xaf\x27\x1c", "7z archive"),
    (257, b"ustar", "tar archive"), (0, b"\xfd7zXZ\0", "xz-compressed file"),
    (0, b"BZh", "bzip2-compressed file"), (0, b"\x28\xb5\x2f\xfd", "Zstandard-compressed file"),
    (4, b"moov", "QuickTime video"), (4, b"mdat", "QuickTime video"),
    (4, b"wide", "QuickTime video"), (4, b"ftypqt  ", "QuickTime video"),
    (0, b"\x1a\x45\xdf\xa3", "Matroska or WebM video"), (0, b"FLV\1", "FLV video"),
    (0, b"\0\0\1\xba", "MPEG video"), (0, b"\0\0\1\xb3", "MPEG video"), (0, b"OggS", "Ogg file"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "WMV video"),
    (0, b"ID3", "MP3 audio"), (0, b"fLaC", "FLAC audio"),
    (0, b"\x93NUMPY", "NumPy array"), (0, b"PAR1", "Parquet file"), (0, b"ARROW1", "Arrow file"),
    (0, b"\0\5\x16\7", "macOS resource file"), (0, b"\0\0\0\1Bud1", "macOS folder settings"),
    (0, b"SQLite format 3\0", "SQLite file"), (0, b"\x7fELF", "program"),
    (0, b"\0\1\0\0\0", "font"), (0, b"OTTO", "font"), (0, b"wOF", "font"),
    (0, b"version https://git-lfs", "git-lfs pointer"),
)  # fmt: skip
RIFF = {b"AVI ": "AVI video", b"WAVE": "WAV audio", b"ACON": "animated cursor"}
HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")
VIDEO_BRANDS = (b"isom", b"iso", b"mp4", b"M4V", b"avc", b"3gp", b"3g2", b"dash", b"MSNV", b"f4v")
TGA_FOOTER = b"TRUEVISION-XFILE.\0"
ELEMENT = re.compile(rb"<(?:\w{1,20}:)?(\w{1,20})[\s>/]")
HTML_ELEMENTS = (b"html", b"head", b"body")
IM_TOOLS = re.compile(
    rb"(?:[^\n\x0c]{0,99}\n){0,9}width \d+\n(?:[^\n\x0c]{0,99}\n){0,9}height \d+"
)
LOOKS = 4096  # bytes of a text that are searched


def kind_of(data: bytes) -> Kind | None:
    """The kind of a file by its first bytes, or for TGA also its last ones; None if unknown."""
    for table, is_image in ((IMAGES, True), (OTHERS, False)):
        for offset, signature, name in table:
            if data.startswith(signature, offset) and fits(name, data):
                return Kind(name, is_image)
    return container_kind(data) or text_kind(data[:LOOKS]) or headless_kind(data)


def fits(name: str, data: bytes) -> bool:
    """True if the bytes behind a short signature also match its format."""
    if name == "DICOM" and data[128:132] != b"DICM":  # without its preamble: the first element
        return data[4:6] in (b"UL", b"CS", b"UI") or data[4:8] in (b"\4\0\0\0", b"\x0a\0\0\0")
    if name == "SGI":
        return data[2:3] in (b"\0", b"\1") and data[3:4] in (b"\1", b"\2")
    if name in ("FLI animation", "FLC animation"):
        return len(data) >= 16 and struct.unpack_from("<H", data, 14)[0] in (0, 3)
    if name == "QuickTime video":
        return int.from_bytes(data[:4], "big") >= 8 or data[:4] == b"\0\0\0\1"
    if name == "JPEG XL":
        return len(data) > 12
    return True


def container_kind(data: bytes) -> Kind | None:
    """The kind of a file made of boxes (ISO 14496-12), RIFF or gzip, by its content."""
    if data[4:8] == b"ftyp":
        # The major brand, a version of 4 bytes, then the compatible brands.
        length = min(int.from_bytes(data[:4], "big"), 256)
        brands = [data[8:12], *(data[at : at + 4] for at in range(16, length - 3, 4))]
        if data[8:12] in HEIC_BRANDS:
            return Kind("HEIC", True)
        if any(brand.startswith(VIDEO_BRANDS) for brand in brands):
            return Kind("MP4 video", False)
        if any(brand in HEIC_BRANDS for brand in brands):
            return Kind("HEIC", True)
        return Kind("MP4 video", False)
    if data[:4] == b"RIFF" and data[8:12] in RIFF:
        return Kind(RIFF[data[8:12]], False)
    if data[:3] == b"\x1f\x8b\x08":
        try:
            inner = zlib.decompressobj(31).decompress(data[:LOOKS], LOOKS)
        except zlib.error:
            inner = b""
        if inner[344:348] in (b"n+1\0", b"ni1\0") or inner[4:8] in (b"n+2\0", b"ni2\0"):
            return Kind("NIfTI", True)
        if first_element(inner.lstrip())[0] == b"svg":
            return Kind("SVG", True)
        return Kind("gzip-compressed file", False)
    return None


def text_kind(head: bytes) -> Kind | None:
    """The kind of a text; None if it has none of these."""
    head = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    element, doctype = first_element(head)
    if element == b"svg":
        return Kind("SVG", True)
    if element in HTML_ELEMENTS or doctype == b"html":
        return Kind("HTML page", False)
    if re.match(rb"#define\s+\S+_width\s+\d", head):
        return Kind("XBM", True)
    if head.startswith(b"<?xml"):
        return Kind("XML file", False)
    if IM_TOOLS.match(head):
        return Kind("IM Tools image", True)
    if re.match(rb"(?:[^\n]{0,40}\n)?Image type:", head):
        return Kind("IM", True)
    return None


def first_element(text: bytes) -> tuple[bytes, bytes]:
    """The first element of an XML or HTML text, and the name in its DOCTYPE, in lower case."""
    at, doctype = 0, b""
    while True:
        at += len(text[at:]) - len(text[at:].lstrip())
        if text.startswith(b"<?", at):
            end = b"?>"
        elif text.startswith(b"<!--", at):
            end = b"-->"
        elif text[at : at + 9].lower() == b"<!doctype":
            end = b">"
            doctype = (text[at + 9 : at + 40].split() or [b""])[0].rstrip(b">").lower()
        else:
            break
        found = text.find(end, at)
        if found < 0:
            break
        at = found + len(end)
    element = ELEMENT.match(text, at)
    return element[1].lower() if element else b"", doctype


def headless_kind(data: bytes) -> Kind | None:
    """The kind of a file without a signature: its header must be possible and fit its length."""
    if is_icon(data):
        return Kind("ICO" if data[2] == 1 else "CUR", True)
    if data[-18:] == TGA_FOOTER or is_tga(data):
        return Kind("TGA", True)
    if is_spider(data):
        return Kind("SPIDER", True)
    if is_pcx(data):
        return Kind("PCX", True)
    if len(data) >= 40 and data[:4] in (b"\x28\0\0\0", b"\x7c\0\0\0", b"\x6c\0\0\0"):
        planes, bits = struct.unpack_from("<HH", data, 12)
        if planes == 1 and bits in (1, 4, 8, 16, 24, 32):
            return Kind("DIB", True)
    return None


def is_icon(data: bytes) -> bool:
    """True for ICO and CUR: a directory whose first image is inside the file."""
    if len(data) < 22 or data[:4] not in (b"\0\0\1\0", b"\0\0\2\0"):
        return False
    count = struct.unpack_from("<H", data, 4)[0]
    size, offset = struct.unpack_from("<II", data, 14)
    return 0 < count < 256 and 6 + 16 * count <= offset < len(data) and size > 0


def is_tga(data: bytes) -> bool:
    """True for TGA 1, which has no footer: the fields are possible, and the file is long enough for
    its pixels unless they are run-length coded."""
    if len(data) < 19:
        return False
    id_bytes, mapped, kind = data[:3]
    first, entries, entry_bits = struct.unpack_from("<HHB", data, 3)
    width, height, bits, flags = struct.unpack_from("<HHBB", data, 12)
    if mapped not in (0, 1) or kind not in (1, 2, 3, 9, 10, 11) or not width or not height:
        return False
    if kind in (1, 9):
        possible = mapped == 1 and bits in (8, 16) and entries and entry_bits in (15, 16, 24, 32)
    elif kind in (2, 10):
        possible = bits in (15, 16, 24, 32)
    else:
        possible = bits in (8, 16)
    if not possible or flags & 0xC0 or (not mapped and (first or entries or entry_bits)):
        return False
    front = 18 + id_bytes + mapped * entries * ((entry_bits + 7) // 8)
    pixels = width * height * ((bits + 7) // 8)
    return len(data) >= front + (pixels if kind < 8 else 2)


def is_spider(data: bytes) -> bool:
    """True for SPIDER: a header of whole floats, in which the sizes agree."""
    for order in "><" if len(data) >= 108 else "":
        values = dict(enumerate(struct.unpack_from(order + "27f", data), 1))
        used = [values[i] for i in (1, 2, 5, 12, 13, 22, 23)]
        if not all(abs(value) < 1e7 and value == int(value) for value in used):
            continue  # also for NaN, which is not below 1e7
        records, size, record = values[13], values[22], values[23]
        if values[5] in (1, 3, -11, -12, -21, -22) and values[12] > 0 < record:
            if records * record == size >= 108:
                return True
    return False


def is_pcx(data: bytes) -> bool:
    """True for PCX: all fields of the header are possible."""
    if len(data) < 128 or data[0] != 10 or data[1] not in (0, 2, 3, 4, 5) or data[2] > 1:
        return False
    left, top, right, bottom = struct.unpack_from("<4H", data, 4)
    return data[3] in (1, 2, 4, 8) and left <= right and top <= bottom and data[65] in (1, 3, 4)
