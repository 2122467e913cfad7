"""Orders in blocks, and the thread that reads them ahead."""

import dataclasses
import threading
import time

import numpy as np
import pytest
import torch

from data_tools.machine import memory
from data_tools.open import open_store
from data_tools.policy import Policy
from data_tools.prepare import prepare
from fastmoco import draws
from fastmoco.loading import read_ahead
from fastmoco.loading import train_loader as loading
from fastmoco.loading.engines.threads import ThreadsEngine
from fastmoco.loading.read_ahead import ReadAhead, pick_order, runs
from fastmoco.loading.train_loader import TrainLoader
from fastmoco.run_options import RunOptions
from fastmoco.training.train import train
from fastmoco.weights import checkpoint
from tests.support.loaded_batches import CPU, RECIPE, assert_same, copy


@pytest.fixture
def small_blocks(monkeypatch, store):
    """Blocks of about four images, four blocks per group: six groups of sixteen in 96 images."""
    mean = store.lengths.mean()
    monkeypatch.setattr(read_ahead, "BLOCK_BYTES", int(4 * mean))
    monkeypatch.setattr(read_ahead, "MIXED_BYTES", int(16 * mean))
    monkeypatch.setattr(read_ahead, "GAP", 0)
    assert read_ahead.block_size(store) == (4, 4)


@pytest.mark.parametrize(
    ("n", "block", "together"), [(96, 4, 4), (97, 4, 3), (10, 1, 1), (7, 9, 2)]
)
def test_blocks_are_mixed_within_their_part_alone(n, block, together):
    order = draws.block_permutation(5, 1, n, block, together)
    assert sorted(order) == list(range(n))
    at = 0
    while at < n:  # each part is made of whole blocks, `together` of them
        blocks = list(dict.fromkeys((order[at:] // block).tolist()))  # as they come
        inside = set(blocks[:together])
        members = [i for i in range(n) if i // block in inside]
        assert sorted(order[at : at + len(members)]) == members
        at += len(members)
    assert (order != draws.block_permutation(5, 2, n, block, together)).any()
    assert (order == draws.block_permutation(5, 1, n, block, together)).all()


def test_blocks_and_samples_lie_in_no_order():
    order = draws.block_permutation(0, 0, 4096, 16, 16)
    inside = order[:256]
    assert abs(np.corrcoef(np.arange(256), inside)[0, 1]) < 0.2
    parts = order.reshape(16, 256).mean(axis=1)
    assert abs(np.corrcoef(np.arange(16), parts)[0, 1]) < 0.6
    assert len(set(inside // 16)) == 16
    assert np.mean(inside[1:] // 16 == inside[:-1] // 16) < 0.2  # not block after block


def test_auto_looks_at_the_data_and_the_memory(store):
    size = int(store.lengths.sum())
    assert pick_order("auto", store, 2 * size) == ("random", None)
    order, line = pick_order("auto", store, size)
    assert order == "blocks" and "--order random" in line
    assert pick_order("random", store, 1) == ("random", None)
    assert pick_order("blocks", store, 10**15) == ("blocks", None)
    assert 1 << 28 < memory() < 1 << 50


@pytest.mark.parametrize("form", ["beton", "webdataset"])
def test_runs_hold_the_samples_and_little_else(folder, tmp_path, form, monkeypatch):
    prepare(folder, tmp_path / "data", formats=[form], policy=Policy(shard_size=0.008))
    store = open_store(tmp_path / "data")
    assert (len(store.data) > 1) == (form == "webdataset")
    monkeypatch.setattr(read_ahead, "GAP", 0)
    ids = np.array([3, 40, 41, 42, 9, 90])
    found = list(runs(store, ids))
    for i in ids:
        file, start, length = (int(x[0]) for x in store.places(np.array([i])))
        assert any(p == store.data[file] and a <= start and start + length <= b
                   for p, a, b in found)
    if form == "beton":  # its images are adjacent
        assert sum(b - a for _, a, b in found) == store.lengths[ids].sum()
        assert len(found) == 4
    monkeypatch.setattr(read_ahead, "GAP", 1 << 30)
    assert len(list(runs(store, ids))) == len(set(store.places(ids)[0].tolist()))


def test_one_part_ahead_and_no_more(store, small_blocks):
    order = read_ahead.block_order(store, 0, 0)
    parts = [int(store.lengths[order[a : a + 16]].sum()) for a in range(0, 96, 16)]

    def settled(ahead, expected):
        for _ in range(200):
            if ahead.bytes >= expected:
                break
            time.sleep(0.01)
        time.sleep(0.05)
        return ahead.bytes

    with ReadAhead(store, order) as ahead:
        assert settled(ahead, sum(parts[:2])) == sum(parts[:2])
        ahead.reach(15)
        assert settled(ahead, 0) == sum(parts[:2])
        ahead.reach(16)
        assert settled(ahead, sum(parts[:3])) == sum(parts[:3])
        ahead.reach(96)
        assert settled(ahead, sum(parts)) == sum(parts)
    with ReadAhead(store, order, first=40) as ahead:  # a resume reads from where it is
        assert settled(ahead, sum(parts[2:4])) == sum(parts[2:4])
    assert not [t for t in threading.enumerate() if t.name == "fastmoco-read"]


def test_a_run_keeps_its_order(dataset, tmp_path, monkeypatch, capsys):
    """auto is resolved once: a resumed run on a machine with more memory keeps the order."""
    from fastmoco.cli import main

    size = ["--arch", "resnet-mini", "--size", "16", "--batch", "16", "--bn-splits", "2",
            "--K", "64", "--epochs", "1"]
    monkeypatch.setattr(read_ahead, "memory", lambda: 1000)
    assert main(["train", str(dataset), *size, "--out", str(tmp_path / "a")]) == 0
    assert "are read in blocks" in capsys.readouterr().out
    monkeypatch.undo()
    saved = checkpoint.load(tmp_path / "a" / "checkpoint.pt", CPU)
    assert saved.recipe.order == "blocks"
    assert main(["train", str(dataset), "--resume", "--out", str(tmp_path / "a")]) == 0
    capsys.readouterr()
    again = dataclasses.replace(saved.recipe, order="auto")
    options = RunOptions(out=str(tmp_path / "a"), resume=True)
    assert train(dataset, again, options).recipe.order == "blocks"
    argv = ["train", str(dataset), "--resume", "--order", "random", "--out", str(tmp_path / "a")]
    assert main(argv) == 2
    assert "trained with order blocks, not random" in capsys.readouterr().err


def test_an_epoch_in_blocks(store, small_blocks, monkeypatch):
    readers = []

    class Seen(ReadAhead):
        def __init__(self, *args):
            super().__init__(*args)
            readers.append((self, self._reached))

    monkeypatch.setattr(read_ahead, "ReadAhead", Seen)
    monkeypatch.setattr(loading, "DRAWN", 16)
    recipe = dataclasses.replace(RECIPE, order="blocks", batch=16, bn_splits=4)
    engine = ThreadsEngine(store, 2)
    loader = TrainLoader(store, recipe, engine, CPU)
    whole = [copy(b) for b in loader.epoch(3)]
    assert sorted(torch.cat([b["index"] for b in whole]).tolist()) == list(range(96))
    assert readers[0][0].bytes == store.lengths.sum()
    for batch in whole:  # batches of a part's size: four blocks of four each
        assert len({i // 4 for i in batch["index"].tolist()}) == 4
    assert_same(whole[2:], [copy(b) for b in loader.epoch(3, first_step=2)])
    assert readers[1][1] == 32
    anywhere = TrainLoader(store, dataclasses.replace(recipe, order="random"), engine, CPU)
    by_sample = {int(i): v for b in whole for i, v in zip(b["index"], b["views"], strict=True)}
    for batch in anywhere.epoch(3):  # the order changes, a sample's views don't
        for i, views in zip(batch.index, batch.views, strict=True):
            assert torch.equal(views, by_sample[int(i)])
    for _ in loader.epoch(4):
        break
    engine.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("fastmoco")]
