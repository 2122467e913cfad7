"""Decides which kinds of TIFF are stored, and gives the reasons for refusing the others.

Pillow is not enough: it calls a valid TIFF of an unknown kind no image at all, reads some kinds
wrongly, and reads the thumbnail at the front of a camera's raw file (DNG 1.7 and the makers' own
formats) as its image.
"""

from __future__ import annotations

from PIL.TiffImagePlugin import OPEN_INFO

from data_tools.images.bad_image import BadImage
from data_tools.images.tiff_header import FLOAT, MOST_VALUES, REDUCED, SIGNED, Page, Tiff

WHITE_IS_ZERO, CFA, LINEAR_RAW = 0, 32803, 34892  # photometrics
COLOURS = (2, 5, 6, 8)  # photometrics of three or more bands
COMPRESSIONS = {
    1: "no", 2: "CCITT", 3: "fax group 3", 4: "fax group 4", 5: "LZW", 6: "old-style JPEG",
    7: "JPEG", 8: "deflate", 32766: "NeXT", 32773: "PackBits", 32809: "ThunderScan",
    32946: "deflate", 33003: "JPEG 2000", 33004: "JPEG 2000", 33005: "JPEG 2000", 33007: "JPEG XR",
    34661: "JBIG", 34676: "SGILog", 34677: "SGILog", 34712: "JPEG 2000", 34887: "LERC",
    34892: "lossy JPEG", 34925: "LZMA", 34933: "PNG", 34934: "JPEG XR", 50000: "Zstandard",
    50001: "WebP", 50002: "JPEG XL", 52546: "JPEG XL",
}  # fmt: skip
PHOTOMETRICS = {0: "grey", 1: "grey", 2: "RGB", 3: "palette", 4: "mask", 5: "CMYK", 6: "YCbCr",
                8: "CIELab", 9: "ICCLab", 10: "ITULab", 32844: "LogL", 32845: "LogLuv"}  # fmt: skip
MAKES = {"NIKON": "NEF", "SONY": "ARW", "CANON": "CR2", "PENTAX": "PEF", "SAMSUNG": "SRW",
         "HASSELBLAD": "3FR", "PHASE": "IIQ", "KODAK": "DCR", "EPSON": "ERF"}  # fmt: skip


def refuse_raw(tiff: Tiff) -> None:
    """Raises BadImage for a camera's raw file, or if the first page is a thumbnail."""
    every = tiff.pages + tiff.others
    sensor = any(page.photometric in (CFA, LINEAR_RAW) for page in every)
    dng = any(page.dng for page in tiff.pages)
    if sensor or dng:
        make = next((page.make for page in every if page.make), "")
        kind = MAKES.get(make.upper().split(" ")[0], "") if not dng else "DNG"
        raise BadImage(f"camera RAW{kind and f' ({kind})'}: not supported, develop it first")
    first = tiff.pages[0]
    if first.subfile & REDUCED and any(
        page.width * page.height > first.width * first.height and not page.subfile & REDUCED
        for page in every
    ):
        raise BadImage("TIFF that begins with a thumbnail of its image: not supported, convert it "
                       "first")  # fmt: skip


def refuse_samples(page: Page) -> None:
    """Raises BadImage for pixels without an exact conversion to 8 bits, or that Pillow reads
    wrongly."""
    for kind, name in ((FLOAT, "float"), (SIGNED, "signed or 32-bit"), (5, "complex"),
                       (6, "complex")):  # fmt: skip
        if kind in page.formats:
            raise BadImage(f"TIFF of {name} numbers: not supported, as their range is not known; "
                           "convert it to 8 or 16 bits")  # fmt: skip
    bands_apart = page.separate and page.samples > 1
    colours = page.photometric in COLOURS
    plain = page.bits[0] == 8 and (not page.extra or (page.photometric, page.extra) == (2, (2,)))
    # Other kinds of separate bands are unknown to Pillow, or it mixes up their bytes.
    if bands_apart and not (colours and (plain or page.compression != 1)):
        raise BadImage(f"TIFF of {page.samples} separate bands of {page.bits[0]} bits, "
                       f"{kind_name(page)}: not supported, convert it first")  # fmt: skip


def black_is_zero(data: bytes, page: Page) -> bytes:
    """The file, with its first page marked black-is-zero if it is white-is-zero of 12 or 16 bits.

    Pillow reads white-is-zero pages of these depths in some byte orders only, and never inverts
    them. flatten.py does that.
    """
    at = page.photometric_at
    if page.photometric != WHITE_IS_ZERO or page.bits not in ((12,), (16,)) or not at:
        return data
    value = (1).to_bytes(2, "big" if page.big_endian else "little")
    return data[:at] + value + data[at + 2 :]


def dropped_bands(page: Page) -> str:
    """The part of a reason that says which bands are stored; "" if all are. Others, such as near
    infrared, are dropped."""
    colours = {2: 3, 5: 4, 6: 3, 8: 3}.get(page.photometric, 1)
    alpha = page.samples == colours + 1 and not page.extra
    used = colours + (alpha or any(kind in (1, 2, 999) for kind in page.extra[:1]))
    if page.samples <= used:
        return ""
    return f", first {used} of {page.samples} bands"


def is_possible(page: Page, size: int) -> bool:
    """True if a page is valid, but of a kind that Pillow does not read.

    size: bytes of the file. If Pillow reads pages of this kind, a field that it alone reads must be
    damaged, so this is False.
    """
    if page.width < 1 or page.height < 1 or not page.has_data or page.samples < 1:
        return False
    if len(page.bits) not in (1, min(page.samples, MOST_VALUES)) or not all(page.bits):
        return False
    stored = page.width * page.height * page.samples * page.bits[0] // 8
    if page.compression == 1 and page.photometric != 6 and stored > size:
        return False
    bits = page.bits * page.samples if len(page.bits) == 1 else page.bits
    order, formats = b"MM" if page.big_endian else b"II", page.formats[:1]
    kind = (order, page.photometric, formats, page.fill_order, bits, page.extra)
    return kind not in OPEN_INFO


def unreadable(page: Page, size: int) -> BadImage:
    """The reason that Pillow could not open a TIFF, by its first page. size: bytes of the file."""
    if not is_possible(page, size):
        return BadImage("damaged TIFF: its header can't be read")
    if page.samples > len(page.extra) + 4 or page.samples > 4:
        return BadImage(f"TIFF of {page.samples} bands: not supported, convert it first")
    bits = "/".join(map(str, dict.fromkeys(page.bits)))
    signed = "signed " if SIGNED in page.formats else ""
    each = f"{page.samples} x {bits} {signed}bits"
    return BadImage(f"TIFF of {each}, {kind_name(page)}: not supported, convert it first")


def kind_name(page: Page) -> str:
    return PHOTOMETRICS.get(page.photometric, f"photometric {page.photometric}")


def compression_name(page: Page) -> str:
    return COMPRESSIONS.get(page.compression, f"unknown ({page.compression})")
