"""Opening a prepared dataset: whole, damaged, pickled, and with the official loader."""

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data_tools.errors import UserError
from data_tools.manifest import MANIFEST, read_manifest
from data_tools.open import open_store
from data_tools.policy import Policy
from data_tools.prepare import prepare
from tests.support.folders import snapshot
from tests.support.made_files.sample_images import encode, jpeg, smooth

Write = Callable[..., Path]
DATA = "train.beton"


def test_opening_what_is_broken(write_tree: Write, tmp_path: Path, pets: dict) -> None:
    folder, out = write_tree(pets), tmp_path / "out"
    prepare(folder, out)
    whole = snapshot(out)

    def refused(match: str, path: Path = out) -> None:
        with pytest.raises(UserError, match=match) as caught:
            open_store(path)
        assert "\n" not in str(caught.value) and str(path) in str(caught.value)
        for name, data in whole.items():
            (out / name).write_bytes(data)

    (out / DATA).write_bytes(whole[DATA][:-1])
    refused(f"{DATA}: truncated")
    (out / "index.npy").unlink()
    refused("index.npy: missing")
    (out / "index.npy").write_bytes(bytes(len(whole["index.npy"])))
    refused("index.npy: damaged")
    (out / "index.npy").write_bytes(whole["index.npy"].replace(b"<i4", b"<u4"))
    refused("index.npy: damaged")
    for content in ("{", "[]", '{"kind": "other"}'):
        (out / MANIFEST).write_text(content)
        refused("damaged|not written by prep")
    (out / MANIFEST).write_text(whole[MANIFEST].decode().replace('"version": 2', '"version": 9'))
    refused("version 9")
    (out / MANIFEST).write_text(whole[MANIFEST].decode().replace('"samples"', '"simples"'))
    refused("damaged")
    refused("not a prepared dataset", folder)
    refused("neither", folder / "cat/0.jpg")
    refused("no such", tmp_path / "missing")
    assert len(open_store(out)) == 8


@settings(max_examples=200, database=None, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_any_damage_of_the_index_is_one_line_or_can_be_read(
    tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    base = tmp_path_factory.getbasetemp() / "index"
    if not base.exists():
        for i in range(4):
            path = base / "source" / f"{i}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(jpeg(seed=i))
        prepare(base / "source", base / "out", Policy(shard_size=0.003), ["tfrecord"])
        shutil.copy(base / "out" / "index.npy", base / "index.npy")
    content = bytearray((base / "index.npy").read_bytes())
    rng = np.random.default_rng(seed)
    for at in rng.integers(0, len(content), rng.integers(1, 5)):
        content[at] = rng.choice([0, 255, 128, rng.integers(256)])
    (base / "out" / "index.npy").write_bytes(content)
    try:
        store = open_store(base / "out")
    except UserError as error:
        assert "\n" not in str(error) and str(base / "out") in str(error)
        return
    assert [len(store.encoded(i)) for i in range(4)] == store.lengths.tolist()


def test_keys_survive_any_name(write_tree: Write, tmp_path: Path) -> None:
    names = ["a\nb.jpg", "a\\nb.jpg", "a\\\n\\.jpg", "é.jpg", "z\udcff.jpg"]
    folder = write_tree({"x.jpg": jpeg(), "cut.jpg": b"\xff\xd8\xff"})
    for name in names:
        Path(os.fsdecode(os.fsencode(folder / name))).write_bytes(jpeg())
    prepare(folder, tmp_path / "out")
    store = open_store(tmp_path / "out")
    assert [store.key(i) for i in range(6)] == sorted([*names, "x.jpg"])


def test_a_store_pickles_as_its_path(write_tree: Write, tmp_path: Path, pets: dict) -> None:
    prepare(write_tree(pets), tmp_path / "out")
    for path in (tmp_path / "out", tmp_path / "out" / DATA):
        store = open_store(path)
        stored = pickle.dumps(store)
        assert len(stored) < 1000
        copy = pickle.loads(stored)
        assert copy.fingerprint == store.fingerprint
        assert (copy.encoded(3) == store.encoded(3)).all()


def test_the_fingerprint_is_of_the_data(write_tree: Write, pack: Write, tmp_path: Path) -> None:
    folder = write_tree({"a/1.jpg": jpeg(), "b/1.jpg": jpeg(seed=1)})
    prepare(folder, tmp_path / "1")
    prepare(pack(folder), tmp_path / "2")
    (folder / "b/1.jpg").write_bytes(jpeg(seed=2))
    prepare(folder, tmp_path / "3")
    prints = [open_store(tmp_path / name).fingerprint for name in "123"]
    assert prints[0] == prints[1] != prints[2]
    assert prints[0] == read_manifest(tmp_path / "1").fingerprint


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("os_cache", [True, False])
def test_the_official_loader_reads_a_dataset(
    write_tree: Write, tmp_path: Path, os_cache: bool
) -> None:
    loader = pytest.importorskip("ffcv.loader", exc_type=ImportError)
    from ffcv.fields.basics import IntDecoder
    from ffcv.fields.rgb_image import SimpleRGBImageDecoder

    files = {f"{'ab'[i % 2]}/{i:02}.jpg": jpeg(40, 56, i) for i in range(11)}
    files |= {f"c/{i}.png": encode(Image.fromarray(smooth(40, 56, i)), "PNG") for i in range(4)}
    prepare(write_tree(files), tmp_path / "out", Policy(quality=98))
    store = open_store(tmp_path / "out")
    batches = loader.Loader(
        str(tmp_path / "out" / DATA),
        batch_size=4,
        num_workers=1,
        order=loader.OrderOption.SEQUENTIAL,
        os_cache=os_cache,
        drop_last=False,
        pipelines={"image": [SimpleRGBImageDecoder()], "label": [IntDecoder()]},
    )
    seen = 0
    for images, labels in batches:
        for image, label in zip(images, labels, strict=True):
            assert label[0] == store.labels[seen]
            source = smooth(40, 56, int(store.key(seen)[2:].split(".")[0]))
            # FFCV decodes with the fast DCT.
            assert np.abs(np.asarray(image).astype(int) - source).mean() < 2
            seen += 1
    assert seen == 15
