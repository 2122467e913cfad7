"""CIFAR archives: all four layouts, packed and unpacked; and what a hostile pickle can't do."""

import gzip
import io
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_tools.errors import UserError
from data_tools.sources import cifar
from data_tools.sources.location import Location
from tests.support.made_files.cifar_archives import (
    NAMES,
    ROWS,
    layout_files,
    pack,
    python2,
    rows,
    write,
)

FOLDERS = ["cifar-10-batches-py", "cifar-10-batches-bin", "cifar-100-python", "cifar-100-binary"]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("folder", FOLDERS)
def test_pixels_labels_and_names_are_the_originals(
    tmp_path: Path, folder: str, packed: bool
) -> None:
    classes = 100 if "100" in folder else 10
    path = write(tmp_path / folder, layout_files(folder, python2))
    place = Location(pack(path) if packed else path)
    assert cifar.recognises(place)
    seeds = {"train": [0, 1, 2] if classes == 10 else [0], "test": [3] if classes == 10 else [1]}
    for split, wanted in seeds.items():
        source = cifar.open(place, split)
        batches = [rows(seed, classes) for seed in wanted]
        assert source.labels.dtype == np.int64
        assert source.labels.tolist() == sum((labels for _, labels in batches), [])
        assert source.classes == NAMES[classes]
        pixels = np.concatenate([data for data, _ in batches])
        assert len(source.keys) == len(set(source.keys)) == len(pixels)
        for i in range(len(source.keys)):
            image = source.read(i)
            assert image.shape == (32, 32, 3) and image.dtype == np.uint8
            assert np.array_equal(image.transpose(2, 0, 1).ravel(), pixels[i])
        assert f"#{'test' if split == 'train' else 'train'}" in source.notes[0]
        assert split in source.kind
    with pytest.raises(UserError, match="no val"):
        cifar.open(place, "val")


@pytest.mark.parametrize("protocol", range(6))
def test_pickles_that_python_3_and_numpy_wrote(tmp_path: Path, protocol: int) -> None:
    files = layout_files("cifar-10-batches-py", lambda batch: pickle.dumps(batch, protocol))
    source = cifar.open(Location(write(tmp_path / "cifar-10-batches-py", files)))
    assert source.labels.tolist()[:ROWS] == rows(0, 10)[1]
    assert np.array_equal(source.read(1).transpose(2, 0, 1).ravel(), rows(0, 10)[0][1])


def test_batches_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    path = write(tmp_path / "cifar-10-batches-py", layout_files("cifar-10-batches-py", python2))
    keys = cifar.open(Location(path)).keys
    assert keys[0] == "data_batch_1/0" and keys[-1] == f"data_batch_10/{ROWS - 1}"
    assert keys[ROWS : ROWS + 2] == ["data_batch_2/0", "data_batch_2/1"]


class Evil:
    def __reduce__(self) -> object:
        return Path.touch, (Path("ran"),)


@pytest.mark.parametrize("what", [Evil(), range(3), print, {1: Evil()}])
def test_a_pickle_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: object
) -> None:
    monkeypatch.chdir(tmp_path)
    files = layout_files("cifar-10-batches-py", python2)
    files["data_batch_1"] = pickle.dumps({"data": what, "labels": [1]}, 2)
    with pytest.raises(UserError, match="asks for"):
        cifar.open(Location(write(tmp_path / "cifar-10-batches-py", files)))
    assert not Path("ran").exists()


HASHED = b")q\1" + b"h\1\x86q\1" * 60  # a tuple of two of a tuple of two of ...
MANY = b"".join(b"\x8a\x09" + (i * ((1 << 61) - 1)).to_bytes(9, "little") + b"N" for i in range(40))


@pytest.mark.parametrize(("program", "reason"), [
    (b"\x96\0\0\0\x80\1\0\0\0.", "claims more bytes"),  # a bytearray of 6 GB
    (b"}" + HASHED + b"Ns.", "keys that are not"), (b"}(" + MANY + b"u.", "keys that are not"),
    (b"(c_codecs\nencode\nq\0X\xff\xff\0\0" + b"a" * 65535 + b"q\1X\6\0\0\0latin1\x86q\2R"
     + b"h\0h\2R" * 5000 + b"t.", "unfolds"),
])
def test_a_pickle_that_hangs_or_fills_python_is_refused(
    tmp_path: Path, program: bytes, reason: str
) -> None:
    files = layout_files("cifar-10-batches-py", python2) | {"data_batch_1": program}
    with pytest.raises(UserError, match=f"damaged: its pickle .*{reason}"):
        cifar.open(Location(write(tmp_path / "cifar-10-batches-py", files)))


@pytest.mark.parametrize("batch", [
    [], {}, {"data": 1, "labels": []}, {"data": np.zeros((2, 3)), "labels": [1, 2]},
    {"data": np.zeros((2, 3072), np.uint8), "labels": [1]},
    {"data": np.zeros((2, 3072), np.uint8), "labels": [1, 10]},
    {"data": np.zeros((2, 3072), np.uint8), "labels": ["a", "b"]},
    {"data": np.zeros((3072, 2), np.uint8).T, "labels": [1, 1]},
    {"data": np.zeros(3, object), "labels": [1, 1]},
])
def test_pickles_of_other_things_are_refused(tmp_path: Path, batch: object) -> None:
    files = layout_files("cifar-10-batches-py", python2) | {"data_batch_1": pickle.dumps(batch, 4)}
    with pytest.raises(UserError, match="damaged"):
        cifar.open(Location(write(tmp_path / "cifar-10-batches-py", files)))


def test_folders_and_files_of_other_things_are_not_recognised(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    for name in ("train", "test"):
        (photos / name).mkdir(parents=True)
    named = tmp_path / "cifar-100-python"
    for name in ("train", "test"):
        (named / name).mkdir(parents=True)
    lists = write(tmp_path / "lists", {"train": b"a", "test": b"b"})
    (tmp_path / "x.tar.gz").write_bytes(gzip.compress(b"text" * 500))
    (tmp_path / "cut.tar.gz").write_bytes(gzip.compress(b"text" * 500)[:20])
    (tmp_path / "empty").touch()
    others = [tmp_path / "empty", tmp_path / "missing", *tmp_path.glob("*.gz")]
    for place in (photos, named, lists, *others):
        assert not cifar.recognises(Location(place))


def test_what_unpacks_without_an_end_is_refused(tmp_path: Path) -> None:
    member = tarfile.TarInfo("cifar-10-batches-py/data_batch_1")
    member.size = 8 << 30
    path = tmp_path / "bomb.tar.gz"
    path.write_bytes(gzip.compress(member.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 20)))
    with pytest.raises(UserError, match="truncated"):
        cifar.open(Location(path))
    member.size = 0
    path.write_bytes(gzip.compress(member.tobuf() + bytes(cifar.UNPACKED_BYTES), 1))
    with pytest.raises(UserError, match="more than a CIFAR"):
        cifar.open(Location(path))


def test_a_small_archive_that_unpacks_to_a_large_one_is_refused(tmp_path: Path) -> None:
    member = tarfile.TarInfo("cifar-10-batches-py/data_batch_1")
    member.size = 100 << 20
    path = tmp_path / "bomb.tar.gz"
    with gzip.open(path, "wb") as file:
        file.write(member.tobuf(tarfile.GNU_FORMAT))
        for _ in range(100):
            file.write(bytes(1 << 20))
        file.write(bytes(1024))
    with pytest.raises(UserError, match="more than a CIFAR"):
        cifar.open(Location(path))


def test_an_archive_that_ends_between_two_members_is_cut_off(tmp_path: Path) -> None:
    files = layout_files("cifar-10-batches-bin", python2)
    whole = gzip.decompress(pack(write(tmp_path / "cifar-10-batches-bin", files)).read_bytes())
    with tarfile.open(fileobj=io.BytesIO(whole)) as tar:
        third = sorted(member.offset for member in tar if member.isfile())[2]
    path = tmp_path / "cut.tar"
    path.write_bytes(whole[:third])
    with pytest.raises(UserError, match="cut off"):
        cifar.open(Location(path))


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """The four archives as plain tars."""
    packed = []
    for name in FOLDERS:
        folder = write(tmp_path_factory.mktemp("a") / name, layout_files(name, python2))
        packed.append(gzip.decompress(pack(folder).read_bytes()))
    return packed


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_mutated_archives_give_one_clear_error(
    archives: list[bytes], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(data.draw(st.sampled_from(archives)))
    for _ in range(data.draw(st.integers(1, 4))):
        # Headers and pickle codes lie around the starts of members.
        at = data.draw(st.integers(0, len(content) // 512 - 1)) * 512
        at += data.draw(st.integers(0, 511))
        content[at] = data.draw(st.integers(0, 255))
    end = data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))
    path = tmp_path_factory.getbasetemp() / "mutated.tar"
    path.write_bytes(content[:end])
    if cifar.recognises(Location(path)):
        try:
            source = cifar.open(Location(path))
        except UserError:
            return
        assert source.read(0).shape == (32, 32, 3)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_mutated_pickles_raise_plain_errors(data: st.DataObject) -> None:
    content = bytearray(python2({"data": np.zeros((2, 3072), np.uint8), "labels": [1, 2]}))
    size = len(content)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.one_of(st.integers(0, 150), st.integers(size - 60, size - 1)))
        content[at] = data.draw(st.integers(0, 255))
    try:
        cifar.read_batch(bytes(content), cifar.LAYOUTS["cifar-10-batches-py"])
    except Exception as error:
        assert not isinstance(error, (MemoryError, RecursionError)), error
