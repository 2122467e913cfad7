"""Two doors, one dataset: prep and open_store give the same ids, keys, pixels, labels and classes.

Each odd shard says what is right, and both doors are held to it: prep as a source and prepared into
every format, and open_store, which verify, inspect and training open a shard with.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from data_tools.errors import UserError
from data_tools.formats.registry import format_of
from data_tools.inspection.verify import verify
from data_tools.open import open_store
from data_tools.policy import Policy
from data_tools.prepare import prepare
from data_tools.sources.registry import open_source
from data_tools.store import RAW, MappedStore

FORMATS = ("beton", "tfrecord", "recordio", "webdataset")
Members = Sequence[tuple[str, bytes]]


def picture(height: int, form: str = "JPEG") -> bytes:
    ramp = np.arange(height * 24 * 3, dtype=np.uint32).reshape(height, 24, 3) % 251
    out = io.BytesIO()
    Image.fromarray(ramp.astype(np.uint8)).save(out, form, quality=90)
    return out.getvalue()


# Told apart by their heights.
A, B, C, D = (picture(height) for height in (8, 10, 12, 14))
MASK = picture(6, "PNG")


def tar(members: Members, form: int = tarfile.PAX_FORMAT, links: Members = ()) -> bytes:
    """A tar; links: (name, its target), hard ones, or symbolic for a target with "->" in front."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as file:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
        for name, target in links:
            info = tarfile.TarInfo(name)
            symbolic = target.startswith(b"->")
            info.type = tarfile.SYMTYPE if symbolic else tarfile.LNKTYPE
            info.linkname = target.decode().removeprefix("->")
            file.addfile(info)
    return out.getvalue()


class Case(NamedTuple):
    data: bytes
    samples: list[tuple[str, bytes, int]]
    """(key, image, label)"""
    classes: list[str]


def numbered(count: int) -> list[str]:
    return [str(i) for i in range(count)]


LONG = "d" * 90 + "/" + "e" * 90
PLAIN = [("a.jpg", A), ("a.cls", b"1"), ("b.jpg", B), ("b.cls", b"0")]
BOTH = [("a", A, 1), ("b", B, 0)]
MORE = [("c.jpg", C), ("c.cls", b"2")]
CASES = {
    "a mask before the picture": Case(
        tar([("b.seg.png", MASK), ("b.jpg", A), ("b.cls", b"3"), ("c.jpg", B), ("c.mask.png", MASK),
             ("c.cls", b"0")]),
        [("b", A, 3), ("c", B, 0)], numbered(4)),
    "a png mask of the jpg's name": Case(
        tar([("b.png", MASK), ("b.jpg", A), ("b.cls", b"0")]), [("b", A, 0)], ["0"]),
    "large numbers as labels": Case(
        tar([("a.jpg", A), ("a.cls", b"70000"), ("b.jpg", B), ("b.cls", b"5")]),
        [("a", A, 1), ("b", B, 0)], ["5", "70000"]),
    "numbers below zero": Case(
        tar([("a.jpg", A), ("a.cls", b"-5"), ("b.jpg", B), ("b.cls", b"-1"), ("c.jpg", C),
             ("c.cls", b"2")]),
        [("a", A, 0), ("b", B, -1), ("c", C, 1)], ["-5", "2"]),
    "whole numbers written as floats": Case(
        tar([("a.jpg", A), ("a.cls", b"2.0"), ("b.jpg", B), ("b.json", b'{"label": 1.0}'),
             ("c.jpg", C), ("c.json", b'{"label": NaN}')]),
        [("a", A, 2), ("b", B, 1), ("c", C, -1)], numbered(3)),
    "names": Case(
        tar([("a.jpg", A), ("a.cls", "über".encode()), ("b.jpg", B), ("b.cls", b"7"),
             ("c.jpg", C), ("c.cls", b"cat\0\n"), ("d.jpg", D),
             ("d.json", b'{"cls": "a\\ud800"}')]),
        [("a", A, 3), ("b", B, 0), ("c", C, 2), ("d", D, 1)], ["7", "a?", "cat", "über"]),
    "hidden folders and files": Case(
        tar([("x/a.jpg", A), ("x/a.cls", b"0"), (".hid/c.jpg", C), (".hid/c.cls", b"1"),
             ("__MACOSX/a.jpg", C), ("x/._a.jpg", C), ("./y/b.jpg", B), ("y//b.cls", b"1")]),
        [("x/a", A, 0), ("y/b", B, 1)], ["0", "1"]),
    "an empty .cls beside a json label": Case(
        tar([("a.jpg", A), ("a.cls", b" \n"), ("a.json", b'{"label": 4}'), ("b.cls", b""),
             ("b.jpg", B)]),
        [("a", A, 4), ("b", B, -1)], numbered(5)),
    "a key twice": Case(
        tar([("a.jpg", A), ("a.jpg", B), ("a.cls", b"1"), ("b.jpg", C), ("b.cls", b"0"),
             ("a.jpg", D)]),
        [("a", A, -1), ("a~2", B, 1), ("b", C, 0), ("a~3", D, -1)], ["0", "1"]),
    "capital suffixes and CRLF": Case(
        tar([("a.JPG", A), ("a.CLS", b"1\r\n"), ("b.Jpeg", B), ("b.cls", b"\xef\xbb\xbf0\r\n")]),
        BOTH, ["0", "1"]),
    "suffixes of every table": Case(
        tar([("a.jfif", A), ("a.cls", b"1"), ("b.pnm", B), ("b.cls", b"0")]), BOTH, ["0", "1"]),
    "pax names": Case(
        tar([(f"{'ü' * 120} x\n1.jpg", A), (f"{'ü' * 120} x\n1.cls", b"0")]),
        [(f"{'ü' * 120} x\n1", A, 0)], ["0"]),
    "GNU names": Case(
        tar([(f"{LONG}/1.jpg", A), (f"{LONG}/1.cls", b"0")], tarfile.GNU_FORMAT),
        [(f"{LONG}/1", A, 0)], ["0"]),
    "names that are not UTF-8": Case(
        tar([("\udcfc.jpg", A), ("\udcfc.cls", b"0")], tarfile.GNU_FORMAT),
        [("\udcfc", A, 0)], ["0"]),
    "names that lead elsewhere": Case(
        tar([("/etc/a.jpg", A), ("/etc/a.cls", b"1"), ("../up.jpg", B), ("../up.cls", b"2"),
             ("z/b.jpg", C), ("z/b.cls", b"0")]),
        [("etc/a", A, 1), ("z/b", C, 0)], ["0", "1"]),
    "links": Case(
        tar([("a.jpg", A), ("a.cls", b"1"), ("f/b.jpg", B), ("f/b.cls", b"0")],
            links=[("f/c.jpg", b"f/b.jpg"), ("f/c.cls", b"->../a.cls"), ("f/d.jpg", b"->c.jpg"),
                   ("f/e.jpg", b"/etc/passwd"), ("f/e.cls", b"a.cls"), ("f/g.jpg", b"f/g.jpg")]),
        [("a", A, 1), ("f/b", B, 0), ("f/c", B, 1), ("f/d", B, -1)], ["0", "1"]),
    "two tars joined": Case(tar(PLAIN) + tar(MORE), [*BOTH, ("c", C, 2)], numbered(3)),
    "three joined, without padding, the first cut at its end mark": Case(
        tar(PLAIN).rstrip(b"\0").ljust(-(-len(tar(PLAIN).rstrip(b"\0")) // 512) * 512, b"\0")
        + tar(MORE).rstrip(b"\0").ljust(4096, b"\0") + bytes(512) + tar([("d.jpg", D)]),
        [*BOTH, ("c", C, 2), ("d", D, -1)], numbered(3)),
    "padded with zeros": Case(tar(PLAIN) + bytes(1 << 20), BOTH, ["0", "1"]),
    "the rest of the last record undefined": Case(
        tar(PLAIN).rstrip(b"\0") + bytes(3000) + b"left over", BOTH, ["0", "1"]),
    "a few bytes behind its end": Case(tar(PLAIN) + b"\r\n" * 200, BOTH, ["0", "1"]),
    "dotted: dates": Case(
        tar([(f"22.{i:02d}.{end}", data) for i, image in ((5, A), (6, B), (7, C))
             for end, data in (("cls", b"%d" % (i % 2)), ("jpg", image))]),
        [("22.05", A, 1), ("22.06", B, 0), ("22.07", C, 1)], ["0", "1"]),
    "dotted: one image a day": Case(
        tar([("22.05.jpg", A), ("22.05.cls", b"1"), ("23.05.jpg", B), ("23.05.cls", b"0")]),
        [("22.05", A, 1), ("23.05", B, 0)], ["0", "1"]),
    "dotted: versions, with the plain name too": Case(
        tar([("img_v1.jpg", A), ("img_v1.cls", b"0"), ("img_v1.2.jpg", B), ("img_v1.2.cls", b"1"),
             ("img_v1.3.jpg", C)]),
        [("img_v1", A, 0), ("img_v1.2", B, 1), ("img_v1.3", C, -1)], ["0", "1"]),
    "dotted: numbers": Case(
        tar([("0.5_0.7.jpg", A), ("0.5_0.7.json", b'{"label": 2}'), ("0.5_0.8.jpg", B),
             ("0.5_0.8.json", b'{"label": 0}'), ("1.5_0.7.jpg", C), ("1.5_0.7.json", b"{}")]),
        [("0.5_0.7", A, 2), ("0.5_0.8", B, 0), ("1.5_0.7", C, -1)], numbered(3)),
    "dotted: words, folders with dots": Case(
        tar([("v1.2/john.smith.jpg", A), ("v1.2/john.smith.cls", b"x"), ("v1.2/john.doe.jpg", B),
             ("v1.2/john.doe.cls", b"y"), ("v1.3/ann.jpg", C), ("v1.3/ann.cls", b"x")]),
        [("v1.2/john.smith", A, 0), ("v1.2/john.doe", B, 1), ("v1.3/ann", C, 0)], ["x", "y"]),
    "dotted: a thousand of one key": Case(
        tar([(f"2022.{i:04d}.{end}", data) for i in range(400)
             for end, data in (("jpg", (A, B)[i % 2]), ("cls", b"%d" % (i % 3)))]),
        [(f"2022.{i:04d}", (A, B)[i % 2], i % 3) for i in range(400)], numbered(3)),
    "dotted: names that end like a mask's": Case(
        tar([("my.mask.jpg", A), ("my.mask.cls", b"1"), ("my.depth.01.jpg", B),
             ("my.depth.01.cls", b"0"), ("my.depth.02.jpg", C)]),
        [("my.mask", A, 1), ("my.depth.01", B, 0), ("my.depth.02", C, -1)], ["0", "1"]),
    "masks with files of their own": Case(
        tar([("b.jpg", A), ("b.cls", b"1"), ("b.seg.png", MASK), ("b.seg.json", b"{}"),
             ("b.left_mask1.png", MASK), ("c.rgb.jpg", B), ("c.seg.png", MASK), ("c.cls", b"0")]),
        [("b", A, 1), ("c", B, 0)], ["0", "1"]),
    "several views with one label": Case(
        tar([("a.left.jpg", A), ("a.right.jpg", B), ("a.cls", b"1"), ("b.left.jpg", C),
             ("b.right.jpg", D), ("b.cls", b"0")]),
        [("a", A, 1), ("b", C, 0)], ["0", "1"]),
}


def decoded(store: MappedStore) -> list[np.ndarray]:
    images = []
    for i in range(len(store)):
        data, (height, width) = store.encoded(i), store.sizes[i].tolist()
        raw = store.kinds[i] == RAW
        images.append(data.reshape(height, width, 3) if raw
                      else np.asarray(Image.open(io.BytesIO(data.tobytes())).convert("RGB")))
    return images


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.parametrize("name", CASES)
def test_an_odd_shard_is_the_same_dataset_through_both_doors(tmp_path: Path, name: str) -> None:
    data, samples, classes = CASES[name]
    path = tmp_path / "x.tar"
    path.write_bytes(data)
    keys = [f"x/{key}" for key, _, _ in samples]
    labels = [label for _, _, label in samples]

    source = open_source(path)
    assert source.kind == "WebDataset, 1 shard"
    assert list(source.keys) == keys
    assert [source.read(i) for i in range(len(keys))] == [image for _, image, _ in samples]
    assert source.labels.tolist() == labels and source.classes == classes
    source.close()

    for _ in range(2):  # the second time from the cached index
        store = open_store(path)
        images = [store.encoded(i).tobytes() for i in range(len(store))]
        assert images == [image for _, image, _ in samples]
        assert store.labels.tolist() == labels and store.classes == classes
    assert not verify(path)[0].found
    pixels = decoded(store)

    prepare(path, tmp_path / "out", Policy(workers=1), FORMATS)
    for form in FORMATS:
        prepared = open_store(tmp_path / "out" / form)
        assert [prepared.key(i) for i in range(len(prepared))] == keys
        assert prepared.labels.tolist() == labels and prepared.classes == classes
        for one, other in zip(decoded(prepared), pixels, strict=True):
            assert np.array_equal(one, other)


def test_a_set_of_shards_is_its_files_one_after_another(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    names = ("large numbers as labels", "dotted: dates", "links", "two tars joined", "a key twice")
    for i, name in enumerate(names):
        (folder / f"{i}.tar").write_bytes(CASES[name].data)
    source = open_source(folder)
    at = 0
    for i, name in enumerate(names):
        store = open_store(folder / f"{i}.tar")
        mine = range(at, at + len(store))
        assert [source.read(j) for j in mine] == [
            store.encoded(j).tobytes() for j in range(len(store))]
        assert [source.keys[j] for j in mine] == [f"{i}/{key}" for key, _, _ in CASES[name].samples]
        named = [source.classes[n] if n >= 0 else "" for n in source.labels[mine].tolist()]
        assert named == [store.classes[n] if n >= 0 else "" for n in store.labels.tolist()]
        at += len(store)
    assert at == len(source.keys)


def test_a_shard_named_by_a_synset_is_its_class(tmp_path: Path) -> None:
    path = tmp_path / "n01440764.tar"
    path.write_bytes(tar([("1.jpg", A), ("1.txt", b"a tench")]))
    for found in (open_source(path), open_store(path)):
        assert found.labels.tolist() == [0] and found.classes == ["n01440764"]


@pytest.mark.parametrize("members", [
    [("cat/1.jpg", A), ("cat/1.xml", b"<box>"), ("dog/2.jpg", B), ("dog/2.xml", b"<box>")],
    [("a/v1.2.jpg", A), ("a/v1.3.jpg", B), ("b/x.jpg", C)],
])  # fmt: skip
def test_a_tar_of_folders_is_no_webdataset_at_either_door(tmp_path: Path, members: Members) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(tar(members))
    assert open_source(path).kind == "tar of images" and format_of(path) is None
    with pytest.raises(UserError, match="run prep on it"):
        open_store(path)


@pytest.mark.parametrize("data, match", [
    (tar(PLAIN) + b"x" * 20_000, "20,000 bytes that are no tar follow its end, from byte"),
    (tar(PLAIN)[: tar(PLAIN).index(b"b.jpg") + 700], "truncated: its member at byte"),
    (tar(PLAIN)[: tar(PLAIN).index(b"b.cls") + 100], "truncated: the header at byte .* cut off"),
    (tar(PLAIN).replace(b"b.jpg", b"c.jpg"), "damaged: no tar header at byte"),
    (tar(PLAIN)[:-512] + tar(MORE, tarfile.GNU_FORMAT)[512:], "follow its end"),
])  # fmt: skip
def test_both_doors_refuse_alike(tmp_path: Path, data: bytes, match: str) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(data)
    for door in (open_source, open_store):
        with pytest.raises(UserError, match=match):
            door(path)


def test_an_ordinary_shard_keeps_the_fingerprint_that_older_versions_gave_it(
    tmp_path: Path
) -> None:
    """Their runs and half-prepared datasets go on; a shard that is now read otherwise is new."""
    path = tmp_path / "x.tar"
    for name, same in (("a", True), ("hidden folders and files", False), ("links", False),
                       ("dotted: dates", False), ("two tars joined", False)):
        path.write_bytes(CASES[name].data if name in CASES else tar(PLAIN))
        status = path.stat()
        former = f"webdataset {path.resolve()} {status.st_size} {status.st_mtime_ns}"
        assert (open_store(path).fingerprint == sha256(former.encode()).hexdigest()) == same, name
    image = b"\xff\xd8\xff\xe0" + bytes(100)
    for members, digest, same in (
        ([("a.jpg", image), ("a.cls", b"1"), ("b.jpg", image), ("b.json", b'{"label": 0}')],
         "8e88c21c", True),
        ([("a/1.jpg", image), ("b/2.jpg", image)], "0dd06b6b", True),
        ([("b.seg.png", image), ("b.jpg", image), ("b.cls", b"3")], "b7a7a471", False),
    ):
        path.write_bytes(tar(members))
        assert open_source(path).fingerprint.startswith(digest) == same


def test_what_is_odd_is_said(tmp_path: Path) -> None:
    members = [("b.seg.png", MASK), ("b.jpg", A), ("b.cls", b"3"), ("c.jpg", C), ("c.jpg", D),
               ("22.1.jpg", A), ("22.1.cls", b"1"), ("22.2.jpg", B), ("t.txt", b"no image")]
    path = tmp_path / "x.tar"
    path.write_bytes(tar(members, links=[("l.jpg", b"nowhere")]) + tar(MORE))
    notes = open_source(path).notes
    for part in ("2 samples are told apart by the last dot", "22.1.jpg", "1 samples have the key",
                 "1 samples with several images", "1 samples without an image", "1 links to",
                 "2 tars joined"):
        assert sum(part in note for note in notes) == 1, part
    assert set(notes) <= set(verify(path)[0].warnings)
