"""The base class of the sides of bench.loading.peers, and fastmoco's own sides."""

from __future__ import annotations

import dataclasses
import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

import simplejpeg
import torch

from data_tools.planning.rates import in_threads
from data_tools.store import Store
from fastmoco.augmentation.cpu import augment_numba
from fastmoco.loading.engines.registry import open_engine
from fastmoco.loading.train_loader import TrainLoader
from fastmoco.recipe import MOCO_V2

BATCH, SIZE, SCALE = 64, 224, (0.2, 1.0)
AUG = MOCO_V2.augmentation
CPU = torch.device("cpu")


class Data:
    """The data of every peer: the store, the folder of its two formats, and the JPEGs in memory."""

    def __init__(self, store: Store, path: Path, threads: int) -> None:
        self.store, self.path, self.threads = store, path, threads
        self.jpegs = [store.encoded(i).tobytes() for i in range(len(store))]
        # repeated, so that even the fastest side needs some seconds per epoch
        self.many = self.jpegs * max(1, 3000 // len(self.jpegs))


class Peer(ABC):
    """One side of the comparison. `ready` is the number of batches that it may prepare ahead."""

    stage, name, note = "", "", ""
    ready = 0

    def __init__(self, data: Data) -> None:
        self.data = data

    @abstractmethod
    def batches(self) -> Iterator[int]:
        """Yield the number of images of each batch, without end."""

    def close(self) -> None:  # noqa: B027  (most have nothing to stop)
        """Stop the threads and processes in the background."""


class Decode(Peer):
    stage, name = "decode", "simplejpeg"
    note = "exact decode, on as many threads as cores: the bound"

    def batches(self) -> Iterator[int]:
        def work(i: int) -> None:
            simplejpeg.decode_jpeg(jpegs[i % len(jpegs)])

        jpegs = self.data.jpegs
        while True:
            in_threads(work, self.data.threads, 0.02)
            rate = in_threads(work, self.data.threads, 0.5)
            yield round(rate * 0.5)


class Ours(Peer):
    """TrainLoader on one of the engines, from the beton to uint8 views."""

    stage, engine, ready = "two views", "threads", 3

    def __init__(self, data: Data) -> None:
        super().__init__(data)
        recipe = dataclasses.replace(MOCO_V2, batch=min(BATCH, len(data.store)), bn_splits=1)
        self.opened = open_engine(self.engine, data.store, data.threads).engine
        self.loader = TrainLoader(data.store, recipe, self.opened, CPU)

    def each(self) -> Iterator:
        return itertools.chain.from_iterable(self.loader.epoch(e) for e in itertools.count())

    def batches(self) -> Iterator[int]:
        for batch in self.each():
            yield len(batch.index)

    def close(self) -> None:
        self.opened.close()


class OursThreads(Ours):
    name = "fastmoco, threads"


class OursDali(Ours):
    name, engine = "fastmoco, dali engine", "dali"


class OursFfcv(Ours):
    name, engine = "fastmoco, ffcv engine", "ffcv"
    note = "FFCV's decoder and resize, one decode for both views"


class OursFull(Ours):
    stage, name = "full v2", "fastmoco"

    def batches(self) -> Iterator[int]:
        for batch in self.each():
            augment_numba(batch.views, batch.colour, AUG)
            yield len(batch.index)


class OursAugment(OursFull):
    stage, ready = "augmentation alone", 0

    def __init__(self, data: Data) -> None:
        super().__init__(data)
        batch = next(self.each())
        colour = {k: t.clone() for k, t in batch.colour.arrays().items()}
        self.views, self.colour = batch.views.clone(), type(batch.colour)(**colour)

    def batches(self) -> Iterator[int]:
        while True:
            augment_numba(self.views, self.colour, AUG)
            yield len(self.views)
