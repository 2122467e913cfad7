"""Engines on small datasets: every engine that is installed, and epochs of its batches."""

import dataclasses

import pytest
import torch

from fastmoco.loading.engines.registry import Opened, open_engine
from fastmoco.loading.engines.resident_gpu import ResidentEngine
from fastmoco.loading.train_loader import TrainLoader
from fastmoco.recipe import MOCO_V2
from tests.support.loaded_batches import copy

RECIPE = dataclasses.replace(MOCO_V2, size=32, batch=16, bn_splits=4, K=40, seed=5)
CPU = torch.device("cpu")
SAMPLES = 40
FORMATS = ("beton", "tfrecord", "recordio", "webdataset")
# Mean difference from Pillow's crop of the exact decode that an engine may have, of 255: in
# training's integer windows and in evaluation's float boxes.
TOLERANCE = {
    "threads": (0.5, 0.5), "resident": (0.5, 0.5), "resident, as on a GPU": (0.5, 0.5),
    "dali": (0.5, 0.5), "ffcv": (2.0, 4.0),
}
MODULES = {"dali": "nvidia.dali", "ffcv": "ffcv"}
each_engine = pytest.mark.parametrize("engine", list(TOLERANCE))


def start(engine: str, store, threads: int = 2) -> Opened:
    """The engine on the store; skips where its package is not installed."""
    if engine == "resident, as on a GPU":
        return Opened(ResidentEngine(store, threads, CPU), engine, "")
    if engine in MODULES:
        pytest.importorskip(MODULES[engine], reason=f"{engine} is not installed",
                            exc_type=ImportError)
    return open_engine(engine, store, threads)


def epoch(engine, store, recipe=RECIPE, threads=2, first_step=0):
    opened = start(engine, store, threads).engine
    try:
        loader = TrainLoader(store, recipe, opened, CPU)
        return [copy(b) for b in loader.epoch(1, first_step)]
    finally:
        opened.close()
