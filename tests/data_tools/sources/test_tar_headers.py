"""Headers of hostile and odd tars: names, numbers, links, checksums."""

from pathlib import Path

import numpy as np
import pytest

from data_tools.errors import UserError
from data_tools.formats.tar import Walk
from data_tools.formats.tar_header import byte_sum, is_header, number
from data_tools.formats.tar_listing import read_listing
from data_tools.formats.webdataset import tar_header
from data_tools.sources.registry import open_source
from tests.support.bounds import bounded


def extension(kind: bytes, body: bytes) -> bytes:
    block = bytearray(tar_header("x", len(body)))
    block[156:157] = kind
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + body + bytes(-len(body) % 512)


def record(key: bytes, value: bytes) -> bytes:
    size = len(key) + len(value) + 3
    while len(b"%d" % size) + len(key) + len(value) + 3 != size:
        size = len(b"%d" % size) + len(key) + len(value) + 3
    return b"%d %s=%s\n" % (size, key, value)


def walk_of(data: bytes) -> Walk:
    return Walk(lambda size, at: data[at : at + size], 0, len(data), "x.tar")


def test_names_end_at_a_nul_and_keep_odd_bytes() -> None:
    names = [b"a/\0b.jpg", b"c/\xed\xa0\x80.jpg", b"d/\xff.jpg"]
    data = b"".join(extension(b"x", record(b"path", name)) + tar_header("y", 0) for name in names)
    found = [member.name for member in walk_of(data + bytes(1024))]
    assert found == ["a/", "c/\udced\udca0\udc80.jpg", "d/\udcff.jpg"]


def test_millions_of_attributes_take_no_memory() -> None:
    data = b"".join(
        extension(b"x", b"".join(record(b"%d" % (i + part), b"") for i in range(90_000)))
        for part in range(0, 900_000, 90_000))
    data += extension(b"x", record(b"path", b"a/1.jpg")) + tar_header("x", 0) + bytes(1024)
    with bounded(8, 30):
        assert [member.name for member in walk_of(data)] == ["a/1.jpg"]


def test_long_chains_of_links_end() -> None:
    out = []
    for i in range(20_000):
        block = bytearray(tar_header(f"{i}.jpg", 0))
        block[156:157] = b"2"
        target = b"%d.jpg" % (i + 1)
        block[157 : 157 + len(target)] = target
        block[148:156] = b" " * 8
        block[148:156] = b"%06o\0 " % sum(block)
        out.append(bytes(block))
    with bounded(4, 60):
        listing = read_listing(walk_of(b"".join(out) + tar_header("20000.jpg", 0) + bytes(1024)))
    assert listing.find("19990.jpg")[0] > 0 and listing.find("0.jpg") == (-1, 0)


def test_fifty_thousand_empty_members_take_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    with open(path, "wb") as file:
        for i in range(50_000):
            file.write(tar_header(f"a/{i:07d}.jpg", 0))
        file.write(bytes(1024))
    with bounded(8, 80):
        assert len(open_source(path).keys) == 50_000


@pytest.mark.parametrize("field, value", [
    (b"00000000017\0", 15), (b"      17 \0\0\0", 15), (b"17\0garbage\0\0", 15),
    (b"\x80" + bytes(10) + b"\x11", 17), (b"\x80\0\0\0" + (1 << 63).to_bytes(8, "big"), 1 << 63),
    (b"\xff" * 11 + b"\xfe", -2), (bytes(12), 0),
])  # fmt: skip
def test_numbers_of_headers(field: bytes, value: int) -> None:
    assert number(field) == value


def test_negative_and_huge_sizes_are_refused() -> None:
    for field in (b"\xff" * 12, b"\x80" + b"\xff" * 11, b"-0000000001\0"):
        block = bytearray(tar_header("a/1.jpg", 0))
        block[124:136] = field
        block[148:156] = b" " * 8
        block[148:156] = b"%06o\0 " % sum(block)
        with pytest.raises(UserError, match="no number|truncated"):
            list(walk_of(bytes(block) + bytes(2048)))


def test_checksums_of_old_writers() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        block = rng.integers(0, 256, 512, np.uint8).tobytes()
        assert byte_sum(block) == sum(block)
    assert byte_sum(b"\xff" * 512) == 255 * 512
    block = bytearray(tar_header("x", 0))
    block[:3] = "ü.".encode()
    plain = block[:148] + b" " * 8 + block[156:]
    for total in (sum(plain), sum(np.frombuffer(plain, np.int8).tolist())):
        block[148:156] = b"%06o\0 " % total
        assert is_header(bytes(block))
    block[148:156] = b"%06o\0 " % (sum(plain) - 1)
    assert not is_header(bytes(block))


def test_volumes_and_sparse_files_are_refused() -> None:
    for kind, match in ((b"M", "one volume of a set"), (b"S", "stored sparse")):
        with pytest.raises(UserError, match=match):
            list(walk_of(extension(kind, b"abc") + bytes(1024)))
