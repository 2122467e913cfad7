"""Changes of bytes, of text and of JSON values that know nothing of the format around them."""

from __future__ import annotations

import json
import random
from typing import Any, Literal

# Bytes that a change may add: one on top of another must not grow a file, or this process, without
# end.
GROWTH = 4 << 20
EXTREMES = (0, 1, 2, 7, 255, 256, 2**15, 2**16 - 1, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**32,
            2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 2, 2**64 - 1)
WORDS = (b"\0", b"\xff" * 8, b"\n", b'"', b"{", b"[" * 50, b"%s", b"../", b"/", b"\\", b"NaN",
         b"1e999", b"-1", b"\xed\xa0\x80", b"\xc3\x28", b"\xef\xbb\xbf", b"9" * 30, b"\r\n\r\n")
# Values of a wrong type or out of range, for any place in a JSON document.
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 1.5, -0.0, 1e308, 10**18, -(10**18), 2**64, 10**400, "", "x",
    "0", "NaN", "\0", "a\0b", "\ud800", "../../etc/passwd", "/dev/zero", "a\nb", "é" * 300, [],
    {}, [[]], [None], {"": None}, [1, "a"], {"a": {"b": []}}, [0] * 500, float("nan"),
    float("inf"), float("-inf"),
)


def copies(wanted: int, size: int) -> int:
    """Return how many copies of `size` bytes a change may make, so that files stay small."""
    return max(1, min(wanted, GROWTH // max(1, size)))


def flip(rng: random.Random, data: bytes) -> bytes:
    """Flip one bit."""
    out = bytearray(data or b"\0")
    out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


def place(rng: random.Random, size: int) -> int:
    """Draw a position in `size` bytes; often near an end, where formats keep their numbers."""
    where = rng.random()
    if where < 0.35:
        return min(size, rng.randrange(0, 64))
    if where < 0.5:
        return min(size, rng.randrange(0, 1024))
    if where < 0.65:
        return max(0, size - rng.randrange(1, 256))
    return rng.randrange(size + 1)


def change(rng: random.Random, data: bytes, others: list[bytes]) -> bytes:
    """Make one random change. A piece may come from the files in `others`."""
    ways = (flip, change_bytes, change_bytes, change_number, change_number, cut, insert, remove,
            duplicate, swap, fill)
    way = rng.choice(ways)
    if rng.random() < 0.03 and others:
        return splice(rng, data, rng.choice(others))
    return way(rng, data)


def change_bytes(rng: random.Random, data: bytes) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        at = place(rng, len(out) - 1) if len(out) > 1 else 0
        out[at : at + 1] = bytes([rng.randrange(256)])
    return bytes(out)


def change_number(rng: random.Random, data: bytes) -> bytes:
    """Replace an integer of 1 to 8 bytes by an extreme one, or by one near the old one."""
    width = rng.choice((1, 2, 4, 8))
    order: Literal["little", "big"] = "little" if rng.random() < 0.5 else "big"
    at = place(rng, max(0, len(data) - width))
    if rng.random() < 0.5:
        at -= at % width
    value = rng.choice(EXTREMES)
    if rng.random() < 0.4:
        value = int.from_bytes(data[at : at + width], order) + rng.randint(-4, 4)
    return data[:at] + (value % (1 << 8 * width)).to_bytes(width, order) + data[at + width :]


def cut(rng: random.Random, data: bytes) -> bytes:
    return data[: place(rng, len(data))]


def insert(rng: random.Random, data: bytes) -> bytes:
    at = place(rng, len(data))
    new = rng.choice(WORDS) if rng.random() < 0.5 else rng.randbytes(rng.choice((1, 3, 16, 300)))
    return data[:at] + new + data[at:]


def remove(rng: random.Random, data: bytes) -> bytes:
    at = place(rng, len(data))
    return data[:at] + data[at + rng.choice((1, 2, 8, 64, 512, 5000)) :]


def duplicate(rng: random.Random, data: bytes) -> bytes:
    at, size = place(rng, len(data)), rng.choice((1, 4, 16, 64, 512, 4096, len(data)))
    piece = data[at : at + size]
    piece *= copies(rng.choice((1, 1, 2, 50)), len(piece))
    return data[:at] + piece + data[at:]


def swap(rng: random.Random, data: bytes) -> bytes:
    """Swap two blocks of the same size."""
    size = rng.choice((1, 4, 16, 512))
    if len(data) < 2 * size:
        return data[::-1]
    a, b = sorted((rng.randrange(len(data) - size + 1), rng.randrange(len(data) - size + 1)))
    b = max(b, min(a + size, len(data) - size))
    if b < a + size:
        return data
    return (data[:a] + data[b : b + size] + data[a + size : b] + data[a : a + size]
            + data[b + size :])


def fill(rng: random.Random, data: bytes) -> bytes:
    at, size = place(rng, len(data)), rng.choice((1, 8, 64, 1024))
    size = min(size, len(data) - at)
    return data[:at] + rng.choice((b"\0", b"\xff", b" ", b"7")) * size + data[at + size :]


def splice(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """Join the start of one file and the end of another."""
    return data[: place(rng, len(data))] + other[place(rng, len(other)) :]


def json_value(rng: random.Random) -> Any:
    """Draw a value that a reader does not expect."""
    if rng.random() < 0.02:
        deep: Any = []
        for _ in range(900):  # what json itself can still write
            deep = [deep]
        return deep
    return rng.choice(VALUES)


def edit_json(rng: random.Random, data: bytes) -> bytes:
    """Replace, remove, rename or double one value of a JSON document."""
    value = json.loads(data)
    return dumped(rng, changed(rng, value))


def edit_json_line(rng: random.Random, data: bytes) -> bytes:
    """Edit one line of a file of JSON documents as edit_json() does, or double or remove a line."""
    lines = data.split(b"\n")
    at = rng.randrange(max(1, len(lines) - 1))
    way = rng.random()
    if way < 0.1:
        del lines[at]
    elif way < 0.2:
        lines.insert(at, rng.choice(lines))
    else:
        lines[at] = edit_json(rng, lines[at]).replace(b"\n", b" ")
    return b"\n".join(lines)


def dumped(rng: random.Random, value: Any) -> bytes:
    # Without indentation: json writes that in Python, and deep values then take it seconds.
    text = json.dumps(value, ensure_ascii=rng.random() < 0.8)
    if rng.random() < 0.05:  # numbers and depths that json reads and does not write
        old, new = rng.choice((("0", "1e999"), ("1", "-1e999"), ("null", "[" * 100_000),
                               ("true", "1" * 5000), ('"', '{"a":' * 3000)))
        text = text.replace(old, new, 1)
    return text.encode("utf-8", "surrogatepass")


def changed(rng: random.Random, value: Any) -> Any:
    """Return the value with one change somewhere in it."""
    inside = isinstance(value, dict | list) and value and rng.random() < 0.9
    if not inside:
        return json_value(rng)
    if isinstance(value, list):
        at = rng.randrange(len(value))
        way = rng.random()
        if way < 0.1:
            return value[:at] + value[at + 1 :]
        if way < 0.2:
            count = copies(rng.choice((2, 2, 1000)), len(repr(value[at])))
            return value[:at] + [value[at]] * count + value[at:]
        return value[:at] + [changed(rng, value[at])] + value[at + 1 :]
    key = rng.choice(list(value))
    way = rng.random()
    if way < 0.12:
        return {k: v for k, v in value.items() if k != key}
    if way < 0.18:
        return {rng.choice(("x", "", "\0", key + " ")) if k == key else k: v
                for k, v in value.items()}
    if way < 0.22:
        return {**value, "unknown": json_value(rng)}
    return {k: changed(rng, v) if k == key else v for k, v in value.items()}


def edit_lines(rng: random.Random, data: bytes) -> bytes:
    """Double, remove, move or fill one line of a text."""
    lines = data.split(b"\n")
    at = rng.randrange(len(lines))
    way = rng.randrange(6)
    if way == 0:
        del lines[at]
    elif way == 1:
        lines.insert(at, rng.choice(lines))
    elif way == 2:
        rng.shuffle(lines)
    elif way == 3:
        line = lines[at]
        k = rng.randrange(len(line) + 1)
        lines[at] = line[:k] + rng.choice(WORDS) + line[k:]
    elif way == 4:
        lines[at] = rng.choice(WORDS) * rng.choice((1, 1, 30_000))
    else:
        lines[at : at + 1] = [lines[at]] * copies(rng.choice((3, 2000)), len(lines[at]) + 1)
    return rng.choice((b"\n", b"\n", b"\n", b"\r\n", b"\r", b"\n\n")).join(lines)


def edit_table(rng: random.Random, data: bytes) -> bytes:
    """Replace one cell of a table of separated values."""
    lines = data.split(b"\n")
    at = rng.randrange(max(1, len(lines) - 1))
    mark = b"\t" if b"\t" in data else b","
    cells = lines[at].split(mark)
    k = rng.randrange(len(cells))
    cells[k] = rng.choice((b"", b'"', b'"a', b'a"b', b"nan", b"NA", b"null", b"1.0", b"1e999",
                           b"-5", b"2.5", b"x" * 200_000, b"\0", b"../x", b"a\\b", b"\xff",
                           b"http://127.0.0.1:9/x", b"file:///etc", b"/", b".", b"9" * 40))
    if rng.random() < 0.2:
        cells.insert(k, rng.choice(cells))
    lines[at] = mark.join(cells)
    return b"\n".join(lines)
