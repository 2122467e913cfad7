"""A prepared dataset as a source gives the same bytes, pixels, labels and order."""

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_tools.errors import UserError
from data_tools.formats import recordio, tfrecord
from data_tools.formats.beton import BetonWriter
from data_tools.formats.tf_example import field, integer, text
from data_tools.open import digest_of, open_store
from data_tools.policy import Policy
from data_tools.prepare import prepare
from data_tools.sources import stored
from data_tools.sources.location import Location
from data_tools.store import INDEX_DTYPE, MappedStore
from tests.support.made_files.record_samples import LABELS, samples, write
from tests.support.made_files.sample_images import encode, jpeg, smooth
from tests.support.made_files.tfrecord_files import example, framed


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def write_beton(path: Path) -> None:
    writer = BetonWriter(path, 5)
    writer.go_on()
    rows = np.zeros(5, INDEX_DTYPE)
    for row, image, label in zip(rows, samples(), LABELS, strict=True):
        writer.append(image.data)
        row["size"], row["label"], row["kind"] = len(image.data), label, image.raw
        row["height"], row["width"] = image.height, image.width
    writer.finish(lambda: iter([rows]))


WRITERS = {
    "x.beton": write_beton,
    "x.tfrecord": lambda path: write(tfrecord, path),
    "x.rec": lambda path: write(recordio, path),
}


def check(source: stored.StoredSource, times: int = 1) -> None:
    assert source.labels.dtype == np.int64 and source.labels.tolist() == list(LABELS) * times
    assert len(source.keys) == len(set(source.keys)) == len(source.sizes) == 5 * times
    for i, image in enumerate(samples() * times):
        data = source.read(i)
        assert int(source.sizes[i]) == len(image.data)
        if image.raw:
            assert isinstance(data, np.ndarray) and data.dtype == np.uint8 and data.flags.writeable
            assert data.shape == (image.height, image.width, 3) and data.tobytes() == image.data
        else:
            assert data == image.data
    source.close()


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_reads_back(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    WRITERS[name](path)
    place = Location(path)
    assert stored.recognises(place)
    source = stored.open(place)
    check(source)
    assert source.keys[3] == f"{name}/3" and source.name == name
    assert stored.open(place).fingerprint == source.fingerprint
    assert source.kind.lower().startswith({"x.rec": "recordio"}.get(name, name[2:]))


def test_several_files_follow_one_another(tmp_path: Path) -> None:
    paths = [tmp_path / f"train-{i}.tfrecord" for i in range(3)]
    for path in paths:
        write(tfrecord, path)
    source = stored.open([Location(path) for path in paths])
    check(source, 3)
    assert source.keys[5] == "train-1.tfrecord/0" and "3 of them" in source.kind


def test_a_prepared_dataset_keeps_its_keys(tmp_path: Path) -> None:
    for name in ("b/1.jpg", "a/2.jpg", "a/ü.jpg"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).write_bytes(jpeg(seed=ord(name[2])))
    prepare(tmp_path / "photos", tmp_path / "out", policy=Policy())
    place = Location(tmp_path / "out")
    assert stored.recognises(place)
    source = stored.open(place)
    assert source.keys[:] == ["a/2.jpg", "a/ü.jpg", "b/1.jpg"] == list(source.keys)
    assert source.classes == ["a", "b"] and source.labels.tolist() == [0, 0, 1]
    assert [source.read(i) for i in range(3)] == [
        (tmp_path / "photos" / key).read_bytes() for key in source.keys]


def test_png_and_foreign_names_in_a_tfrecord(tmp_path: Path) -> None:
    png = encode(Image.fromarray(smooth(9, 7)), "PNG")
    path = tmp_path / "foreign"
    path.write_bytes(framed(example(picture=text(png))) * 2)
    source = stored.open(Location(path))
    assert [source.read(i) for i in range(2)] == [png, png]
    assert source.labels.tolist() == [-1, -1] and source.notes == ["no labels in it"]


def store(labels: list[int], classes: list[str]) -> MappedStore:
    rows = np.zeros(len(labels), INDEX_DTYPE)
    rows["label"] = labels
    return MappedStore(Path("x"), [Path(__file__)], rows, classes, "")


def test_names_of_classes_are_brought_together() -> None:
    classes, labels = stored.shared_classes(
        [store([0, 1, -1], ["cat", "dog"]), store([0, 1], ["ant", "dog"])])
    assert classes == ["ant", "cat", "dog"]
    assert [part.tolist() for part in labels] == [[1, 2, -1], [0, 2]]
    with pytest.raises(UserError, match="one dataset"):
        stored.shared_classes([store([0], ["a"]), store([0], [])])


def test_what_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(jpeg())
    for name in ("", "x.jpg", "missing"):
        assert not stored.recognises(Location(tmp_path / name))
    assert not stored.recognises(Location("memory://x.beton"))
    with pytest.raises(UserError, match="is not on this machine"):
        stored.open(Location("memory://x.beton"))


def number(value: float, packed: bool) -> bytes:
    """A Feature that holds a FloatList of one."""
    data = struct.pack("<f", value)
    return field(2, field(1, data) if packed else b"\x0d" + data)


@pytest.mark.parametrize("packed", [True, False])
def test_whole_floats_are_labels_in_a_tfrecord(tmp_path: Path, packed: bool) -> None:
    path = tmp_path / "floats"
    path.write_bytes(b"".join(
        framed(example(image__encoded=text(jpeg()), image__class__label=number(value, packed)))
        for value in (0.0, 3.0, 1.0)))
    source = stored.open(Location(path))
    assert source.labels.tolist() == [0, 3, 1] and source.notes == []


@pytest.mark.parametrize("name, value", [
    ("image/class/text", text(b"cat")), ("image/class/label", number(0.5, True))])
def test_labels_that_are_no_whole_numbers_are_named(
    tmp_path: Path, name: str, value: bytes
) -> None:
    path = tmp_path / "texts"
    path.write_bytes(framed(example(image__encoded=text(jpeg()), **{name: value})))
    source = stored.open(Location(path))
    assert source.notes == [
        f"warning: no labels: the feature {name} is not used, since it is no whole number; write "
        "the label as an int64 to image/class/label"]


def test_minus_one_in_a_tfrecord_is_counted_aloud(tmp_path: Path) -> None:
    for name, values in (("half", (-1, 1, -1, 1)), ("all", (-1, -1))):
        (tmp_path / name).write_bytes(b"".join(
            framed(example(image__encoded=text(jpeg(seed=i)), label=integer(value)))
            for i, value in enumerate(values)))
    half = prepare(tmp_path / "half", tmp_path / "out")
    assert half.notes == [
        "warning: 2 of 4 images have no label, or a number below 0, which counts as none: write a "
        "name or another number if it is a class"]
    again = prepare(tmp_path / "out", tmp_path / "again")
    assert again.notes == ["2 of 4 images have no label"]
    notes = stored.open(Location(tmp_path / "all")).notes
    assert notes[0].startswith("no labels: label is below 0")


def test_only_float_labels_change_the_fingerprint(tmp_path: Path) -> None:
    prints = []
    for value in (integer(3), number(3.0, True)):
        path = tmp_path / "x"
        path.write_bytes(framed(example(image__encoded=text(jpeg()), label=value)))
        status = path.stat()
        identity = f"tfrecord {path.resolve()} {status.st_size} {status.st_mtime_ns}"
        prints.append(open_store(path).fingerprint == digest_of(identity))
    assert prints == [True, False]
