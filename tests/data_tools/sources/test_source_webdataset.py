"""WebDataset shards as a source."""

import bz2
import gzip
import io
import json
import tarfile
from pathlib import Path

import pytest

from data_tools.errors import UserError
from data_tools.sources import webdataset
from data_tools.sources.location import Location
from data_tools.sources.registry import open_source
from data_tools.sources.source import Source
from tests.support.made_files.sample_images import jpeg

IMAGES = [jpeg(20 + i, 30, seed=i) for i in range(6)]


def shard(path: Path, members: list[tuple[str, bytes]], mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def samples(start: int, stop: int, labels: list | None = None) -> list[tuple[str, bytes]]:
    rows = []
    for i in range(start, stop):
        rows.append((f"s{i}.jpg", IMAGES[i]))
        rows.append((f"s{i}.cls", str(labels[i] if labels else i % 3).encode()))
    return rows


def contents(source: Source) -> list[tuple[str, bytes, int]]:
    found = [
        (key, bytes(source.read(i)), int(source.labels[i])) for i, key in enumerate(source.keys)
    ]
    assert len({key for key, _, _ in found}) == len(found)
    return found


@pytest.mark.parametrize("end", [".tar", ".tar.gz", ".tar.bz2", ".tar.xz"])
def test_shards_of_a_folder_a_glob_and_braces_are_one_source(tmp_path: Path, end: str) -> None:
    mode = "w" if end == ".tar" else f"w:{end[5:]}"
    for n in range(3):
        shard(tmp_path / f"x-{n:03d}{end}", samples(2 * n, 2 * n + 2), mode)
    want = [(f"x-{i // 2:03d}/s{i}", IMAGES[i], i % 3) for i in range(6)]
    for path in ("", f"/x-*{end}", f"/x-{{000..002}}{end}"):
        source = open_source(f"{tmp_path}{path}")
        assert contents(source) == want
        assert source.kind == "WebDataset, 3 shards" and source.classes == ["0", "1", "2"]
        assert any("unpacked" in note for note in source.notes) == (end != ".tar")
        source.close()


def test_one_shard_is_told_from_a_tar_of_folders(tmp_path: Path) -> None:
    one = shard(tmp_path / "one.tar", samples(0, 2))
    packed = shard(tmp_path / "two.tar.gz", samples(0, 2), "w:gz")
    plain = shard(tmp_path / "plain.tar", [("a/1.jpg", IMAGES[0]), ("b/2.jpg", IMAGES[1])])
    assert webdataset.recognises(Location(one)) and webdataset.recognises(Location(packed))
    assert not webdataset.recognises(Location(plain))
    assert open_source(plain).kind == "tar of images" and open_source(plain).classes == ["a", "b"]
    assert open_source(one).kind == "WebDataset, 1 shard"


def test_labels_of_names_json_and_none(tmp_path: Path) -> None:
    names = shard(tmp_path / "names.tar", samples(0, 3, ["dog", "cat", "dog"]))
    assert open_source(names).classes == ["cat", "dog"]
    assert open_source(names).labels.tolist() == [1, 0, 1]
    rows = [
        ("1.png", IMAGES[0]), ("1.json", json.dumps({"label": 7}).encode()),
        ("2.jpeg", IMAGES[1]), ("2.json", b"[broken"),
        ("3.txt", b"no image"),
        ("4.jpg", IMAGES[2]), ("4.png", IMAGES[3]), ("4.json", b'{"class": 2}'),
        ("4.jpg", IMAGES[4]),
        ("5.jpg", IMAGES[5]), ("4.jpg", IMAGES[4]),
    ]
    source = open_source(shard(tmp_path / "odd.tar", rows))
    assert [key for key, _, _ in contents(source)] == [
        "odd/1", "odd/2", "odd/4", "odd/4~2", "odd/5", "odd/4~3"]
    assert source.labels.tolist() == [7, -1, 2, -1, -1, -1] and source.read(2) == IMAGES[2]
    assert source.read(3) == IMAGES[4]
    text = "\n".join(source.notes)
    assert "1 samples without an image" in text and "several images" in text
    assert "1 samples have the same key as the one before" in text


def test_tars_of_synsets_are_classes(tmp_path: Path) -> None:
    for n, name in enumerate(["n02000000", "n01000000"]):
        shard(tmp_path / f"{name}.tar", [(f"{name}_{n}.JPEG", IMAGES[n])])
    source = open_source(tmp_path)
    assert source.classes == ["n01000000", "n02000000"] and source.labels.tolist() == [0, 1]


def test_many_packed_shards_keep_two(tmp_path: Path) -> None:
    for n in range(5):
        shard(tmp_path / f"{n}.tar.gz", samples(n, n + 1), "w:gz")
    source = open_source(tmp_path)
    assert isinstance(source, webdataset.WebDatasetSource)
    for i in (0, 1, 2, 3, 4, 0, 3):
        assert source.read(i) == IMAGES[i]
        assert len(source._unpacked) <= 2


def test_remote_shards() -> None:
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in samples(0, 3):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    memory.pipe("/wds/a-0.tar", buffer.getvalue())
    memory.pipe("/wds/a-1.tar.gz", gzip.compress(buffer.getvalue()))
    source = open_source("memory://wds")
    assert [data for _, data, _ in contents(source)] == IMAGES[:3] * 2
    assert len(open_source("memory://wds/a-*").keys) == 6
    memory.rm("/wds", recursive=True)


def test_what_is_damaged_or_holds_no_image_is_refused(tmp_path: Path) -> None:
    good = shard(tmp_path / "x-0.tar", samples(0, 2))
    bad = tmp_path / "x-1.tar"
    for data in (b"", b"no tar" * 200, good.read_bytes()[:-9000], bz2.compress(b"x" * 9000),
                 gzip.compress(good.read_bytes())[:-20]):
        bad.write_bytes(data)
        with pytest.raises(UserError, match="x-1.tar"):
            open_source(tmp_path)
    bad.unlink()
    shard(good, [("1.txt", b"a"), ("1.cls", b"1")])
    with pytest.raises(UserError, match="no sample of it has an image"):
        webdataset.open(Location(good))


def test_cls_files_behind_all_images_are_named(tmp_path: Path) -> None:
    members = samples(0, 4, [0, 1, 0, 1])
    members.sort(key=lambda member: member[0].endswith(".cls"))
    apart = shard(tmp_path / "x.tar", members)
    (tmp_path / "shards").mkdir()
    shard(tmp_path / "shards/0.tar", members)
    for place in (apart, tmp_path / "shards"):
        source = open_source(place)
        assert any(note.startswith("warning: 4 .cls files are not ") for note in source.notes)
    assert ".cls files" not in " ".join(open_source(shard(
        tmp_path / "y.tar", samples(0, 4, [0, 1, 0, 1]))).notes)


def test_nan_and_infinity_in_cls_are_named(tmp_path: Path) -> None:
    source = open_source(shard(tmp_path / "x.tar", samples(0, 3, ["nan", "cat", "inf"])))
    assert [name in note for name, note in zip(('"nan"', '"inf"'), source.notes, strict=True)] == [
        True, True]
