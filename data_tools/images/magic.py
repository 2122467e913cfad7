"""The first bytes of image files: the one table that says what a file may be.

file_kinds.py has the first bytes of files that prep cannot store, to name them in its reasons.
"""

from __future__ import annotations

import re

JPEG_START = b"\xff\xd8\xff"
PNG_START = b"\x89PNG\r\n\x1a\n"
CODESTREAM = b"\xff\x4f\xff\x51"  # of a JPEG 2000, with or without a container
# Pillow's names of formats that are read, by the shortest start of their files. A file with such a
# start that Pillow cannot open counts as damaged. JPEG, TIFF, WebP and AVIF need a closer look.
STARTS = {
    PNG_START: "PNG", b"GIF8": "GIF", b"BM": "BMP", b"\0\0\0\x0cjP  ": "JPEG2000",
    CODESTREAM: "JPEG2000", b"P1": "PPM", b"P2": "PPM", b"P3": "PPM", b"P4": "PPM",
    b"P5": "PPM", b"P6": "PPM", b"Pf": "PPM",
}  # fmt: skip
# Starts that no other file has by chance, also of formats that prep names but can't decode. A
# bitmap must have a header of a known length behind "BM", which texts start with too.
SURE = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|GIF8[79]a|RIFF....WEBP|II\*\0|MM\0\*"
    rb"|BM(.{4}\0\0\0\0|.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0)"
    rb"|P[1-7][\s#]+[\dW#]|\0\0\0\x0c(jP  |JXL )|\xff\x4f\xff\x51|\xff\x0a"
    rb"|....ftyp(avif|avis|heic|heix|hevc|mif1|msf1)",
    re.DOTALL,
)
HEAD = 32  # bytes that SURE looks at


def is_picture(head: bytes) -> bool:
    """True if bytes start like an image. head: the first HEAD bytes, or all if there are fewer."""
    return SURE.match(head) is not None
