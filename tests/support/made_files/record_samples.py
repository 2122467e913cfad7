"""Parts for the tests of the record formats: samples, mutated bytes, DALI's pipelines."""

from __future__ import annotations

import io
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image

from data_tools.errors import UserError
from data_tools.formats import recordio
from data_tools.images.prepare_image import Prepared
from data_tools.store import INDEX_DTYPE, RAW, MappedStore
from tests.support.made_files.sample_images import jpeg, smooth

LABELS = (3, -1, 0, 1000, 7)


def samples() -> list[Prepared]:
    """JPEGs of several sizes, and between them two raw images."""
    prepared = []
    for i in range(5):
        height, width = 20 + i, 37 - i
        data = smooth(height, width, i).tobytes() if i in (1, 3) else jpeg(height, width, i)
        prepared.append(Prepared(data, height, width, i in (1, 3), ""))
    return prepared


def write(
    module: ModuleType, path: Path, images: list[Prepared] | None = None,
    labels: tuple[int, ...] = LABELS, numbers: Sequence[int] = range(5),
) -> np.ndarray:  # fmt: skip
    """A finished file of a format, and its index as prep keeps it."""
    images = samples() if images is None else images
    writer = module.Writer(path)
    rows = np.zeros(len(images), INDEX_DTYPE)
    for row, i, image, label in zip(rows, numbers, images, labels, strict=True):
        row["offset"], row["kind"] = writer.append(i, image, label)
        row["size"], row["label"] = len(image.data), label
        row["height"], row["width"] = image.height, image.width
    writer.finish()
    return rows


def check_reads_back(path: Path, rows: np.ndarray, images: list[Prepared]) -> None:
    store = MappedStore(path, [path], rows, [], "", join=recordio.join)
    for i, image in enumerate(images):
        encoded = store.encoded(i)
        assert encoded.dtype == np.uint8 and encoded.tobytes() == image.data
        assert (store.kinds[i] == RAW) == image.raw


def pixels(image: Prepared) -> np.ndarray:
    if image.raw:
        return np.frombuffer(image.data, np.uint8).reshape(image.height, image.width, 3)
    return np.asarray(Image.open(io.BytesIO(image.data)).convert("RGB"))


def read_by_dali(reader: Callable[[], tuple[object, object]], count: int) -> list[list[np.ndarray]]:
    """(pixels, label) of `count` samples. reader(): encoded images, labels, inside a pipeline."""
    from nvidia.dali import fn, pipeline_def, types

    @pipeline_def(batch_size=count, num_threads=1, device_id=None)
    def pipeline() -> tuple[object, object]:
        encoded, labels = reader()
        images = fn.decoders.image(
            encoded, device="cpu", output_type=types.RGB, adjust_orientation=False
        )
        return images, labels

    built = pipeline()
    built.build()
    images, labels = built.run()
    return [[np.array(images.at(i)), np.array(labels.at(i))] for i in range(count)]


def check_pixels(found: np.ndarray, image: Prepared) -> None:
    """Assert that raw images are equal, and JPEGs up to the rounding of two decoders."""
    wanted = pixels(image)
    assert found.shape == wanted.shape
    difference = np.abs(found.astype(int) - wanted)
    assert difference.max() <= (0 if image.raw else 3)


@contextmanager
def little_memory(limit: int = 8 << 20) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        tracemalloc.stop()


def check_refusal(scan: Callable[[Path], object], path: Path, data: bytes, match: str) -> None:
    """Assert that a file of these bytes is refused in one line that names it, in little memory."""
    path.write_bytes(data)
    with little_memory(), pytest.raises(UserError, match=match) as caught:
        scan(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def check_survives(
    scan: Callable[[Path], tuple[np.ndarray, list[str]]], path: Path, data: bytes
) -> None:
    """Assert that any bytes are refused in one line, or give readable rows inside the file."""
    path.write_bytes(data)
    try:
        rows, _ = scan(path)
    except UserError as error:
        assert str(error).startswith(str(path)) and "\n" not in str(error)
        return
    if len(rows):
        store = MappedStore(path, [path], rows, [], "", join=recordio.join)
        assert all(len(store.encoded(i)) == rows["size"][i] for i in range(len(rows)))
    assert (rows["label"] >= -1).all() and (rows["height"] >= 0).all()


@st.composite
def mutations(draw: st.DrawFn, data: bytes) -> bytes:
    """`data` with bytes changed, taken out, doubled or cut off."""
    out = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(out)))
        length = draw(st.integers(1, 16))
        way = draw(st.sampled_from(("change", "change", "extreme", "out", "double", "cut", "in")))
        if way == "change":
            out[at : at + length] = draw(st.binary(min_size=length, max_size=length))
        elif way == "extreme":
            out[at : at + length] = draw(st.sampled_from((b"\xff", b"\0", b"\x80", b"7"))) * length
        elif way == "out":
            del out[at : at + length]
        elif way == "double":
            out[at:at] = out[at : at + 50 * length]
        elif way == "in":
            out[at:at] = draw(st.binary(max_size=40))
        else:
            del out[at:]
    return bytes(out)
