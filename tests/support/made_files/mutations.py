"""Makes damaged forms of a JSON text: values replaced by wrong ones, and bytes changed."""

import copy
import json
import random

EACH = 6
DEEP = "[" * 100_000
WRONG = [
    None, True, -1, 0, 1.5, 2**31, 2**63, 10**400, float("nan"), float("inf"), 1e300, "", "x",
    "\ud800", "a\0b", "../../../etc/passwd", "/etc/passwd", [], {}, [[]], ["x"], {"x": 1}, [-1] * 3,
]


def values(content):
    """Yield (damaged JSON, description) for each place in `content`.

    Each place gets EACH of the wrong values; the next place gets other ones."""
    for number, place in enumerate(places(content)):
        for turn in range(EACH):
            wrong = WRONG[(number * EACH + turn) % len(WRONG)]
            damaged = copy.deepcopy(content)
            if place:
                inside(damaged, place[:-1])[place[-1]] = wrong
            else:
                damaged = wrong
            yield json.dumps(damaged), f"{place}: {wrong!r:.60}"
        if place:
            damaged = copy.deepcopy(content)
            del inside(damaged, place[:-1])[place[-1]]
            yield json.dumps(damaged), f"{place}: gone"
            damaged = copy.deepcopy(content)
            inside(damaged, place[:-1])[place[-1]] = "DEEP"
            yield json.dumps(damaged).replace('"DEEP"', DEEP), f"{place}: deep"


def places(content, at=()):
    """The path of every value; of lists only the first two items."""
    yield at
    if isinstance(content, dict):
        for key in content:
            yield from places(content[key], (*at, key))
    elif isinstance(content, list):
        for i in range(min(2, len(content))):
            yield from places(content[i], (*at, i))


def inside(content, place):
    for step in place:
        content = content[step]
    return content


def texts(data, seed=0, count=40):
    """Yield (damaged bytes, description): cut, flipped, joined, in other encodings."""
    rng = random.Random(seed)
    fixed = {
        "empty": b"", "a NUL": b"\0" * 10, "deep": DEEP.encode(), "deep object": b'{"a":' * 100_000,
        "a BOM": b"\xef\xbb\xbf" + data, "not UTF-8": b'{"a": "\xff\xfe"}' + data[:1],
        "UTF-16": data.decode("utf-8", "replace").encode("utf-16"), "a number": b"9" * 5000,
        "a list": b"[1, 2]\n", "a word": b"null\n",
        "a key twice": b'{"kind": 1, ' + data.lstrip()[1:],
        "half": data[: len(data) // 2], "twice": data * 2,
    }
    for name, damaged in fixed.items():
        yield damaged, name
    for _ in range(count if data else 0):
        damaged, at = bytearray(data), rng.randrange(len(data))
        how = rng.choice(("flip", "cut", "drop", "insert"))
        if how == "flip":
            damaged[at] ^= 1 << rng.randrange(8)
        elif how == "cut":
            del damaged[at:]
        elif how == "drop":
            del damaged[at : at + rng.randrange(1, 20)]
        else:
            damaged[at:at] = rng.randbytes(rng.randrange(1, 8))
        yield bytes(damaged), f"{how} at {at}"
