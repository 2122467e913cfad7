"""How fast this machine loads a dataset: the real engine, two 224-pixel views of each image."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Generator
from contextlib import closing

from data_tools.store import Store
from fastmoco.loading.batch import Batch
from fastmoco.loading.engines.threads import ThreadsEngine
from fastmoco.loading.train_loader import TrainLoader
from fastmoco.recipe import MOCO_V2
from fastmoco.system.device import pick_device

BATCH, SECONDS = 64, 0.6


def endless(loader: TrainLoader) -> Generator[Batch]:
    """The batches of one epoch after another."""
    for number in itertools.count():
        yield from loader.epoch(number)


def load_rate(store: Store, seconds: float = SECONDS) -> float:
    """Images/s of the training loader over the store, again and again, for so many seconds."""
    recipe = dataclasses.replace(MOCO_V2, batch=min(BATCH, len(store)))
    engine = ThreadsEngine(store)
    try:
        loader = TrainLoader(store, recipe, engine, pick_device("cpu"))
        # The generator is closed before the engine: it waits for what is under way.
        with closing(endless(loader)) as batches:
            next(batches)  # the first waits for threads to start
            images, begun = 0, time.perf_counter()
            for batch in batches:
                images += len(batch.index)
                if time.perf_counter() - begun >= seconds:
                    break
            return images / (time.perf_counter() - begun)
    finally:
        engine.close()
