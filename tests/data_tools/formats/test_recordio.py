"""RecordIO: the bytes of the format, images broken at the magic, files of others, DALI's reader."""

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_tools.errors import UserError
from data_tools.formats import recordio
from data_tools.formats.recordio import is_recordio, join, scan
from data_tools.images.prepare_image import Prepared
from data_tools.images.sniff import ppm_header
from data_tools.store import JPEG, OTHER, RAW, SPLIT
from tests.support.made_files.record_samples import (
    LABELS,
    check_reads_back,
    check_refusal,
    check_survives,
    mutations,
    samples,
    write,
)
from tests.support.made_files.sample_images import jpeg

MAGIC = struct.pack("<I", 0xCED7230A)
HEAD = bytes(24)


def word(flag: int, length: int) -> bytes:
    return struct.pack("<I", flag << 29 | length)


def payload_of(content: bytes) -> list[bytes]:
    """The payloads in a file, as dmlc-core's RecordIOReader::NextRecord joins them."""
    payloads, at, joined = [], 0, b""
    while at < len(content):
        magic, lrec = struct.unpack_from("<II", content, at)
        assert magic == 0xCED7230A
        flag, length = lrec >> 29, lrec & (1 << 29) - 1
        joined += content[at + 8 : at + 8 + length]
        at += 8 + (length + 3) // 4 * 4
        if flag in (0, 3):
            payloads.append(joined)
            joined = b""
        else:
            joined += MAGIC
    return payloads


def opaque(data: bytes) -> Prepared:
    return Prepared(data, 1, 1, False, "")


def test_the_bytes_are_those_of_the_format(tmp_path: Path) -> None:
    path = tmp_path / "x.rec"
    rows = write(recordio, path, [opaque(b"abc"), opaque(b"defg")], (2, -1), range(70000, 70002))
    assert path.read_bytes() == (
        MAGIC + word(0, 27) + struct.pack("<IfQQ", 0, 2.0, 70000, 0) + b"abc\0"
        + MAGIC + word(0, 28) + struct.pack("<IfQQ", 0, -1.0, 70001, 0) + b"defg"
    )
    assert rows["offset"].tolist() == [32, 68] and rows["kind"].tolist() == [JPEG, JPEG]
    assert recordio.dali_index(rows, 0, 0) == "0\t0\n1\t36\n"
    assert recordio.dali_index(rows, 2, 72) == "2\t72\n3\t108\n"


@pytest.mark.parametrize(
    ("data", "parts"),
    [
        (MAGIC + b"abcdef", [HEAD, b"abcdef"]),
        (b"abcd" + MAGIC, [HEAD + b"abcd", b""]),
        (MAGIC, [HEAD, b""]),
        (MAGIC + MAGIC, [HEAD, b"", b""]),
        (b"abcd" + MAGIC + MAGIC + b"x" + MAGIC, [HEAD + b"abcd", b"", b"x" + MAGIC]),
        (MAGIC + b"abcd" + MAGIC + b"xyz", [HEAD, b"abcd", b"xyz"]),
        (b"x" + MAGIC + b"abc", [HEAD + b"x" + MAGIC + b"abc"]),
        (MAGIC[1:] + MAGIC, [HEAD + MAGIC[1:] + MAGIC]),
        (MAGIC[:3], [HEAD + MAGIC[:3]]),
    ],
)
def test_an_image_is_broken_at_the_magic(
    tmp_path: Path, data: bytes, parts: list[bytes]
) -> None:
    path = tmp_path / "x.rec"
    images = [opaque(b"before"), opaque(data), opaque(b"b")]
    rows = write(recordio, path, images, (0, 0, 0), (0, 0, 0))
    expected = b""
    for k, part in enumerate(parts):
        flag = 0 if len(parts) == 1 else 1 if k == 0 else 3 if k == len(parts) - 1 else 2
        expected += MAGIC + word(flag, len(part)) + part + bytes(-len(part) % 4)
    content = path.read_bytes()
    assert content[40:-36] == expected
    assert payload_of(content) == [HEAD + b"before", HEAD + data, HEAD + b"b"]
    assert (rows["kind"] & SPLIT != 0).tolist() == [False, len(parts) > 1, False]
    check_reads_back(path, rows, images)
    found, _ = scan(path)
    assert found["offset"].tolist() == rows["offset"].tolist()
    assert (found["kind"] & SPLIT == rows["kind"] & SPLIT).all()
    assert recordio.dali_index(rows, 0, 0) == f"0\t0\n1\t40\n2\t{len(content) - 36}\n"


def test_a_raw_image_may_share_the_magic_with_its_header(tmp_path: Path) -> None:
    # The header's last byte is the magic's first: b"\n".
    aligned, straddling = 10, 100
    assert (24 + len(ppm_header(1, aligned))) % 4 == 0
    assert (24 + len(ppm_header(1, straddling)) - 1) % 4 == 0
    images = [
        Prepared(start.ljust(3 * width, b"x"), 1, width, True, "")
        for width, start in (
            (straddling, MAGIC[1:]), (aligned, MAGIC), (straddling, MAGIC[1:] + MAGIC * 2)
        )
    ]
    path = tmp_path / "x.rec"
    rows = write(recordio, path, images, (0, 1, 2), range(3))
    assert rows["kind"].tolist() == [RAW | SPLIT] * 3
    assert [payload[24:] for payload in payload_of(path.read_bytes())] == [
        ppm_header(1, image.width) + image.data for image in images
    ]
    check_reads_back(path, rows, images)
    assert np.array_equal(scan(path)[0], rows)
    starts = [int(line.split()[1]) for line in recordio.dali_index(rows, 0, 0).splitlines()]
    assert all(path.read_bytes()[at + 7] >> 5 == 1 for at in starts)


def test_what_is_written_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "x.rec"
    rows = write(recordio, path)
    check_reads_back(path, rows, samples())
    assert is_recordio(path)
    seen: list[tuple[int, int]] = []
    found, classes = scan(path, lambda done, total: seen.append((done, total)))
    assert np.array_equal(found, rows) and classes == []
    assert seen[-1] == (path.stat().st_size, path.stat().st_size)


def test_what_the_format_cannot_hold(tmp_path: Path) -> None:
    writer = recordio.Writer(tmp_path / "x.rec")
    writer.append(0, samples()[0], 1 << 24)
    with pytest.raises(UserError, match="float32, and 16777217"):
        writer.append(1, samples()[0], (1 << 24) + 1)
    with pytest.raises(UserError, match="holds images below 536870912 bytes"):
        writer.append(1, Prepared(bytes((1 << 29) - 24), 1, 1, False, ""), 0)
    writer.finish()
    assert scan(tmp_path / "x.rec")[0]["label"].tolist() == [1 << 24]


def test_join_gives_what_numpy_would_take_apart() -> None:
    content = np.frombuffer(MAGIC + word(1, 4) + b"abcd" + MAGIC + word(3, 3) + b"efg\0", np.uint8)
    joined = join(content, 8, 11)
    assert joined.tobytes() == b"abcd" + MAGIC + b"efg"
    assert joined.dtype == np.uint8 and not joined.flags.writeable
    assert join(content, 10, 9).tobytes() == b"cd" + MAGIC + b"efg"


# About one word in two is the magic.
magical = st.lists(
    st.one_of(st.just(MAGIC), st.binary(max_size=8), st.just(MAGIC[:3])), min_size=1, max_size=12
).map(b"".join)


@settings(max_examples=200, database=None, deadline=None)
@given(st.lists(magical.filter(len), max_size=4), st.booleans())
def test_any_payload_comes_back(
    tmp_path_factory: pytest.TempPathFactory, drawn: list[bytes], raw: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.rec"
    images = [opaque(data) for data in drawn]
    if raw:
        images = [Prepared(3 * data, 1, len(data), True, "") for data in drawn]
    rows = write(recordio, path, images, tuple(range(len(images))), range(len(images)))
    heads = [ppm_header(1, image.width) if raw else b"" for image in images]
    assert [payload[24:] for payload in payload_of(path.read_bytes())] == [
        head + image.data for head, image in zip(heads, images, strict=True)
    ]
    found, _ = scan(path)
    for name in ("offset", "size", "label"):
        assert found[name].tolist() == rows[name].tolist()
    if images:
        check_reads_back(path, rows, images)
        assert (found["kind"] & SPLIT == rows["kind"] & SPLIT).all()


# Files of others.


def record(payload: bytes) -> bytes:
    return MAGIC + word(0, len(payload)) + payload + bytes(-len(payload) % 4)


def test_labels_in_lists_and_records_without_images(tmp_path: Path) -> None:
    path = tmp_path / "x.rec"
    picture = jpeg(6, 7)
    path.write_bytes(b"".join((
        record(struct.pack("<IfQQ2f", 2, 0, 0, 0, 100, 200)),  # as InsightFace's begin
        record(struct.pack("<IfQQf", 1, 0, 1, 0, 5) + picture),
        record(struct.pack("<IfQQ2f", 2, 9, 2, 0, 5, 6) + picture),
        record(struct.pack("<IfQQ", 0, 2.5, 3, 0) + picture),
        record(struct.pack("<IfQQ", 0, float("nan"), 3, 0) + picture),
        record(struct.pack("<IfQQ", 0, float("inf"), 3, 0) + picture),
        # Unbroken all the same: read by its length.
        record(struct.pack("<IfQQ", 0, 8, 3, 0) + MAGIC + picture),
    )))  # fmt: skip
    rows, _ = scan(path)
    assert rows["label"].tolist() == [5, -1, -1, -1, -1, 8]
    assert rows["kind"].tolist() == [JPEG] * 5 + [OTHER]
    images = [opaque(picture)] * 5 + [opaque(MAGIC + picture)]
    check_reads_back(path, rows, images)


def test_a_break_in_front_of_the_image(tmp_path: Path) -> None:
    """The id may equal the magic."""
    path = tmp_path / "x.rec"
    rows = write(recordio, path, [opaque(b"abcde")], (1,), range(0xCED7230A, 0xCED7230B))
    assert rows["kind"].tolist() == [JPEG]
    assert path.read_bytes()[rows["offset"][0] :].startswith(b"abcde")
    assert scan(path)[0]["offset"].tolist() == rows["offset"].tolist()


def test_refusals(tmp_path: Path) -> None:
    path = tmp_path / "x.rec"
    rows = write(recordio, path)
    whole = path.read_bytes()
    second = int(recordio.dali_index(rows, 0, 0).split()[3])
    for end in (second + 3, second + 8, second + 60):
        check_refusal(scan, path, whole[:end], f"truncated in record 1 at byte {second}")
    check_refusal(scan, path, whole[:-1], "truncated in record 4")
    bad = whole[:second] + b"\0" + whole[second + 1 :]
    check_refusal(scan, path, bad, f"damaged at byte {second}: no magic number where record 1")
    check_refusal(scan, path, record(b"short"), "record 0 is too short")
    listed = struct.pack("<IfQQ", 0xFFFFFFFF, 0, 0, 0)
    check_refusal(scan, path, record(listed), "record 0 claims 4294967295 labels")
    broken = MAGIC + word(1, 24) + HEAD + MAGIC + word(3, 3) + b"abc\0"
    for flag in (2, 3, 4, 7):
        check_refusal(scan, path, MAGIC + word(flag, 24) + HEAD, "a part is missing in record 0")
    for flag in (0, 1, 5):
        wrong = MAGIC + word(1, 24) + HEAD + MAGIC + word(flag, 3) + b"abc\0"
        check_refusal(scan, path, wrong, "a part is missing in record 0")
    check_refusal(scan, path, broken[:32], "truncated in record 0")
    elsewhere = MAGIC + word(1, 26) + HEAD + b"xy\0\0" + MAGIC + word(3, 3) + b"abc\0"
    check_refusal(scan, path, elsewhere, "broken at other places")
    huge = MAGIC + word(0, (1 << 29) - 1) + bytes(1000)
    check_refusal(scan, path, huge, "truncated in record 0")
    path.write_bytes(broken)
    assert scan(path)[0]["kind"].tolist() == [OTHER | SPLIT]
    assert is_recordio(path) and not is_recordio(Path(__file__))
    path.write_bytes(MAGIC)
    assert not is_recordio(path)


def test_endless_parts_are_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recordio, "LARGEST", 1000)
    parts = MAGIC + word(1, 24) + HEAD + (MAGIC + word(2, 0)) * 1000
    check_refusal(scan, tmp_path / "x.rec", parts, "record 0 is of more than 1000 bytes")


@settings(max_examples=250, database=None, deadline=None)
@given(st.data())
def test_mutated_files(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.getbasetemp() / "mutated.rec"
    images = [*samples()[:2], opaque(b"abcd" + MAGIC * 2 + b"x" * 41 + MAGIC)]
    write(recordio, path, images, LABELS[:3], range(3))
    check_survives(scan, path, data.draw(mutations(path.read_bytes())))


# Readers of others.
