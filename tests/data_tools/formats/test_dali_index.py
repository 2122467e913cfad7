"""DALI reads our files by the indexes that we write: the same images and labels."""

import struct
from pathlib import Path

import numpy as np
import pytest

from data_tools.formats import recordio, tfrecord, webdataset
from data_tools.store import RAW, SPLIT
from tests.support.made_files.record_samples import (
    LABELS,
    check_pixels,
    check_reads_back,
    read_by_dali,
    samples,
    write,
)

MAGIC = struct.pack("<I", 0xCED7230A)


def test_dali_reads_recordio(tmp_path: Path) -> None:
    pytest.importorskip("nvidia.dali")
    from nvidia.dali import fn

    images = samples()
    pixels = np.frombuffer(images[1].data, np.uint8).copy()
    pixels[2 : 2 + 40 * 4] = np.frombuffer((b"\n\n\n" + MAGIC * 40)[:160], np.uint8)
    pixels[200:520] = np.frombuffer(b"".join(MAGIC + bytes(k % 4) for k in range(60))[:320], "u1")
    images[1] = images[1]._replace(data=pixels.tobytes())
    # A comment in front holds the magic at every alignment.
    comment = b"".join(MAGIC + bytes(k % 4 + 1) for k in range(20)) + MAGIC * 4
    segment = b"\xff\xfe" + struct.pack(">H", len(comment) + 2) + comment
    images[2] = images[2]._replace(data=images[2].data[:2] + segment + images[2].data[2:])
    paths = [tmp_path / "a.rec", tmp_path / "b.rec"]
    index, base = "", 0
    for k, path in enumerate(paths):
        rows = write(recordio, path, images)
        assert (rows["kind"] & SPLIT != 0).tolist() == [False, True, True, False, False]
        check_reads_back(path, rows, images)
        index += recordio.dali_index(rows, 5 * k, base)
        base += path.stat().st_size
    (tmp_path / "x.idx").write_text(index)

    def reader() -> tuple[object, object]:
        encoded, label = fn.readers.mxnet(
            path=[str(path) for path in paths], index_path=[str(tmp_path / "x.idx")]
        )
        return encoded, label

    found = read_by_dali(reader, 10)
    for (image, label), sample, wanted in zip(found, images * 2, LABELS * 2, strict=True):
        check_pixels(image, sample)
        assert label.tolist() == [wanted]


def test_dali_reads_tfrecord(tmp_path: Path) -> None:
    pytest.importorskip("nvidia.dali")
    import nvidia.dali.tfrecord as features
    from nvidia.dali import fn

    paths = [tmp_path / "a.tfrecord", tmp_path / "b.tfrecord"]
    for path in paths:
        rows = write(tfrecord, path)
        path.with_suffix(".idx").write_text(tfrecord.dali_index(rows))

    def reader() -> tuple[object, object]:
        read = fn.readers.tfrecord(
            path=[str(path) for path in paths],
            index_path=[str(path.with_suffix(".idx")) for path in paths],
            features={
                "image/encoded": features.FixedLenFeature((), features.string, ""),
                "image/class/label": features.FixedLenFeature([1], features.int64, -1),
            },
        )
        return read["image/encoded"], read["image/class/label"]

    found = read_by_dali(reader, 10)
    for (image, label), sample, wanted in zip(found, samples() * 2, LABELS * 2, strict=True):
        check_pixels(image, sample)
        assert label.dtype == np.int64 and label.tolist() == [wanted]


def test_dali_reads_webdataset(tmp_path: Path) -> None:
    pytest.importorskip("nvidia.dali")
    from nvidia.dali import fn, types

    labels = (3, 4, 0, 1000, 7)
    paths = [tmp_path / "a.tar", tmp_path / "b.tar"]
    for k, path in enumerate(paths):
        numbers = np.arange(5 * k, 5 * k + 5)
        rows = write(webdataset, path, None, labels, numbers.tolist())
        path.with_suffix(".idx").write_text(webdataset.dali_index(rows, numbers))

    def reader() -> tuple[object, object]:
        encoded, label = fn.readers.webdataset(
            paths=[str(path) for path in paths],
            index_paths=[str(path.with_suffix(".idx")) for path in paths],
            ext=["jpg;ppm", "cls"],
            dtypes=[types.UINT8, types.UINT8],
        )
        return encoded, label

    found = read_by_dali(reader, 10)
    for (image, label), sample, wanted in zip(found, samples() * 2, labels * 2, strict=True):
        check_pixels(image, sample)
        assert int(label.tobytes()) == wanted
    assert {sample.raw for sample in samples()} == {True, False} and RAW
