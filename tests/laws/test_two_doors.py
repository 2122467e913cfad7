"""Two doors, one dataset: prep and open_store give the same ids, keys, pixels, labels and classes.

Each odd shard has its right samples. Both doors must give them: prep (as a source, and prepared
into every format) and open_store, which verify, inspect and training use.
"""

from __future__ import annotations

import io
import tarfile
from hashlib import sha256
from pathlib import Path

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
from tests.support.made_files.odd_shards import CASES, MASK, MORE, PLAIN, A, B, C, D, Members, tar

FORMATS = ("beton", "tfrecord", "recordio", "webdataset")


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
    """Runs and half-done preps of it can continue; a shard that is now read otherwise is new."""
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
    for part in ("by the last dot", "22.1.jpg", "1 samples have the same",
                 "1 samples with several images", "1 samples without an image", "1 links to",
                 "2 tars joined"):
        assert sum(part in note for note in notes) == 1, part
    assert set(notes) <= set(verify(path)[0].warnings)
