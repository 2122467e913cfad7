"""Measures how fast this machine loads a dataset: two 224-pixel views of each image, by the
training loader itself."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Generator
from contextlib import closing

from data_tools.store import Store
from fastmoco.loading.batch import Batch
from fastmoco.loading.engines.threads import ThreadsEngine
from fastmoco.loading.read_ahead import pick_order
from fastmoco.loading.train_loader import TrainLoader
from fastmoco.recipe import MOCO_V2
from fastmoco.system.device import pick_device

BATCH, SECONDS = 64, 0.6


def endless(loader: TrainLoader) -> Generator[Batch]:
    """Yield the batches of one epoch after another, without end."""
    for number in itertools.count():
        yield from loader.epoch(number)


def load_rate(store: Store, seconds: float = SECONDS) -> float:
    """Return the images/s of the training loader, measured for `seconds` over the store."""
    order, _ = pick_order(MOCO_V2.order, store)
    recipe = dataclasses.replace(MOCO_V2, batch=min(BATCH, len(store)), order=order)
    engine = ThreadsEngine(store)
    try:
        loader = TrainLoader(store, recipe, engine, pick_device("cpu"))
        # Close the generator before the engine: it waits for the batches that are being decoded.
        with closing(endless(loader)) as batches:
            next(batches)  # the first one waits for the threads to start
            images, begun = 0, time.perf_counter()
            for batch in batches:
                images += len(batch.index)
                if time.perf_counter() - begun >= seconds:
                    break
            return images / (time.perf_counter() - begun)
    finally:
        engine.close()
