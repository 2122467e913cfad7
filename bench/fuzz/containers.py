"""Edits of archives, record files and pickles that know the layout and correct the checksums."""

from __future__ import annotations

import gzip
import io
import pickletools
import random
import struct
import warnings
import zipfile

import google_crc32c

from bench.fuzz.mutations import EXTREMES, change, change_number, copies, edit_json
from bench.fuzz.reader import Edit

BLOCK = 512
TAR_FIELDS = {"name": (0, 100), "size": (124, 12), "time": (136, 12), "type": (156, 1),
              "link": (157, 100), "magic": (257, 8), "prefix": (345, 155)}
TAR_TYPES = b"0\x0012345679LKxgSDMNVX"
TAR_NAMES = (b"", b"/", b"../x.jpg", b"/etc/passwd", b"a//b.jpg", b"./.hidden", b"x" * 99,
             b"\xff\xfe.jpg", b"a.b.c.jpg", b".jpg", b"a/", b"a\nb.jpg", b"000.cls", b"000.json")


def tar_starts(data: bytes) -> list[int]:
    """Return the offsets of a tar's headers."""
    found, at = [], 0
    while at + BLOCK <= len(data) and data[at]:
        found.append(at)
        size = int(data[at + 124 : at + 136].strip(b" \0") or b"0", 8)
        at += BLOCK + -(-size // BLOCK) * BLOCK
    return found


def edit_tar(rng: random.Random, data: bytes) -> bytes:
    """Change a field of a header, or double, move or remove a member. The header's checksum stays
    right."""
    starts = tar_starts(data)
    k = rng.randrange(len(starts))
    at, end = starts[k], [*starts, len(data) - 2 * BLOCK][k + 1]
    way = rng.randrange(10)
    if way == 0:
        return data[:at] + data[end:]
    if way == 1:
        return data[:end] + data[at:end] * copies(rng.choice((1, 1, 30)), end - at) + data[end:]
    if way == 2:
        return data[:end] + bytes(rng.choice((BLOCK, 2 * BLOCK))) + data[end:]
    if way == 3:  # an extension header before it
        text = rng.choice((b"20 path=a/b/c/d.jpg\n", b"30 size=99999999999999999999\n",
                           b"11 size=5\n", b"9 path=\n", b"99999999999 a=b\n", b"x" * 600,
                           b"22 GNU.sparse.major=1\n", b"12 size=-1\n", b"\xff" * 40))
        head = bytearray(data[at : at + BLOCK])
        head[124:136] = b"%011o\0" % len(text)
        head[156:157] = rng.choice((b"x", b"g", b"L", b"K"))
        return data[:at] + summed(head) + text + bytes(-len(text) % BLOCK) + data[at:]
    out = bytearray(data[at : at + BLOCK])
    name = rng.choice(list(TAR_FIELDS))
    first, width = TAR_FIELDS[name]
    if name == "type":
        value = bytes([rng.choice(TAR_TYPES)])
    elif name in ("size", "time"):
        number = rng.choice(EXTREMES)
        value = rng.choice((b"%011o\0" % (number % 8**11), b"-1", b"9" * 12, b" " * 12,
                            b"\x80" + (number % 256**11).to_bytes(11, "big"), b"\xff" * 12,
                            b"%011o\0" % (end - at - BLOCK + rng.randint(-600, 600))))
    else:
        value = rng.choice((*TAR_NAMES, rng.randbytes(8)))
    out[first : first + width] = value[:width].ljust(width, b"\0")
    return data[:at] + summed(out) + data[at + BLOCK :]


def summed(head: bytearray) -> bytes:
    """Return a tar header with the right checksum."""
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head)


def inside_gzip(edit: Edit) -> Edit:
    """Apply the edit to the content of a gzip file."""
    def edited(rng: random.Random, data: bytes) -> bytes:
        return gzip.compress(edit(rng, gzip.decompress(data)), 1, mtime=0)

    return edited


def change_any(rng: random.Random, data: bytes) -> bytes:
    return change(rng, data, [])


def edit_zip(*inner: tuple[str, Edit]) -> Edit:
    """Change (also by its suffix's edits), double, rename or remove a member of a zip,
    with right checksums.

    inner: (suffix, edit)."""
    def edited(rng: random.Random, data: bytes) -> bytes:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [(part.filename, archive.read(part)) for part in archive.infolist()]
        k = rng.randrange(len(members))
        own = [name for name, _ in members if any(name.endswith(suffix) for suffix, _ in inner)]
        if own and rng.random() < 0.6:
            k = [name for name, _ in members].index(rng.choice(own))
        name, body = members[k]
        way = rng.randrange(12)
        if way == 0:
            del members[k]
        elif way == 1:
            members.append((name, rng.choice(members)[1]))
        elif way == 2:
            members[k] = rng.choice((name + "x", "../" + name, "/", "é", "x" * 900)), body
        else:
            edits = [edit for suffix, edit in inner if name.endswith(suffix)] or [change_any]
            members[k] = name, rng.choice((*edits, change_any) if way < 5 else edits)(rng, body)
        packed = zipfile.ZIP_DEFLATED if rng.random() < 0.05 else zipfile.ZIP_STORED
        out = io.BytesIO()
        with warnings.catch_warnings(), zipfile.ZipFile(out, "w", packed) as archive:
            warnings.simplefilter("ignore")  # names that come twice are intended
            for name, body in members:
                archive.writestr(name, body)
        return out.getvalue()

    return edited


# (signature, (offset, bytes) of the fields): PKWARE's APPNOTE, local and central headers, the end.
ZIP_HEADERS = (
    (b"PK\3\4", ((4, 2), (6, 2), (8, 2), (10, 4), (14, 4), (18, 4), (22, 4), (26, 2), (28, 2))),
    (b"PK\1\2", ((6, 2), (8, 2), (10, 2), (16, 4), (20, 4), (24, 4), (28, 2), (30, 2), (32, 2),
                 (38, 4), (42, 4))),
    (b"PK\5\6", ((4, 2), (8, 2), (10, 2), (12, 4), (16, 4), (20, 2))),
)


def edit_zip_header(rng: random.Random, data: bytes) -> bytes:
    mark, fields = rng.choice(ZIP_HEADERS)
    places = []
    at = data.find(mark)
    while at >= 0:
        places.append(at)
        at = data.find(mark, at + 1)
    offset, width = rng.choice(fields)
    at = rng.choice(places) + offset
    value = int.from_bytes(data[at : at + width], "little")
    new = rng.choice((value ^ 1 << rng.randrange(8 * width), value + rng.choice((-1, 1, 8)),
                      rng.choice(EXTREMES)))
    return data[:at] + (new % (1 << 8 * width)).to_bytes(width, "little") + data[at + width :]


# Pickles that grow or nest without end: a set of tuples that all have one hash, a deep tuple, a
# memo of doubling lists, a claim of six gigabytes.
NEST = b"\x80\x04)" + b"\x85" * 3000 + b"."
DOUBLE = b"\x80\x04]\x94(" + b"K\1" * 20 + b"e" + b"(h\0h\0h\0h\0t\x94" * 20 + b"."
HASHES = b"\x80\x04)" + b"\x94h\0\x86" * 24 + b"\x94}h\1K\1s."
CLAIM = b"\x80\x05\x96" + (6 << 30).to_bytes(8, "little") + b"x."
BOMBS = (NEST, DOUBLE, HASHES, CLAIM, b"\x80\x04X\xff\xff\xff\x7fabc.", b"\x80\x02cos\nsystem\nX"
         b"\x04\0\0\0true\x85R.", b"\x80\x04r\xff\xff\xff\x7f.", b"\x80\x04" + b"(" * 5000 + b".")


def edit_pickle(rng: random.Random, data: bytes) -> bytes:
    """Change, double, move or remove an instruction, or change its argument."""
    if rng.random() < 0.04:
        return rng.choice(BOMBS)
    starts = [at for _, _, at in pickletools.genops(data) if at is not None]
    k = rng.randrange(len(starts))
    at, end = starts[k], [*starts, len(data)][k + 1]
    way = rng.randrange(8)
    if way == 0:
        return data[:at] + data[end:]
    if way == 1:
        return data[:end] + data[at:end] * copies(rng.choice((1, 1, 1000)), end - at) + data[end:]
    if way == 2:
        return data[:at] + rng.choice(pickletools.opcodes).code.encode("latin1") + data[at + 1 :]
    if way == 3:
        j = rng.randrange(len(starts))
        other = data[starts[j] : [*starts, len(data)][j + 1]]
        return data[:at] + other + data[end:]
    if way == 4:
        new = rng.choice((b"N", b"K\0", b"J\xff\xff\xff\xff", b"\x8a\x08" + b"\xff" * 7 + b"\x7f",
                          b"G\x7f\xf8\0\0\0\0\0\0", b"]", b"}", b")", b"(", b"0", b"2", b"t",
                          b"X\1\0\0\0a", b"\x88", b"\x8a\xff" + b"\x7f" * 255))
        return data[:at] + new + data[rng.choice((at, end)) :]
    if end - at > 1:
        return data[: at + 1] + change_number(rng, data[at + 1 : end]) + data[end:]
    return data[:at] + bytes([rng.randrange(256)]) + data[end:]


def edit_npy(rng: random.Random, data: bytes) -> bytes:
    """Change the text of an array's header; its length stays right."""
    size = int.from_bytes(data[8:10], "little")
    text, body = data[10 : 10 + size], data[10 + size :]
    old, new = rng.choice((
        (b"<", b">"), (b"False", b"True"), (b"False", b"None"), (b"f4", b"O"), (b"u1", b"i8"),
        (b"(", b"(-1, "), (b"(", b"(99999999999, "), (b"(", b"((((((((((((((((((((" * 5),
        (b"descr", b"descx"), (b"{", b"{1: 2, "), (b"shape", b"sh\0pe"), (b",)", b"L,)"),
        (b"'", b"\""), (b"1", b"0"), (b"8", b"9" * 20), (b"{", b"[" * 3000), (b"i4", b"S99999999"),
    ))
    text = text.replace(old, new, 1)
    out = data[:8] + (len(text) % 65536).to_bytes(2, "little") + text
    return out + (body if rng.random() < 0.8 else change(rng, body, []))


def edit_safetensors(rng: random.Random, data: bytes) -> bytes:
    """Change the JSON header's values; its length stays right."""
    size = int.from_bytes(data[:8], "little")
    text = edit_json(rng, data[8 : 8 + size])
    return len(text).to_bytes(8, "little") + text + data[8 + size :]


def edit_tfrecord(rng: random.Random, data: bytes) -> bytes:
    """Change a record's bytes, or double, move or remove it; checksums stay right."""
    records, at = [], 0
    while at < len(data):
        (size,) = struct.unpack_from("<Q", data, at)
        records.append(data[at + 12 : at + 12 + size])
        at += 16 + size
    k, way = rng.randrange(len(records)), rng.randrange(8)
    if way == 0:
        del records[k]
    elif way == 1:
        records.insert(k, rng.choice(records))
    elif way == 2:
        head = struct.pack("<Q", rng.choice(EXTREMES))
        return b"".join(map(framed, records)) + head + masked(head) + b"x" * 50
    else:  # where protobuf's tags and lengths are
        cut = rng.choice((60, 300, len(records[k])))
        records[k] = change(rng, records[k][:cut], []) + records[k][cut:]
    return b"".join(map(framed, records))


def masked(data: bytes) -> bytes:
    checksum = google_crc32c.value(data)
    return struct.pack("<I", ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def framed(record: bytes) -> bytes:
    head = struct.pack("<Q", len(record))
    return head + masked(head) + record + masked(record)


RECORDIO_MAGIC = struct.pack("<I", 0xCED7230A)


def edit_recordio(rng: random.Random, data: bytes) -> bytes:
    """Change a field behind a magic number: the length with its flag, or the image's header."""
    places = []
    at = data.find(RECORDIO_MAGIC)
    while at >= 0:
        places.append(at)
        at = data.find(RECORDIO_MAGIC, at + 4)
    at = rng.choice(places) + rng.choice((4, 4, 8, 12, 16, 24))
    (value,) = struct.unpack_from("<I", data, at)
    new = rng.choice((value ^ rng.randrange(8) << 29, value + rng.randint(-5, 5), 0xFFFFFFFF, 1, 0,
                      1000, 0x7FC00000))
    out = data[:at] + struct.pack("<I", new % (1 << 32)) + data[at + 4 :]
    if rng.random() < 0.2:
        place = rng.choice(places)
        return out[:place] + RECORDIO_MAGIC * rng.choice((1, 3)) + out[place:]
    return out


def fields(*layout: tuple[int, int, str]) -> Edit:
    """Return an edit of numbers at known places: (offset from the start, or from the end if
    negative; number of bytes; "little" or "big")."""
    def edited(rng: random.Random, data: bytes) -> bytes:
        at, width, order = rng.choice(layout)
        at += len(data) if at < 0 else 0
        value = int.from_bytes(data[at : at + width], order)  # type: ignore[arg-type]
        new = rng.choice((value + rng.choice((-1, 1, 24, 512)), rng.choice(EXTREMES)))
        whole = (new % (1 << 8 * width)).to_bytes(width, order)  # type: ignore[arg-type]
        return data[:at] + whole + data[at + width :]

    return edited
