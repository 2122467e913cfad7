"""One contract for every engine on every kind of store."""

import contextlib
import dataclasses
import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data_tools.open import open_store
from data_tools.store import RAW
from data_tools.subset import Subset
from fastmoco import draws
from fastmoco.loading.engines.threads import decode
from fastmoco.loading.eval_loader import EvalLoader
from fastmoco.loading.train_loader import TrainLoader
from tests.support.engine_parts import (
    CPU,
    FORMATS,
    RECIPE,
    SAMPLES,
    TOLERANCE,
    each_engine,
    epoch,
    start,
)
from tests.support.loaded_batches import assert_same


def cases():
    for engine in TOLERANCE:
        for name in (*FORMATS, "raw"):
            if engine != "ffcv" or name in ("beton", "raw"):
                yield engine, name


each_case = pytest.mark.parametrize(("engine", "name"), list(cases()))


def cut(store, i, window, size):
    """Pillow's view of a sample: float64 [size, size, 3]."""
    top, left, height, width = window
    image, box = Image.fromarray(decode(store, i)), (left, top, left + width, top + height)
    if isinstance(top, int):
        image, box = image.crop(box), None
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR, box=box), float)


@each_case
def test_an_epoch_is_every_sample_once_in_the_windows_that_were_drawn(prepared, engine, name):
    store = open_store(prepared[name])
    assert (store.kinds == RAW).any() == (name == "raw")
    batches = epoch(engine, store)
    ids = np.concatenate([b["index"].numpy() for b in batches])
    assert np.array_equal(ids, draws.permutation(5, 1, SAMPLES)[:32])  # 8 make no batch
    assert np.array_equal(torch.cat([b["label"] for b in batches]), store.labels[ids])
    views = torch.cat([b["views"] for b in batches]).numpy()
    aug = RECIPE.augmentation
    windows = draws.crop_windows(5, 1, ids, store.sizes[ids], 2, aug.scale, aug.ratio).tolist()
    expected = [[cut(store, i, w, 32) for w in ws] for i, ws in zip(ids, windows, strict=True)]
    difference = np.abs(views - np.array(expected)).mean(axis=(2, 3, 4))
    assert difference.max() < TOLERANCE[engine][0]


@each_case
def test_evaluation_takes_boxes_that_lie_between_pixels(prepared, engine, name):
    store = open_store(prepared[name])
    opened = start(engine, store).engine
    try:
        views = [b.views.clone() for b in EvalLoader(store, RECIPE, opened, CPU, batch=16)]
    finally:
        opened.close()
    assert [len(v) for v in views] == [16, 16, 8]  # to the last, incomplete batch
    boxes = draws.eval_boxes(store.sizes, RECIPE.eval_crop)[:, 0].tolist()
    expected = np.array([cut(store, i, box, 32) for i, box in enumerate(boxes)])
    difference = np.abs(torch.cat(views)[:, 0].numpy() - expected).mean(axis=(1, 2, 3))
    assert difference.max() < TOLERANCE[engine][1]


@each_engine
def test_neither_threads_nor_format_nor_batch_change_a_view(prepared, engine):
    store = open_store(prepared["beton"])
    whole = epoch(engine, store, threads=1)
    assert_same(whole, epoch(engine, store, threads=3))
    if engine != "ffcv":
        for name in FORMATS[1:]:
            assert_same(whole, epoch(engine, open_store(prepared[name])))
    views = {int(i): v for b in whole for i, v in zip(b["index"], b["views"], strict=True)}
    smaller = epoch(engine, store, dataclasses.replace(RECIPE, batch=12))
    met = 0
    for batch in smaller:
        for i, view in zip(batch["index"].tolist(), batch["views"], strict=True):
            met += i in views
            assert i not in views or torch.equal(view, views[i])
    assert met > 20


@each_engine
def test_an_epoch_can_begin_in_its_middle(prepared, engine):
    store = open_store(prepared["beton"])
    recipe = dataclasses.replace(RECIPE, batch=8)
    assert_same(epoch(engine, store, recipe)[2:], epoch(engine, store, recipe, first_step=2))


@each_engine
def test_some_samples_of_a_store_are_those_samples(prepared, engine):
    store = open_store(prepared["raw"])
    some = Subset(store, np.arange(SAMPLES)[::-2])
    nested = Subset(some, np.array([19, 2, 0]))
    out = np.zeros((3, 3, 1, 16, 16, 3), np.uint8)
    for part, chosen, ids in (
        (out[0], store, [39, 35, 1]), (out[1], some, [0, 2, 19]), (out[2], nested, [2, 1, 0])
    ):
        opened = start(engine, chosen).engine
        windows = np.tile(np.array([2, 3, 40, 50]), (3, 1, 1))
        opened.submit(np.array(ids), windows, part).result()
        opened.close()
    assert np.array_equal(out[0], out[1]) and out[0].std() > 5
    assert np.array_equal(out[0], out[2])


def running() -> set[str]:
    """Ids of this process's threads, C++ threads included, and of its children."""
    found = set(os.listdir("/proc/self/task"))
    for thread in list(found):
        with contextlib.suppress(OSError):
            found.update(Path(f"/proc/self/task/{thread}/children").read_text().split())
    return found


@each_engine
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts threads by /proc")
def test_an_early_break_leaves_nothing_running(prepared, engine):
    store = open_store(prepared["beton"])

    def begin_and_break():
        opened = start(engine, store, 3).engine
        loader = TrainLoader(store, dataclasses.replace(RECIPE, batch=4), opened, CPU)
        for _ in loader.epoch(0):
            break
        opened.close()
        return opened  # kept alive, or its deletion would stop threads that close() forgot

    _ = begin_and_break()  # the first call starts the libraries' own pools
    before = running()
    _ = begin_and_break()
    deadline = time.monotonic() + 5  # the system needs a moment to remove ended threads
    while running() - before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not running() - before
