"""The beton: the bytes of the format, what the reader refuses, and FFCV's own reader and loader."""

import struct
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st

from data_tools.errors import UserError
from data_tools.formats import beton
from data_tools.formats.beton import BetonWriter, open_beton
from data_tools.store import INDEX_DTYPE, RAW
from tests.support.made_files.record_samples import little_memory
from tests.support.made_files.sample_images import jpeg, smooth

PAGE = 2 << 20


def write(path: Path, images: list[bytes], sides: list[tuple[int, int]], room: int = 0) -> None:
    path.unlink(missing_ok=True)
    writer = BetonWriter(path, len(images) + room, PAGE)
    writer.go_on()
    for image in images:
        writer.append(image)
    rows = rows_of([len(image) for image in images], sides, np.arange(len(images)) % 3)
    writer.finish(lambda: iter(np.array_split(rows, 2)))


def rows_of(sizes: list[int], sides: list[tuple[int, int]], labels: np.ndarray) -> np.ndarray:
    rows = np.zeros(len(sizes), INDEX_DTYPE)
    rows["size"], rows["label"] = sizes, labels
    rows["height"], rows["width"] = np.array(sides).T
    return rows


def test_a_beton_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "x.beton"
    # Sizes that fill a page exactly, then overflow it by one.
    images = [bytes([i + 1]) * size for i, size in enumerate([PAGE - 10, 10, 1, PAGE, 5, PAGE - 4])]
    sides = [(i + 1, 2 * i + 1) for i in range(6)]
    write(path, images, sides, room=100)
    store = open_beton(path)
    assert len(store) == 6 and store.classes == [] and not store.kinds.any()
    assert store.sizes.tolist() == [list(side) for side in sides] and store.sizes.dtype == np.int32
    assert store.labels.tolist() == [0, 1, 2, 0, 1, 2] and store.labels.dtype == np.int64
    for i, image in enumerate(images):
        view = store.encoded(i)
        assert view.tobytes() == image
        assert view.dtype == np.uint8 and not view.flags.owndata and not view.flags.writeable
    assert store.key(3) == f"sample 3 of {path}"


def test_the_bytes_are_those_of_the_format(tmp_path: Path) -> None:
    path = tmp_path / "x.beton"
    write(path, [b"abc", b"de"], [(5, 7), (300, 400)])
    data = path.read_bytes()
    assert struct.unpack_from("<HHIQQ", data) == (2, 2, PAGE, 2, 2 * PAGE)
    assert data[24:41] == b"\x02image" + bytes(11) and data[1065:1082] == b"\x01label" + bytes(11)
    rows = [struct.unpack_from("<BHHQ3xq", data, 2106 + 24 * i) for i in range(2)]
    assert rows == [(0, 7, 5, PAGE, 0), (0, 400, 300, PAGE + 3, 1)]
    assert data[PAGE : PAGE + 6] == b"abcde\0"
    assert data[2 * PAGE :] == struct.pack("<6Q", 0, PAGE, 3, 1, PAGE + 3, 2)


def test_writer_refuses_what_the_format_cannot_hold(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="power of two"):
        BetonWriter(tmp_path / "x", 1, 3 << 20)
    writer = BetonWriter(tmp_path / "x", 1, PAGE)
    writer.go_on()
    for data in (b"", bytes(PAGE + 1)):
        with pytest.raises(ValueError, match="an image of"):
            writer.append(data)
    writer.append(b"1")
    with pytest.raises(ValueError, match="number 1 of 1"):
        writer.append(b"1")
    writer.close()


def test_a_writer_goes_on_from_where_images_were_placed(tmp_path: Path) -> None:
    """The bytes are those of an undisturbed writer, whatever the file holds behind that point."""
    sizes = [PAGE // 2, PAGE // 3, PAGE // 3, PAGE, 7, PAGE - 7, 11]
    same = [-1, -1, 1, -1, -1, -1, 4]
    images = [bytes([i + 1]) * size for i, size in enumerate(sizes)]
    images[2], images[6] = images[1], images[4]
    rows = rows_of([len(image) for image in images], [(1, 1)] * 7, np.arange(7))

    def written(path: Path, stop: int) -> bytes:
        writer = BetonWriter(path, 7, PAGE)
        writer.go_on()
        for image, same_as in zip(images[:stop], same[:stop], strict=True):
            writer.append(image, same_as)
        writer.flush()
        writer._file.write(b"what a killed run had begun")
        writer.close()
        writer = BetonWriter(path, 7, PAGE)
        for image, same_as in zip(images[:stop], same[:stop], strict=True):
            writer.place(len(image), same_as)
        writer.go_on()
        for image, same_as in zip(images[stop:], same[stop:], strict=True):
            writer.append(image, same_as)
        writer.finish(lambda: iter([rows]))
        return path.read_bytes()

    files = [written(tmp_path / str(stop), stop) for stop in range(8)]
    assert len(set(files)) == 1
    store = open_beton(tmp_path / "3")
    assert all(store.encoded(i).tobytes() == image for i, image in enumerate(images))


def test_every_way_of_cutting_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "x.beton"
    write(path, [b"abc", b"de"], [(5, 7), (3, 4)])
    whole = path.read_bytes()
    for end in (0, 10, 24, 1000, 2106, PAGE, PAGE + 2, 2 * PAGE, 2 * PAGE + 24, len(whole) - 1):
        path.write_bytes(whole[:end])
        with pytest.raises(UserError, match="truncated") as caught:
            open_beton(path)
        assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("at", "value", "message"),
    [
        (0, b"\x01\0", "version 2"),
        (16, bytes(8), "half-written"),
        (16, b"\xff" * 8, "truncated"),
        (8, bytes(8), "no samples"),
        (8, b"\xff" * 8, "metadata is cut off"),
        (24, b"\x00", "no RGB image field"),
        (24, b"\xff", "has an unknown type"),
        (2106 + 5, b"\x01", "lacks images"),
        (2106, b"\x01", "raw images of the wrong size"),
        (2 * PAGE + 16, b"\xff" * 4, "behind its end"),
    ],
)
def test_damage_is_named(tmp_path: Path, at: int, value: bytes, message: str) -> None:
    path = tmp_path / "x.beton"
    write(path, [b"abc", b"de"], [(5, 7), (3, 4)])
    data = bytearray(path.read_bytes())
    data[at : at + len(value)] = value
    path.write_bytes(data)
    with pytest.raises(UserError, match=message):
        open_beton(path)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("small") / "x.beton"
    write(path, [jpeg(6, 8, i) for i in range(4)], [(6, 8)] * 4)
    return path


EXTREMES = (0, 1, 2**16 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1)


@settings(max_examples=300, database=None, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_any_damage_is_one_line_or_can_be_read(
    small: Path, tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    """Mutated where the numbers are: the head, and the table of places at the end."""
    path = tmp_path_factory.getbasetemp() / "mutated.beton"
    rng = np.random.default_rng(seed)
    content = bytearray(small.read_bytes())
    rows, table = 2106, len(content) - 4 * 24
    for _ in range(rng.integers(1, 5)):
        at = int(rng.choice([rng.integers(24), rng.integers(1082), rows + rng.integers(96),
                             table + rng.integers(12) * 8, table + rng.integers(96)]))
        width = int(rng.choice([1, 2, 4, 8]))
        value = int(rng.choice(np.array(EXTREMES, np.uint64))) % 2 ** (8 * width)
        near = int.from_bytes(content[at : at + width], "little") + int(rng.integers(-9, 9))
        new = value if rng.random() < 0.6 else near % 2 ** (8 * width)
        content[at : at + width] = new.to_bytes(width, "little")
    if rng.random() < 0.1:
        del content[int(rng.integers(len(content))) :]
    path.write_bytes(content)
    with little_memory(64 << 20):
        try:
            store = open_beton(path)
        except UserError as error:
            assert str(error).startswith(str(path)) and "\n" not in str(error)
            return
        for i in range(min(len(store), 50)):
            assert len(store.encoded(i)) == store.lengths[i] <= len(content)
        assert (store.sizes >= 0).all()


def test_fields_of_any_order_are_found_by_their_type(tmp_path: Path) -> None:
    path = tmp_path / "x.beton"
    names = [(0, b"weight"), (1, b"id"), (2, b"photo"), (1, b"label"), (2, b"image"), (4, b"mask")]
    image = [("mode", "u1"), ("width", "<u2"), ("height", "<u2"), ("ptr", "<u8")]
    kinds = ["<f8", "<i8", np.dtype(image), "<i8", np.dtype(image), "<u8"]
    row = np.zeros(1, np.dtype([("", kind) for kind in kinds], align=True))
    row["f1"], row["f3"], row["f2"], row["f4"] = 5, 9, (0, 1, 2, PAGE), (1, 2, 1, PAGE + 3)
    head = struct.pack("<HHIQQ", 2, 6, PAGE, 1, PAGE + 9)
    head += b"".join(struct.pack("<B16s1024s", kind, name, b"") for kind, name in names)
    table = struct.pack("<6Q", 0, PAGE + 3, 6, 0, PAGE, 3)
    path.write_bytes((head + row.tobytes()).ljust(PAGE, b"\0") + b"abcRGBRGB" + table)
    store = open_beton(path)
    assert store.labels.tolist() == [9] and store.sizes.tolist() == [[1, 2]]
    assert store.encoded(0).tobytes() == b"RGBRGB" and store.kinds.tolist() == [RAW]


def test_without_a_label_field_all_are_unlabelled(tmp_path: Path) -> None:
    path = tmp_path / "x.beton"
    head = beton.HEADER.pack(2, 1, PAGE, 1, PAGE + 3) + beton.FIELD.pack(2, b"image", b"")
    head += struct.pack("<BHHQ", 0, 1, 1, PAGE)
    path.write_bytes(head.ljust(PAGE, b"\0") + b"abc" + struct.pack("<3Q", 0, PAGE, 3))
    assert open_beton(path).labels.tolist() == [-1]


def ffcv_pipelines() -> dict:
    from ffcv.fields.basics import IntDecoder
    from ffcv.fields.rgb_image import SimpleRGBImageDecoder

    return {"image": [SimpleRGBImageDecoder()], "label": [IntDecoder()]}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("os_cache", [True, False])
def test_the_official_loader_reads_ours(tmp_path: Path, os_cache: bool) -> None:
    loader = pytest.importorskip("ffcv.loader", exc_type=ImportError)
    path = tmp_path / "x.beton"
    # Some with much behind their end, so that there are several pages; and two that are equal.
    images = [jpeg(40, 56, seed) + bytes(seed % 8 * 90_000) for seed in range(22)]
    images.append(images[3])
    writer = BetonWriter(path, 500_000, PAGE)  # most of the room stays unused
    writer.go_on()
    for i, image in enumerate(images):
        writer.append(image, same_as=3 if i == 22 else -1)
    assert writer.pointers[22] == writer.pointers[3] and writer.end > 3 * PAGE
    labels = np.arange(23) * 7 % 5
    rows = rows_of([len(image) for image in images], [(40, 56)] * 23, labels)
    writer.finish(lambda: iter([rows]))
    load = loader.Loader(
        str(path),
        batch_size=5,
        num_workers=1,
        order=loader.OrderOption.SEQUENTIAL,
        os_cache=os_cache,
        drop_last=False,
        pipelines=ffcv_pipelines(),
    )
    got_pixels, got_labels = [], []
    for batch, label in load:
        got_pixels.append(np.array(batch))
        got_labels.append(np.array(label)[:, 0])
    assert np.concatenate(got_labels).tolist() == labels.tolist()
    want = np.stack([simplejpeg.decode_jpeg(image, fastdct=True) for image in images])
    difference = np.abs(np.concatenate(got_pixels).astype(int) - want)
    assert difference.mean() < 0.5  # FFCV decodes with the fast DCT


@pytest.mark.filterwarnings("ignore")
def test_we_read_what_the_official_writer_writes(tmp_path: Path) -> None:
    writer = pytest.importorskip("ffcv.writer", exc_type=ImportError)
    from ffcv.fields import IntField, RGBImageField

    class Pictures:
        def __len__(self) -> int:
            return 12

        def __getitem__(self, i: int) -> tuple[np.ndarray, int]:
            return smooth(30 + i, 50, seed=i), 11 - i

    for mode in ("jpg", "raw"):
        path = tmp_path / f"{mode}.beton"
        fields = {"image": RGBImageField(write_mode=mode, jpeg_quality=95), "label": IntField()}
        writer.DatasetWriter(str(path), fields, num_workers=1).from_indexed_dataset(Pictures())
        store = open_beton(path)
        assert store.labels.tolist() == list(range(11, -1, -1))
        assert store.sizes.tolist() == [[30 + i, 50] for i in range(12)]
        assert (store.kinds == RAW).all() == (mode == "raw")
        for i in range(12):
            data = store.encoded(i)
            picture = data.reshape(30 + i, 50, 3) if mode == "raw" else simplejpeg.decode_jpeg(data)
            assert np.abs(picture.astype(int) - smooth(30 + i, 50, seed=i)).mean() < 3
