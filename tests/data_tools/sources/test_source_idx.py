"""IDX files: pixels and labels as they were, pairs by their names, claims never believed."""

import gzip
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_tools.errors import UserError
from data_tools.sources import idx
from data_tools.sources.location import Location
from tests.support.made_files.idx_files import DIGITS, LABELS, PAIR, TEST, N, pack, write


def check(source: idx.ArraySource, images: np.ndarray, labels: np.ndarray) -> None:
    assert source.labels.dtype == np.int64 and source.labels.tolist() == labels.tolist()
    assert len(source.keys) == len(set(source.keys)) == len(images) == len(source.sizes)
    for i, image in enumerate(images):
        read = source.read(i)
        assert type(read) is np.ndarray and read.dtype == np.uint8
        assert np.array_equal(read, image)


@pytest.mark.parametrize("packed", [False, True])
def test_a_file_with_its_labels_beside_it(tmp_path: Path, packed: bool) -> None:
    write(tmp_path, PAIR, packed)
    place = Location(tmp_path / f"train-images-idx3-ubyte{'.gz' * packed}")
    assert idx.recognises(place)
    source = idx.open(place)
    check(source, DIGITS, LABELS)
    assert source.classes == [str(i) for i in range(LABELS.max() + 1)]
    assert source.notes == []
    again = idx.open(place).fingerprint
    assert source.fingerprint == again
    with pytest.raises(UserError, match="#test off"):
        idx.open(place, "test")


@pytest.mark.parametrize("packed", [False, True])
def test_a_folder_gives_the_training_pair_unless_asked(tmp_path: Path, packed: bool) -> None:
    place = Location(write(tmp_path / "MNIST", PAIR | TEST, packed))
    assert idx.recognises(place)
    source = idx.open(place)
    check(source, DIGITS, LABELS)
    assert "#test" in source.notes[0]
    check(idx.open(place, "test"), *TEST.values())


def test_a_file_that_lies_packed_and_unpacked_counts_once(tmp_path: Path) -> None:
    write(tmp_path, PAIR)
    check(idx.open(Location(write(tmp_path, PAIR, True))), DIGITS, LABELS)


@pytest.mark.parametrize(("images", "labels"), [
    ("emnist-letters-train-images-idx3-ubyte", "emnist-letters-train-labels-idx1-ubyte"),
    ("train-images.idx3-ubyte", "train-labels.idx1-ubyte"),
])
def test_names_of_the_family(tmp_path: Path, images: str, labels: str) -> None:
    write(tmp_path, {images: DIGITS, labels: LABELS})
    check(idx.open(Location(tmp_path / images)), DIGITS, LABELS)


def test_qmnist_labels_are_the_first_of_eight_columns(tmp_path: Path) -> None:
    eight = np.arange(8 * N, dtype=np.int32).reshape(N, 8)
    eight[:, 0] = LABELS
    write(tmp_path, {"qmnist-train-images-idx3-ubyte": DIGITS,
                     "qmnist-train-labels-idx2-int": eight}, True)
    check(idx.open(Location(tmp_path / "qmnist-train-images-idx3-ubyte.gz")), DIGITS, LABELS)


def test_colours_and_no_labels(tmp_path: Path) -> None:
    colours = np.stack([DIGITS, DIGITS // 2, DIGITS // 3], -1)
    write(tmp_path, {"some-images-idx4-ubyte": colours})
    source = idx.open(Location(tmp_path / "some-images-idx4-ubyte"))
    check(source, colours, np.full(N, -1))
    assert source.classes == [] and "some-labels-idx1-ubyte" in source.notes[0]


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    write(tmp_path, PAIR | {"b-images-idx3-ubyte": DIGITS, "b-labels-idx1-ubyte": LABELS[1:]})
    for name, message in [("train-labels-idx1-ubyte", "no images"), ("", "2 files of train"),
                          ("b-images-idx3-ubyte", "11 labels for 12 images")]:
        with pytest.raises(UserError, match=message):
            idx.open(Location(tmp_path / name))
    with pytest.raises(UserError, match="no test images"):
        idx.open(Location(tmp_path), "test")


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("shape", [(1 << 31, 28, 28), (1 << 19, 28, 28), (N + 1, 9, 7), (2, 9, 7),
                                   (4294967295,) * 3])
def test_a_header_is_not_believed(tmp_path: Path, packed: bool, shape: tuple) -> None:
    data = struct.pack(">BBBB3I", 0, 0, 8, 3, *shape) + DIGITS.tobytes()
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(gzip.compress(data) if packed else data)
    large = packed and shape[0] > 1 << 30
    with pytest.raises(UserError, match="unpack it to a local" if large else "claim"):
        idx.open(Location(path))


def test_a_gzip_that_goes_on_and_on_is_left_in_time(tmp_path: Path) -> None:
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(pack(DIGITS) + bytes(200 << 20), 1))
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match="holds more than"):
            idx.open(Location(path))
        assert tracemalloc.get_traced_memory()[1] < 20 << 20
    finally:
        tracemalloc.stop()


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_mutated_files(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.getbasetemp() / "mutated"
    packed = data.draw(st.booleans())
    write(folder, PAIR, packed)
    path = folder / (data.draw(st.sampled_from(list(PAIR))) + ".gz" * packed)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.one_of(st.integers(0, 19), st.integers(0, len(content) - 1)))
        content[at] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.one_of(st.just(len(content)),
                                                   st.integers(0, len(content))))])
    place = Location(folder / ("train-images-idx3-ubyte" + ".gz" * packed))
    idx.recognises(place)
    try:
        source = idx.open(place)
    except UserError:
        return
    assert source.read(len(source.keys) - 1).dtype == np.uint8
