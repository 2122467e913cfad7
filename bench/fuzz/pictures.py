"""Edits of image files that know the layout, and correct the checksums and sizes around them."""

from __future__ import annotations

import random
import re
import struct
import zlib

from bench.fuzz.mutations import EXTREMES, change

NO_LENGTH = {0xD8, 0xD9, 0x01, *range(0xD0, 0xD8)}  # JPEG markers that stand alone
# Ten bytes, a megabyte and forty of them, compressed.
ZEROS = [zlib.compress(bytes(size)) for size in (10, 1 << 20, 40 << 20)]
FRAMES = (0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC9, 0xCA, 0xCB)


def jpeg_segments(data: bytes) -> list[bytes]:
    """Return the segments up to the first scan, and the rest as the last piece."""
    pieces, at = [data[:2]], 2
    while data[at] == 0xFF and data[at + 1] != 0xDA:
        size = 2 if data[at + 1] in NO_LENGTH else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        pieces.append(data[at : at + size])
        at += size
    return [*pieces, data[at:]]


def edit_jpeg(rng: random.Random, data: bytes) -> bytes:
    """Change a segment's bytes, length or marker, or double, move or remove it."""
    pieces = jpeg_segments(data)
    at = rng.randrange(1, len(pieces))
    piece, way = pieces[at], rng.randrange(9)
    if way == 0:
        pieces.insert(at, rng.choice(pieces[1:]))
    elif way == 1:
        del pieces[at]
    elif way == 2:
        rng.shuffle(pieces)
    elif way == 3:
        pieces[at] = piece[:1] + bytes([rng.choice((*FRAMES, *range(0xC0, 0xFF)))]) + piece[2:]
    elif way == 4:
        pieces[at] = piece[:2] + rng.choice((0, 1, 2, 3, 65535)).to_bytes(2, "big") + piece[4:]
    elif way == 5 and at < len(pieces) - 1:
        body = change(rng, piece[4:], [])[:65533]
        pieces[at] = piece[:2] + (len(body) + 2).to_bytes(2, "big") + body
    elif way == 6:
        frames = [i for i, p in enumerate(pieces) if p[1:2] and p[1] in FRAMES]
        frame = bytearray(pieces[frames[0]])
        k = rng.randrange(4, len(frame))
        frame[k] = rng.choice((0, 1, 2, 3, 4, 5, 8, 12, 16, 0x11, 0x22, 0x41, 0x44, 0xFF))
        pieces[frames[0]] = bytes(frame)
    elif way == 7:
        pieces[-1] = pieces[-1].removesuffix(b"\xff\xd9") + rng.choice((b"", b"\xff", b"\0" * 500))
    else:
        pieces.append(rng.choice((data, bytes(5000), b"\xff\xd8\xff\xd9", b"\xff\xd9" * 20)))
    return b"".join(pieces)


def edit_png(rng: random.Random, data: bytes) -> bytes:
    """Change, double, move or remove one chunk; lengths and checksums stay right."""
    chunks, at = [], 8
    while at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    k = rng.randrange(len(chunks))
    kind, body = chunks[k]
    way = rng.randrange(7)
    if way == 0:
        chunks.insert(k, rng.choice(chunks))
    elif way == 1:
        del chunks[k]
    elif way == 2:
        rng.shuffle(chunks)
    elif way == 3:
        head = bytearray(chunks[0][1])
        j = rng.randrange(len(head))
        head[j] = rng.choice((0, 1, 2, 3, 4, 6, 7, 8, 16, 100, 255))
        chunks[0] = chunks[0][0], bytes(head)
    elif way == 4:
        plain = zlib.decompress(b"".join(b for t, b in chunks if t == b"IDAT"))
        packed = zlib.compress(change(rng, plain, []))
        first = next(i for i, (t, _) in enumerate(chunks) if t == b"IDAT")
        chunks = [c for c in chunks if c[0] != b"IDAT"]
        chunks.insert(first, (b"IDAT", packed))
    elif way == 5:
        name = rng.choice((b"zTXt", b"iCCP", b"iTXt", b"tEXt", b"eXIf", b"acTL", b"fcTL", b"tRNS",
                           b"PLTE", b"gAMA"))
        text = b"k\0\0" + rng.choice(ZEROS)
        chunks.insert(rng.randrange(1, len(chunks)), (name, rng.choice((text, b"", b"\0" * 26))))
    else:
        chunks[k] = kind, change(rng, body, [])
    out = data[:8]
    for kind, body in chunks:
        out += struct.pack(">I", len(body)) + kind + body + struct.pack(
            ">I", zlib.crc32(kind + body))
    return out


def edit_tiff(rng: random.Random, data: bytes) -> bytes:
    """Change a field of one entry of the first directory, or the link to the next directory."""
    order = "<" if data[:2] == b"II" else ">"
    (at,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, at)
    out = bytearray(data)
    if rng.random() < 0.15:
        link = rng.choice((at, 8, 0xFFFFFFFF, len(data) - 2))
        struct.pack_into(order + "I", out, at + 2 + 12 * count, link)
        return bytes(out)
    entry = at + 2 + 12 * rng.randrange(count)
    field, form = rng.choice(((0, "H"), (2, "H"), (4, "I"), (8, "I"), (8, "H")))
    value = rng.choice((*(v for v in EXTREMES if v < 1 << 32), 256, 257, 258, 259, 262, 277, 5, 8))
    if rng.random() < 0.3:  # take the value of another entry
        other = at + 2 + 12 * rng.randrange(count)
        (value,) = struct.unpack_from(order + form, data, other + field)
    struct.pack_into(order + form, out, entry + field, value % (1 << (8 * struct.calcsize(form))))
    return bytes(out)


def edit_riff(rng: random.Random, data: bytes) -> bytes:
    """Change, double or remove a chunk of a WebP; the sizes stay right."""
    chunks, at = [], 12
    while at + 8 <= len(data):
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        chunks.append((data[at : at + 4], data[at + 8 : at + 8 + size]))
        at += 8 + size + size % 2
    k, way = rng.randrange(len(chunks)), rng.randrange(5)
    if way == 0:
        chunks.insert(k, rng.choice(chunks))
    elif way == 1:
        del chunks[k]
    elif way == 2:
        rng.shuffle(chunks)
    elif way == 3:
        chunks[k] = rng.choice((b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"EXIF")), chunks[k][1]
    else:
        chunks[k] = chunks[k][0], change(rng, chunks[k][1], [])
    body = b"".join(t + struct.pack("<I", len(b)) + b + b"\0" * (len(b) % 2) for t, b in chunks)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


NESTED = (b"meta", b"iprp", b"ipco", b"moov", b"trak", b"jp2h", b"iref", b"dinf", b"mdia")


def boxes(data: bytes) -> list[tuple[bytes, bytes]]:
    """Return (type, body) of the boxes of an ISO base media file (AVIF, JPEG 2000)."""
    found, at = [], 0
    while at + 8 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        end = len(data) if size == 0 else at + size
        if size == 1 or end > len(data) or end < at + 8:
            raise ValueError("not boxes")
        found.append((data[at + 4 : at + 8], data[at + 8 : end]))
        at = end
    return found


def edit_boxes(rng: random.Random, data: bytes) -> bytes:
    """Change, double, move or remove a box at any depth; the sizes around it stay right."""
    found = boxes(data)
    k = rng.randrange(len(found))
    kind, body = found[k]
    if kind in NESTED and rng.random() < 0.8:
        skip = 4 if kind == b"meta" else 0
        found[k] = kind, body[:skip] + edit_boxes(rng, body[skip:])
    else:
        way = rng.randrange(5)
        if way == 0:
            found.insert(k, rng.choice(found))
        elif way == 1:
            del found[k]
        elif way == 2:
            rng.shuffle(found)
        elif way == 3:
            found[k] = rng.choice((b"free", b"mdat", b"ftyp", *NESTED)), body
        else:
            found[k] = kind, change(rng, body, [])
    return b"".join(struct.pack(">I", len(b) + 8) + t + b for t, b in found)


def edit_netpbm(rng: random.Random, data: bytes) -> bytes:
    """Change a number of a PPM or PGM header, its magic, or a comment."""
    head = re.match(rb"(P\d)(\s+)(\d+)(\s+)(\d+)(\s+)(\d+)(\s)", data)
    assert head is not None
    parts = list(head.groups())
    k = rng.randrange(8)
    if k == 0:
        parts[0] = rng.choice((b"P1", b"P2", b"P3", b"P4", b"P5", b"P6", b"P7", b"PF", b"Pf"))
    elif k % 2:
        parts[k] = rng.choice((b"", b"  ", b"\n#x\n", b"#" * 5000, b"\0"))
    else:
        parts[k] = rng.choice((b"0", b"-1", b"1", b"65535", b"65536", b"999999999", b"9" * 40,
                               b"", b"+5", b"5_0", b"0x5"))
    return b"".join(parts) + data[head.end() :]
