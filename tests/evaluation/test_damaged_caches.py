"""One changed bit in a cache or a resume file is found, reported once, and made again."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

from data_tools.errors import UserError
from data_tools.open import open_store
from data_tools.prepare import prepare
from data_tools.safe_reading.checksum import BLOCK, sealed, unsealed
from data_tools.store import npy_header
from data_tools.subset import Subset
from fastmoco.evaluation import feature_cache
from fastmoco.evaluation.feature_cache import Extraction, features_of
from fastmoco.evaluation.resume_state import EpochState
from fastmoco.weights.encoders import load_encoder
from tests.support.deadlines import deadline
from tests.support.evaluation_parts import CPU, RECIPE, untrained
from tests.support.flips import FLIPS, caches, flipped

SHAPE = (300, 64)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.parametrize("kind", ["feature cache", "index cache", "journal", "resume state",
                                  "manifest", "index"])
def test_no_flipped_bit_is_taken_for_whole(kind, tmp_path):
    target = caches(tmp_path)[kind]
    whole = target.path.read_bytes()
    rng = np.random.default_rng(5)
    refused = 0
    for _ in range(FLIPS):
        target.path.write_bytes(flipped(whole, rng))
        got, lines = target.opened()
        if got is None:
            refused += 1
            assert len(lines) <= 1
        else:
            assert target.equal(got), "a changed bit was taken for whole"
    target.path.write_bytes(whole)
    got, lines = target.opened()
    assert target.equal(got) and not lines and refused > FLIPS * 0.9


def features(path, values):
    """A file as fill() writes it."""
    header = npy_header(np.dtype(np.float32), *values.shape)
    path.write_bytes(header + values.tobytes())
    crcs = feature_cache.block_crcs(path, len(header) + values.nbytes, 2)
    path.write_bytes(path.read_bytes() + crcs.tobytes())


@pytest.mark.parametrize("at", [0, 1, BLOCK - 1, BLOCK, BLOCK + 5, -1, -5, -12])
def test_every_block_of_the_features_is_checked(at, tmp_path):
    path, values = tmp_path / "a.npy", np.zeros((2 * BLOCK // 256 + 9, 64), np.float32)
    features(path, values)
    lines = []
    assert np.array_equal(feature_cache.opened(path, values.shape, lines.append), values)
    assert not lines
    with open(path, "r+b") as file:
        file.seek(at, 0 if at >= 0 else 2)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 4]))
    assert feature_cache.opened(path, values.shape, lines.append) is None
    assert lines == [f"{path}: damaged; the features are extracted again"]


def test_features_of_an_older_release_open_with_a_line(tmp_path):
    values, lines = np.ones(SHAPE, np.float32), []
    np.save(tmp_path / "a.npy", values)
    assert np.array_equal(feature_cache.opened(tmp_path / "a.npy", SHAPE, lines.append), values)
    assert len(lines) == 1 and "without checksums" in lines[0]
    for size in (50, 1000, len((tmp_path / "a.npy").read_bytes()) - 1):
        (tmp_path / "b.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:size])
        assert feature_cache.opened(tmp_path / "b.npy", SHAPE, lines.append) is None
        assert "b.npy: damaged" in lines[-1]


def test_a_damaged_index_is_said_once_and_made_again(tmp_path):
    lines = []
    (tmp_path / "source").mkdir()
    for i in range(3):
        Image.new("RGB", (9, 7), (i, 0, 0)).save(tmp_path / "source" / f"{i}.png")
    prepare(tmp_path / "source", tmp_path / "out", formats=["webdataset"])
    path = tmp_path / "out" / "train-00000.tar"  # by itself a file of others
    whole = open_store(path, say=lines.append)
    (kept,) = (tmp_path / "cache" / "fastmoco" / "index").iterdir()
    content = bytearray(kept.read_bytes())
    content[700] ^= 1
    kept.write_bytes(content)
    for _ in range(2):
        again = open_store(path, say=lines.append)
        assert np.array_equal(again.sizes, whole.sizes) and len(again) == 3
    assert lines == [f"{kept}: damaged; {path} is indexed again"]


def test_damaged_features_are_said_once_and_extracted_again(store):
    lines = []
    how = Extraction(CPU, say=lines.append)
    encoder, few = load_encoder(untrained(), CPU), Subset(store, np.arange(6))
    whole = features_of(encoder, few, RECIPE, how).clone()
    path = feature_cache.place(encoder, few, RECIPE, how.engine)
    content = bytearray(path.read_bytes())
    content[-200] ^= 1
    path.write_bytes(content)
    for _ in range(2):
        assert torch.equal(features_of(encoder, few, RECIPE, how), whole)
    assert lines == [f"{path}: damaged; the features are extracted again"]


def test_a_seal_is_of_its_content_and_its_name():
    data = sealed(b"content", "a")
    assert unsealed(data, "a") == b"content" and unsealed(data, "b") is None
    assert unsealed(data + b"x", "a") is None and unsealed(b"", "a") is None
    assert unsealed(data[:-1], "a") is None


def test_a_state_of_an_older_release_goes_on_with_a_line():
    state, lines = {"epoch": 3, "weight": torch.ones(5)}, []
    kept = EpochState("x", 0.0)
    kept.save(state)
    content = unsealed(kept.path.read_bytes(), kept.path.stem)
    kept.path.unlink()
    old = kept.path.with_suffix(".pt")
    old.write_bytes(content)
    got = kept.load(torch.device("cpu"), lines.append)
    assert got["epoch"] == 3 and torch.equal(got["weight"], torch.ones(5))
    assert len(lines) == 1 and "without checksums" in lines[0]
    old.write_bytes(content[:100])
    assert kept.load(torch.device("cpu"), lines.append) is None and "starts over" in lines[1]
    kept.drop()
    assert not old.exists()


def test_a_pipe_in_the_place_of_a_cache_is_replaced_and_a_folder_is_named(store):
    lines = []
    how = Extraction(CPU, say=lines.append)
    encoder, few = load_encoder(untrained(), CPU), Subset(store, np.arange(6))
    whole = features_of(encoder, few, RECIPE, how).clone()
    path = feature_cache.place(encoder, few, RECIPE, how.engine)
    path.unlink()
    os.mkfifo(path)
    with deadline(20):
        assert torch.equal(features_of(encoder, few, RECIPE, how), whole)
    assert lines == [
        f"{path}: can't be read (a pipe, not a file); the features are extracted again"
    ]
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError, match=f"{path.name}: a folder, not a file; remove it, or use"):
        features_of(encoder, few, RECIPE, how)
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["pipe", "folder"])
def test_what_is_no_file_in_the_place_of_a_resume_state_is_named(make):
    kept = EpochState("x", 0.0)
    kept.path.parent.mkdir(parents=True)
    make(kept.path)
    with deadline(20), pytest.raises(UserError, match="state: not a plain file; remove it"):
        kept.load(CPU)
