"""Makes PNG and TIFF files by hand, of kinds that Pillow can't write."""

import struct
import zlib

import numpy as np


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(pixels: np.ndarray, depth: int, colour: int, *chunks: bytes) -> bytes:
    """Make a PNG (ISO 15948). pixels: [H, W] or [H, W, C]."""
    height, width = pixels.shape[:2]
    rows = pixels.reshape(height, -1)
    if depth == 16:
        packed = rows.astype(">u2").view(np.uint8)
    else:
        bits = np.unpackbits(rows.astype(np.uint8)[..., None], axis=2)[..., 8 - depth :]
        packed = np.packbits(bits.reshape(height, -1), axis=1)
    body = zlib.compress(b"".join(b"\0" + row.tobytes() for row in packed))
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head)
    return start + b"".join(chunks) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def tiff(
    pixels: np.ndarray, bits: int, body: bytes, order: str = "<", **tags: tuple[int, int]
) -> bytes:
    """Make a TIFF (6.0) with one strip. tags: name=(tag, value), added or replaced."""
    height, width = pixels.shape[:2]
    entries = {256: width, 257: height, 258: bits, 259: 1, 262: 1, 273: 0, 277: 1, 278: height}
    entries |= {279: len(body)} | dict(tags.values())
    entries[273] = 8 + 2 + 12 * len(entries) + 4
    table = b"".join(entry(order, tag, entries[tag]) for tag in sorted(entries))
    start = b"II*\0" if order == "<" else b"MM\0*"
    return start + struct.pack(order + "IH", 8, len(entries)) + table + b"\0\0\0\0" + body


def entry(order: str, tag: int, value: int) -> bytes:
    if tag in (258, 259, 262, 277, 284, 338, 339):
        return struct.pack(order + "HHIHxx", tag, 3, 1, value)
    return struct.pack(order + "HHII", tag, 4, 1, value)
