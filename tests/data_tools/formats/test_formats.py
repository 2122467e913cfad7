"""The law of the formats: one source, four formats, the same ids, order, labels and pixels.

Read by our store, by our scan of the bare files, and by the readers of others: FFCV's loader, DALI.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from data_tools.formats.registry import FORMATS
from data_tools.open import open_foreign, open_store
from data_tools.policy import Policy
from data_tools.prepare import prepare
from data_tools.store import RAW, Store
from tests.support.made_files.record_samples import read_by_dali
from tests.support.made_files.sample_images import encode, jpeg, smooth

Sample = tuple[np.ndarray, int]
CLASSES = ("ant", "bee", "cat")
# FFCV decodes with the fast DCT, DALI's decoder rounds its own way.
FFCV_ERROR, DALI_ERROR = 2, 0.5


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """62 good images of several kinds, 3 equal, 2 broken; a third raw; several files a format.

    All of one size, which is what FFCV's plain decoder wants.
    """
    folder = tmp_path_factory.mktemp("formats")
    for i in range(64):
        name, data = f"{i:03}.jpg", jpeg(33, 40, i)
        if i % 6 == 1:
            name, data = f"{i:03}.png", encode(Image.fromarray(smooth(33, 40, i)), "PNG")
        elif i % 10 == 2:
            data = encode(Image.fromarray(smooth(33, 40, i, 1)[..., 0]), "JPEG", quality=95)
        elif i % 16 == 7:
            data = data[:-50]
        elif i % 20 == 14:
            data = jpeg(33, 40, 500)
        path = folder / "source" / CLASSES[i % 3] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    policy = Policy(raw_fraction=0.3, quality=95)
    prepare(folder / "source", folder / "out", replace(policy, shard_size=0.015), FORMATS)
    return folder / "out"


def pixels(store: Store, i: int) -> np.ndarray:
    encoded = store.encoded(i)
    if store.kinds[i] == RAW:
        return encoded.reshape(*store.sizes[i], 3)
    return simplejpeg.decode_jpeg(encoded)


def by_our_index(out: Path, name: str) -> Iterator[Sample]:
    store = open_store(out / name)
    assert store.classes == list(CLASSES)
    for i in range(len(store)):
        yield pixels(store, i), int(store.labels[i])


def by_our_scan(out: Path, name: str) -> Iterator[Sample]:
    store = open_store(out / name)
    for path in store.data:  # type: ignore[attr-defined]
        bare = open_foreign(path)
        for i in range(len(bare)):
            yield pixels(bare, i), int(bare.labels[i])


def by_ffcv(out: Path, name: str) -> Iterator[Sample]:
    loader = pytest.importorskip("ffcv.loader", exc_type=ImportError)
    from ffcv.fields.basics import IntDecoder
    from ffcv.fields.rgb_image import SimpleRGBImageDecoder

    load = loader.Loader(
        str(out / name / "train.beton"), batch_size=10, num_workers=1, drop_last=False,
        order=loader.OrderOption.SEQUENTIAL,
        pipelines={"image": [SimpleRGBImageDecoder()], "label": [IntDecoder()]},
    )  # fmt: skip
    for images, labels in load:
        for image, label in zip(np.array(images), labels, strict=True):
            yield image, int(label[0])


def by_dali(out: Path, name: str) -> Iterator[Sample]:
    pytest.importorskip("nvidia.dali")
    import nvidia.dali.tfrecord as features
    from nvidia.dali import fn, types

    store = open_store(out / name)
    files = [str(path) for path in store.data]  # type: ignore[attr-defined]
    indexes = [f"{file}.idx" for file in files]
    assert len(files) > 3

    def tfrecord() -> tuple[object, object]:
        read = fn.readers.tfrecord(path=files, index_path=indexes, features={
            "image/encoded": features.FixedLenFeature((), features.string, ""),
            "image/class/label": features.FixedLenFeature([1], features.int64, -1),
        })
        return read["image/encoded"], read["image/class/label"]

    def recordio() -> tuple[object, object]:
        return tuple(fn.readers.mxnet(path=files, index_path=[str(out / name / "train.idx")]))

    def webdataset() -> tuple[object, object]:
        return tuple(fn.readers.webdataset(
            paths=files, index_paths=indexes, ext=["jpg;ppm", "cls"],
            dtypes=[types.UINT8, types.UINT8],
        ))

    reader = {"tfrecord": tfrecord, "recordio": recordio, "webdataset": webdataset}[name]
    for image, label in read_by_dali(reader, len(store)):
        yield image, int(label.tobytes() if name == "webdataset" else label[0])


Reader = Callable[[Path, str], Iterator[Sample]]
READERS: list[tuple[str, Reader, float]] = [
    *((name, by_our_index, 0.0) for name in FORMATS),
    *((name, by_our_scan, 0.0) for name in FORMATS),
    ("beton", by_ffcv, FFCV_ERROR),
    *((name, by_dali, DALI_ERROR) for name in FORMATS[1:]),
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "read", "error"), READERS)
def test_every_reader_sees_the_same_samples(
    out: Path, name: str, read: Reader, error: float
) -> None:
    reference = open_store(out / "beton")
    found = list(read(out, name))
    assert len(found) == len(reference) == 62
    for i, (image, label) in enumerate(found):
        key = reference.key(i)
        assert label == reference.labels[i] == CLASSES.index(key.split("/")[0])
        wanted = pixels(reference, i).astype(int)
        if image.shape[-1] == 1:
            image = image.repeat(3, -1)
        if wanted.shape[-1] == 1:
            wanted = wanted.repeat(3, -1)
        assert image.shape == wanted.shape
        raw = reference.kinds[i] == RAW
        assert np.abs(image - wanted).mean() <= (0 if raw else error)
        # And the pixels are the source's.
        source = np.asarray(Image.open(out.parent / "source" / key).convert("RGB")).astype(int)
        assert np.abs(wanted - source).mean() < (2 if key.endswith("png") else 1)


def test_the_formats_differ_in_bytes_and_not_in_meaning(out: Path) -> None:
    stores = [open_store(out / name) for name in FORMATS]
    first = stores[0]
    assert 15 <= (first.kinds == RAW).sum() <= 21
    for store in stores:
        assert store.fingerprint == first.fingerprint
        for name in ("sizes", "labels", "kinds"):
            assert (getattr(store, name) == getattr(first, name)).all()
        assert [store.key(i) for i in range(62)] == [first.key(i) for i in range(62)]
        for name in ("digests.npy", "keys.txt", "quarantine.jsonl", "duplicates.jsonl"):
            assert (store.path / name).read_bytes() == (first.path / name).read_bytes()
    assert open_store(out).path == first.path  # any of them stands for all


def test_equal_images_share_a_place_in_the_beton_and_are_told(out: Path) -> None:
    duplicates = (out / "beton" / "duplicates.jsonl").read_text().splitlines()
    store = open_foreign(out / "beton" / "train.beton")
    starts = store.places(np.arange(len(store)))[1].tolist()
    # Three are equal. One of them is stored raw, the other two share a place.
    assert len(duplicates) == 2 and len(set(starts)) == len(starts) - 1
