"""verify: every kind of damage is found, named, and nothing else is."""

import dataclasses
import hashlib
import io
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_tools.errors import UserError
from data_tools.files import FileRecord
from data_tools.formats import beton, recordio, tfrecord, webdataset
from data_tools.formats.registry import FORMATS
from data_tools.images.prepare_image import Prepared
from data_tools.inspection.verify import MOST, Report, chosen, verify
from data_tools.manifest import MANIFEST, UNFINISHED, read_manifest
from data_tools.open import open_store
from data_tools.policy import Policy
from data_tools.prepare import prepare
from data_tools.store import INDEX_DTYPE
from tests.support.made_files.sample_images import encode, jpeg, smooth

Write = Callable[..., Path]
DATA = {"beton": "train.beton", "tfrecord": "train-00001.tfrecord", "recordio": "train-00001.rec",
        "webdataset": "train-00001.tar"}  # fmt: skip


@pytest.fixture
def out(write_tree: Write, tmp_path: Path) -> Path:
    files = {f"{'ab'[i % 2]}/{i:02}.jpg": jpeg(40, 50 + i, i) for i in range(20)}
    files |= {"a/20.jpg": files["a/00.jpg"]}
    policy = Policy(raw_fraction=0.2, shard_size=0.008)
    prepare(write_tree(files), tmp_path / "out", policy, FORMATS)
    return tmp_path / "out"


def one(path: Path, quick: int = 0) -> Report:
    (report,) = verify(path, quick)
    return report


def test_what_is_whole_is_whole(out: Path) -> None:
    told: list[tuple[int, int]] = []
    reports = verify(out, progress=lambda *now: told.append(now))
    assert [report.format for report in reports] == list(FORMATS)
    for report in reports:
        assert (report.samples, report.looked_at, report.found) == (21, 21, 0)
        assert report.problems == report.warnings == []
        assert report.verdict == "whole: all 21 images have their checksum and decode"
    assert told[-1] == (21, 21)
    quick = one(out / "tfrecord", 5)
    assert quick.looked_at == 5 and quick.verdict.startswith("whole as far as")
    assert chosen(21, 5).tolist() == [0, 5, 10, 15, 20] and len(chosen(3, 5)) == 3
    for name in FORMATS:
        assert one(out / name / DATA[name]).found == 0  # and as a file of anybody


@pytest.mark.parametrize("name", FORMATS)
def test_a_flipped_byte_is_found_and_its_image_named(out: Path, name: str) -> None:
    store = open_store(out / name)
    files, starts, _ = store.places(np.arange(len(store)))
    number = next(i for i in range(3, 20) if store.data[files[i]].name == DATA[name]
                  and store.kinds[i] == 0)  # fmt: skip
    path = out / name / DATA[name]
    content = bytearray(path.read_bytes())
    content[int(starts[number]) + 400] ^= 4
    path.write_bytes(content)
    report = one(out / name)
    assert report.found and "checksum" in " ".join(report.problems)
    assert any(line.startswith(f"{store.key(number)} (number {number}): its bytes have changed")
               for line in report.problems)  # fmt: skip
    assert report.verdict.startswith("damaged: ")


def damage(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        ("train-00001.tfrecord", lambda data: data[:-9], "train-00001.tfrecord: truncated: "),
        ("train-00001.tfrecord", lambda data: data + b"\0", "train-00001.tfrecord: changed: "),
        ("train-00001.tfrecord.idx", lambda data: b"9" + data[1:], "idx: changed since"),
        ("keys.txt", lambda data: data.replace(b"a/", b"b/", 1), "keys.txt: changed since"),
        ("index.npy", lambda data: data[:-40] + bytes(40), "index.npy: changed since"),
        (MANIFEST, lambda data: data[:-40], "damaged; remove"),
    ],
)
def test_a_changed_file_is_named(
    out: Path, file: str, change: Callable[[bytes], bytes], said: str
) -> None:
    damage(out / "tfrecord" / file, change)
    assert any(said in line for line in one(out / "tfrecord").problems)


def test_files_that_are_gone_or_swapped(out: Path) -> None:
    folder = out / "webdataset"
    first, second = folder / "train-00000.tar", folder / "train-00001.tar"
    kept = first.read_bytes(), second.read_bytes()
    first.write_bytes(kept[1])
    second.write_bytes(kept[0])
    assert one(folder).found >= 2
    second.unlink()
    assert any("train-00001.tar: missing" in line for line in one(folder).problems)


def test_a_label_that_was_changed_in_the_file_with_its_checksum(out: Path) -> None:
    folder = out / "tfrecord"
    store = open_store(folder)
    path = store.data[0]
    writer = tfrecord.Writer(folder / "new")
    files, _, _ = store.places(np.arange(len(store)))
    for i in range(int((files == 0).sum())):
        height, width = store.sizes[i].tolist()
        image = Prepared(store.encoded(i).tobytes(), height, width, bool(store.kinds[i]), "")
        writer.append(i, image, 1 - int(store.labels[i]))
    writer.finish()
    (folder / "new").rename(path)
    report = one(folder)
    assert any("the file's label is" in line for line in report.problems)


def test_the_index_must_not_let_images_overlap(out: Path) -> None:
    folder = out / "beton"
    rows = np.load(folder / "index.npy")
    rows["offset"][5] = rows["offset"][4] + 1
    np.save(folder / "index.npy", rows)
    assert one(folder).problems == [
        "index.npy: changed since it was prepared (its checksum differs)"]
    sign(folder, "index.npy")
    text = " ".join(one(folder).problems)
    assert "overlaps another image" in text and "the index says" in text


def sign(folder: Path, name: str) -> None:
    """Records a file as it is now in the manifest, as if prep had written it so."""
    manifest = read_manifest(folder)
    content = (folder / name).read_bytes()
    record = FileRecord(len(content), hashlib.sha256(content).hexdigest())
    files = manifest.files | {name: record}
    (folder / "manifest.json").write_text(dataclasses.replace(manifest, files=files).to_json())


def test_of_many_problems_the_first_are_told(out: Path) -> None:
    path = out / "beton" / "train.beton"
    content = bytearray(path.read_bytes())
    rows = np.load(out / "beton" / "index.npy")
    for start in rows["offset"].tolist():
        content[start + 300 : start + 320] = bytes(20)
    path.write_bytes(content)
    report = one(out / "beton")
    assert report.found == 21 > MOST == len(report.problems)


def test_an_unfinished_preparation_says_so(tmp_path: Path) -> None:
    (tmp_path / UNFINISHED).touch()
    report = one(tmp_path)
    assert report.found == 1 and "stopped before its end" in report.problems[0]


def test_what_is_no_dataset_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file or folder"):
        verify(tmp_path / "missing")
    with pytest.raises(UserError, match="no prepared dataset"):
        verify(tmp_path)
    (tmp_path / "text").write_text("hello")
    with pytest.raises(UserError, match="neither a prepared dataset nor a file"):
        verify(tmp_path / "text")


# Files of others.


def foreign(path: Path, images: list[bytes], sides: list[tuple[int, int]]) -> Path:
    writer = beton.BetonWriter(path, len(images), beton.MIN_PAGE)
    writer.go_on()
    for image in images:
        writer.append(image)
    rows = np.zeros(len(images), INDEX_DTYPE)
    rows["size"] = [len(image) for image in images]
    rows["height"], rows["width"] = np.array(sides).T
    writer.finish(lambda: iter([rows]))
    return path


def test_a_beton_of_others(tmp_path: Path) -> None:
    good = jpeg(30, 40)
    cmyk = encode(Image.fromarray(smooth(30, 40, 1, 4), "CMYK"), "JPEG")
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encode(Image.fromarray(smooth(30, 40)), "JPEG", exif=exif)
    images = [good, good[:-200], cmyk, turned, jpeg(30, 41)]
    report = one(foreign(tmp_path / "x.beton", images, [(30, 40)] * 5))
    assert report.format == "beton" and report.found == 2
    assert "number 1): truncated JPEG" in report.problems[0]
    assert "is 41 x 30 pixels, but the file says 40 x 30" in report.problems[1]
    assert [line.split(",")[0] for line in report.warnings] == [
        "1 images are turned only by EXIF", "1 images are CMYK JPEGs"
    ]  # fmt: skip


def test_a_half_written_beton_of_others(tmp_path: Path) -> None:
    path = foreign(tmp_path / "x.beton", [jpeg()], [(24, 32)])
    content = bytearray(path.read_bytes())
    content[16:24] = struct.pack("<Q", 0)  # FFCV's writer fills this in last
    path.write_bytes(content)
    report = one(path)
    assert report.problems == [
        "half-written: its writer was stopped; write it again"
    ] and report.verdict == "damaged: 1 problem"  # fmt: skip


@pytest.mark.parametrize("module", [tfrecord, recordio, webdataset])
def test_record_files_of_others(tmp_path: Path, module: object) -> None:
    path = tmp_path / f"x{module.SUFFIX}"  # type: ignore[attr-defined]
    writer = module.Writer(path)  # type: ignore[attr-defined]
    for i in range(4):
        data = jpeg(30, 40, i)
        data = data[:600] + bytes(200) + data[800:] if i == 2 else data
        writer.append(i, Prepared(data, 30, 40, False, ""), i)
    writer.finish()
    report = one(path)
    assert report.found == 1 and "(number 2): damaged JPEG" in report.problems[0]
    path.write_bytes(path.read_bytes()[:-2600])
    assert "truncated" in one(path).problems[0]


def test_other_images_decode_too(tmp_path: Path) -> None:
    import tarfile

    png = encode(Image.fromarray(smooth(20, 30)), "PNG")
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for i, data in enumerate((png, png[:100] + bytes(20) + png[120:])):
            for name, content in ((f"{i}.png", data), (f"{i}.cls", b"3")):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    report = one(tmp_path / "x.tar")
    assert report.looked_at == 2 and report.found == 1 and "(number 1): damaged PNG" in (
        report.problems[0])  # fmt: skip
