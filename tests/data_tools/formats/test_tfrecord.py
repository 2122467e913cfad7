"""TFRecord: the bytes of the format, files of others, and the readers of others."""

import gzip
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data_tools.errors import UserError
from data_tools.formats import tfrecord
from data_tools.formats.tf_example import feature, field, integer, text
from data_tools.formats.tfrecord import is_tfrecord, masked, scan
from data_tools.images.prepare_image import Prepared
from data_tools.open import open_store
from data_tools.store import JPEG, OTHER
from tests.support.made_files.record_samples import (
    LABELS,
    check_reads_back,
    check_refusal,
    check_survives,
    mutations,
    samples,
    write,
)
from tests.support.made_files.sample_images import encode, jpeg
from tests.support.made_files.tfrecord_files import crc32c, example, framed, integers


def test_the_bytes_are_those_of_the_format(tmp_path: Path) -> None:
    path = tmp_path / "x.tfrecord"
    rows = write(tfrecord, path, [Prepared(b"abc", 5, 300, False, "")], (-1,), range(1))
    label = b"\x0a\x0a" + b"\xff" * 9 + b"\x01"
    parts = [
        (b"image/class/label", b"\x1a\x0c" + label),
        (b"image/format", b"\x0a\x06\x0a\x04jpeg"),
        (b"image/height", b"\x1a\x03\x0a\x01\x05"),
        (b"image/width", b"\x1a\x04\x0a\x02\xac\x02"),
        (b"image/encoded", b"\x0a\x05\x0a\x03abc"),
    ]
    features = b""
    for name, value in parts:
        entry = b"\x0a" + bytes([len(name)]) + name + b"\x12" + bytes([len(value)]) + value
        features += b"\x0a" + bytes([len(entry)]) + entry
    assert 128 <= len(features) < 1 << 14
    record = b"\x0a" + bytes([len(features) & 0x7F | 0x80, len(features) >> 7]) + features
    length = struct.pack("<Q", len(record))
    assert path.read_bytes() == (
        length + masked(crc32c(length)) + record + masked(crc32c(record))
    )
    assert rows["offset"][0] == path.read_bytes().index(b"abc") and rows["kind"][0] == JPEG
    assert tfrecord.dali_index(rows) == f"0 {path.stat().st_size}\n"


def test_the_checksum_is_the_published_one() -> None:
    assert crc32c(b"123456789") == 0xE3069283  # the check value of every catalogue of CRCs
    rotated = (0xE3069283 >> 15 | 0xE3069283 << 17) & 0xFFFFFFFF
    assert masked(0xE3069283) == struct.pack("<I", (rotated + 0xA282EAD8) % 2**32)


def test_what_is_written_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "x.tfrecord"
    rows = write(tfrecord, path)
    check_reads_back(path, rows, samples())
    assert is_tfrecord(path)
    seen: list[tuple[int, int]] = []
    found, classes = scan(path, lambda done, total: seen.append((done, total)))
    assert np.array_equal(found, rows) and classes == []
    assert seen[-1] == (path.stat().st_size, path.stat().st_size)
    content = path.read_bytes()
    lines = [tuple(map(int, line.split())) for line in tfrecord.dali_index(rows).splitlines()]
    for start, size in lines:
        length = struct.unpack_from("<Q", content, start)[0]
        assert size == length + 16
    assert sum(size for _, size in lines) == len(content)


def test_a_file_that_was_closed_early_is_no_whole_one(tmp_path: Path) -> None:
    path = tmp_path / "x.tfrecord"
    writer = tfrecord.Writer(path)
    writer.append(0, samples()[0], 1)
    writer.close()
    writer.close()
    with pytest.raises(ValueError):
        writer.append(1, samples()[1], 1)


@settings(max_examples=50, database=None, deadline=None)
@given(st.lists(st.tuples(st.binary(min_size=1, max_size=400), st.integers(-1, 2**62)), max_size=5))
def test_any_payload_comes_back(
    tmp_path_factory: pytest.TempPathFactory, drawn: list[tuple[bytes, int]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.tfrecord"
    images = [Prepared(data, 1, 1, False, "") for data, _ in drawn]
    labels = tuple(label for _, label in drawn)
    rows = write(tfrecord, path, images, labels, range(len(images)))
    found, _ = scan(path)
    for name in ("size", "label"):
        assert found[name].tolist() == rows[name].tolist()
    if images:
        check_reads_back(path, rows, images)


# Files of others.


def test_features_of_other_names(tmp_path: Path) -> None:
    path = tmp_path / "x.tfrecord"
    png = encode(Image.new("RGB", (9, 4)), "PNG")
    picture = jpeg(10, 20)
    path.write_bytes(b"".join((
        framed(example(name=text(b"a name"), image_raw=text(picture), zz=text(picture),
                       class_id=integers(4), label_list=integers(1, 2))),
        framed(example(image_raw=text(png), class_id=integer(70000), other=integer(9))),
        framed(example(image_raw=text(b"\xff\xd8\xff broken"), class_id=integers(1, 2))),
        framed(example(image_raw=text(picture), class_id=integer(-5))),
    )))  # fmt: skip
    rows, classes = scan(path)
    assert rows["kind"].tolist() == [JPEG, OTHER, OTHER, JPEG] and classes == []
    assert rows["height"].tolist() == [10, 4, 0, 10] and rows["width"].tolist() == [20, 9, 0, 20]
    assert rows["label"].tolist() == [4, 70000, -1, -1]
    content = path.read_bytes()
    spans = zip(rows["offset"].tolist(), rows["size"].tolist(), strict=True)
    assert [content[at : at + size] for at, size in spans][:2] == [picture, png]


def test_the_usual_names_come_first(tmp_path: Path) -> None:
    path = tmp_path / "x.tfrecord"
    good, other = jpeg(8, 9), jpeg(5, 5)
    path.write_bytes(framed(example(
        a_class=integer(1), label=integer(2), image__class__label=integer(3),
        a_picture=text(other), image__encoded=text(good),
    )))  # fmt: skip
    rows, _ = scan(path)
    assert (rows["height"][0], rows["label"][0]) == (8, 3)
    path.write_bytes(framed(example(a_class=integer(1), label=integer(2), x=text(good))))
    assert scan(path)[0]["label"].tolist() == [2]
    path.write_bytes(framed(example(x=text(good), size=integer(2))))
    assert scan(path)[0]["label"].tolist() == [-1]


def test_fields_of_a_later_version_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "x.tfrecord"
    unknown = b"\x7d" + b"\xff" * 4 + b"\x79" + b"\xff" * 8 + b"\x78\x85\x01" + b"\x7a\x02ab"
    entry = feature(b"label", integer(5)) + unknown
    picture = feature(b"image/encoded", unknown + text(jpeg(4, 4)))
    path.write_bytes(framed(unknown + field(1, unknown + entry + picture) + unknown))
    assert scan(path)[0]["label"].tolist() == [5]


def test_refusals(tmp_path: Path) -> None:
    path = tmp_path / "x.tfrecord"
    write(tfrecord, path)
    whole = path.read_bytes()
    rows = scan(path)[0]
    first = int(rows["offset"][0] + rows["size"][0]) + 4
    for end in (first + 3, first + 12, first + 50, len(whole) - 1):
        where = f"truncated in record {1 if end < len(whole) - 1 else 4} at byte"
        check_refusal(scan, path, whole[:end], where)
    at = int(rows["offset"][2]) + 50
    damaged = whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :]
    check_refusal(scan, path, damaged, r"damaged at byte \d+: the checksum of record 2 doesn't")
    path.write_bytes(damaged)
    assert len(scan(path, check=False)[0]) == 5
    check_refusal(scan, path, whole[:first] + b"\1" + whole[first + 1 :], "record 1's length")
    check_refusal(scan, path, framed(b"no example"), "record 0 at byte 0 is no tf.train.Example")
    check_refusal(scan, path, framed(example(a=text(b"x" * 20), b=integer(1))), "features: a, b")
    check_refusal(scan, path, framed(b""), "features: none")
    for wrap in (gzip.compress, zlib.compress):
        check_refusal(scan, path, wrap(whole), "compressed TFRecord")
        assert is_tfrecord(path)
    assert not is_tfrecord(Path(__file__))
    path.write_bytes(b"")
    assert not is_tfrecord(path) and len(scan(path)[0]) == 0


def test_a_wild_length_reads_nothing(tmp_path: Path) -> None:
    for length in (1 << 60, (1 << 64) - 1, 1 << 32):
        head = struct.pack("<Q", length)
        data = head + masked(crc32c(head)) + bytes(1000)
        check_refusal(scan, tmp_path / "x", data, "truncated in record 0 at byte 0")
    sparse = tmp_path / "sparse"
    head = struct.pack("<Q", 3 << 30)
    with open(sparse, "wb") as file:
        file.write(head + masked(crc32c(head)))
        file.truncate(4 << 30)
    with pytest.raises(UserError, match="record 0 claims 3221225472 bytes"):
        scan(sparse)


@settings(max_examples=150, database=None, deadline=None)
@given(st.data())
def test_mutated_files(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.getbasetemp() / "mutated.tfrecord"
    write(tfrecord, path)
    whole = path.read_bytes()
    check_survives(scan, path, data.draw(mutations(whole)))
    # Behind right checksums.
    record = whole[12 : 12 + struct.unpack_from("<Q", whole)[0]]
    check_survives(scan, path, framed(data.draw(mutations(record[:300]))))


@settings(max_examples=100, database=None, deadline=None)
@given(st.one_of(
    st.binary(max_size=200),
    st.lists(st.sampled_from((b"\x0a", b"\xff" * 12, b"\x08", b"\x12", b"\x01", b"\x1a", b"\x80",
                              b"\x0b", b"\x0d", b"\x09", b"\x00", b"\x04"))).map(b"".join),
))  # fmt: skip
def test_messages_of_any_bytes(tmp_path_factory: pytest.TempPathFactory, record: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "message.tfrecord"
    check_survives(scan, path, framed(record))
    picture = text(jpeg(4, 4))
    check_survives(scan, path, framed(example(image__encoded=picture) + record))
    hidden = field(1, feature(b"image/encoded", picture) + feature(b"label", field(3, record)))
    check_survives(scan, path, framed(hidden))


@pytest.mark.parametrize("broken", [b"\x08\xff\xff\xff", b"\x0f\x01", b"\x0a\x7f\x01"])
def test_a_broken_label_is_refused_in_one_line(tmp_path: Path, broken: bytes) -> None:
    """open_store looks at the first label before it reads the file."""
    path = tmp_path / "x.tfrecord"
    label = feature(b"image/class/label", field(3, broken))
    path.write_bytes(framed(field(1, feature(b"image/encoded", text(jpeg(4, 4))) + label)))
    with pytest.raises(UserError, match=f"^{re.escape(str(path))}: "):
        open_store(path)


# Readers of others.


def test_protobuf_reads_it_and_we_read_protobuf(tmp_path: Path) -> None:
    other = pytest.importorskip("tfrecord")
    path = tmp_path / "x.tfrecord"
    write(tfrecord, path)
    (tmp_path / "x.idx").write_text(tfrecord.dali_index(scan(path)[0]))
    for index in (None, str(tmp_path / "x.idx")):
        shard = (0, 1) if index else None
        records = list(other.reader.example_loader(str(path), index, shard=shard))
        assert len(records) == 5
        for record, image, label in zip(records, samples(), LABELS, strict=True):
            assert record["image/class/label"].tolist() == [label]
            assert record["image/height"].tolist() == [image.height]
            assert record["image/width"].tolist() == [image.width]
            assert bytes(record["image/format"]) == (b"ppm" if image.raw else b"jpeg")
            assert bytes(record["image/encoded"]).endswith(image.data)
    # Its writer, checksums included, read by us.
    theirs = tmp_path / "theirs.tfrecord"
    writer = other.TFRecordWriter(str(theirs))
    for image, label in zip(samples()[::2], (5, 6, 7), strict=True):
        writer.write({"image": (image.data, "byte"), "label": (label, "int"),
                      "x": ([1.0, 2.0], "float")})  # fmt: skip
    writer.close()
    rows, _ = scan(theirs)
    assert rows["label"].tolist() == [5, 6, 7] and (rows["kind"] == JPEG).all()
    check_reads_back(theirs, rows, samples()[::2])
