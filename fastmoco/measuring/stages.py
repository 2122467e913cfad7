"""Times the stages of a training run for bench: each is a function from seconds to images/s."""

from __future__ import annotations

import dataclasses
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch

from data_tools.planning.rates import decode_rate, in_threads
from data_tools.safe_reading.limits import raise_open_files
from data_tools.store import Store
from fastmoco import draws
from fastmoco.augmentation.choose import augmentation
from fastmoco.draws import Colour
from fastmoco.loading.batch import Batch, Prepared
from fastmoco.loading.engines.engine import Engine
from fastmoco.loading.engines.threads import cut_windows, decode
from fastmoco.loading.train_loader import TrainLoader
from fastmoco.model.build import build_moco, compile_parts, make_optimizer
from fastmoco.recipe import Recipe
from fastmoco.run_options import RunOptions
from fastmoco.system.compiler import lacks_compiler, settle
from fastmoco.system.device import DTYPES, choose_deterministic, grad_scaler
from fastmoco.system.streams import Field, Slot, copy_stream, one_ahead, synchronize
from fastmoco.training.step import training_step

IMAGES = 64  # decoded images that the crop stage uses in turn


class Stages:
    """The stages of a training run, each as a function from seconds to images/s."""

    def __init__(
        self, store: Store, recipe: Recipe, options: RunOptions, device: torch.device,
        engine: Engine,
    ) -> None:
        self.store, self.recipe, self.device, self.engine = store, recipe, device, engine
        choose_deterministic(device)
        if options.compile or device.type == "cuda":
            settle()
        self.loader = TrainLoader(store, recipe, engine, device)
        self.to_images, _, _ = augmentation(options, device)
        torch.manual_seed(recipe.seed)
        self.moco = build_moco(recipe, len(store), device)
        self.optimizer = make_optimizer(self.moco, recipe)
        self.scaler = grad_scaler(device, recipe.precision)
        if options.compile and lacks_compiler(device) is None:
            compile_parts(self.moco)
        self.runs: dict[str, Callable[[float], float]] = {
            "decode": self.decode,
            "crop": self.crop,
            "two views": self.two_views,
            "augmentation alone": self.augmentation_alone,
            "step alone": self.step_alone,
            "two views + augmentation": self.views_augmented,
            "two views + augmentation + step": self.everything,
        }
        if device.type == "cuda":  # on a CPU there is nothing to copy
            self.runs["copy"] = self.copy

    def warm_up(self) -> None:
        """Compile and allocate before the measurement, and keep one batch for the stages alone."""
        for batch in self.batches():  # copied, because its ring slot is soon written over
            assert batch.colour is not None and batch.shuffle is not None
            rows = batch.colour.blur_rows
            colour = Colour(
                **{k: t.clone() for k, t in batch.colour.arrays().items()},
                blur_rows=None if rows is None else rows.clone(),
            )
            self.fixed = dataclasses.replace(
                batch, views=batch.views.clone(), colour=colour, index=batch.index.clone(),
                label=batch.label.clone(), shuffle=batch.shuffle.clone(),
                drawn=None if batch.drawn is None else batch.drawn.clone(),
            )
            break
        self.ready = self.prepare(self.fixed)
        self.step(self.ready)

    def batches(self) -> Iterator[Batch]:
        """Return batches without end."""
        return itertools.chain.from_iterable(self.loader.epoch(e) for e in itertools.count())

    def augment(self, batch: Batch) -> torch.Tensor:
        dtype = DTYPES[self.recipe.precision]
        return self.to_images(batch.views, batch.colour, self.recipe.augmentation, dtype)

    def prepare(self, batch: Batch) -> Prepared:
        return batch.prepared(self.augment(batch))

    def step(self, batch: Prepared) -> None:
        training_step(self.moco, self.optimizer, self.scaler, batch, self.recipe)

    def timed(self, work: Iterator[int], seconds: float) -> float:
        """Return the images/s of an iterator that yields the size of each batch, over `seconds`.

        The first batch fills the pipeline and is not counted.
        """
        next(work)
        synchronize(self.device)
        begun, images = time.perf_counter(), 0
        for n in work:
            images += n
            if time.perf_counter() - begun >= seconds:
                break
        synchronize(self.device)
        return images / (time.perf_counter() - begun)

    def decode(self, seconds: float) -> float:
        """Decode whole JPEGs by simplejpeg, on the engine's number of threads: the upper bound."""
        return decode_rate(self.store, range(len(self.store)), self.engine.threads, seconds)

    def crop(self, seconds: float) -> float:
        """Cut and resize two windows of decoded images, on the engine's number of threads."""
        r, aug = self.recipe, self.recipe.augmentation
        ids = np.arange(min(IMAGES, len(self.store)))
        images = [decode(self.store, i) for i in ids.tolist()]
        windows = draws.crop_windows(
            r.seed, 0, ids, self.store.sizes[ids], 2, aug.scale, aug.ratio
        )
        room = threading.local()

        def work(i: int) -> None:
            if not hasattr(room, "views"):
                room.views = np.empty((2, r.size, r.size, 3), np.uint8)
            cut_windows(images[i % len(images)], windows[i % len(images)], room.views)

        return in_threads(work, self.engine.threads, seconds)

    def copy(self, seconds: float) -> float:
        """Copy the views of a batch from pinned memory to the device."""
        r = self.recipe
        layout = {"views": Field(np.uint8, (r.batch, 2, r.size, r.size, 3))}
        slot, stream = Slot(layout, self.device), copy_stream(self.device)

        def work() -> Iterator[int]:
            while True:
                slot.to_device(stream)
                slot.mark_used()
                synchronize(self.device)
                yield r.batch

        return self.timed(work(), seconds)

    def two_views(self, seconds: float) -> float:
        return self.timed((len(b.index) for b in self.batches()), seconds)

    def augmentation_alone(self, seconds: float) -> float:
        n = len(self.fixed.index)

        def work() -> Iterator[int]:
            while True:
                self.augment(self.fixed)
                yield n

        return self.timed(work(), seconds)

    def step_alone(self, seconds: float) -> float:
        n = len(self.fixed.index)

        def work() -> Iterator[int]:
            while True:
                self.step(self.ready)
                yield n

        return self.timed(work(), seconds)

    def views_augmented(self, seconds: float) -> float:
        def work() -> Iterator[int]:
            for batch in self.batches():
                self.augment(batch)
                yield len(batch.index)

        return self.timed(work(), seconds)

    def everything(self, seconds: float) -> float:
        def work() -> Iterator[int]:
            for batch in one_ahead(self.batches(), self.prepare, self.device):
                self.step(batch)
                yield len(batch.index)

        return self.timed(work(), seconds)


def read_rates(store: Store, threads: int, seconds: float) -> tuple[float, float]:
    """Return the images/s of reading from the disk, and of reading from memory.

    The first drops each sample from the page cache before it reads it. This does nothing to pages
    that a process has mapped, so measure before the store's files are mapped.
    """
    ids = draws.permutation(1, 0, len(store))
    files, starts, lengths = (x.tolist() for x in store.places(ids))
    raise_open_files()  # all data files are open at once
    handles = [os.open(path, os.O_RDONLY) for path in store.data]
    rates = []
    try:
        for handle in handles:
            os.fsync(handle)  # pages that are not written yet cannot be dropped
        for cold in (True, False):

            def work(k: int) -> None:
                i = k % len(ids)
                handle = handles[files[i]]
                if cold and hasattr(os, "posix_fadvise"):  # noqa: B023
                    os.posix_fadvise(
                        handle, starts[i], lengths[i] + 4096, os.POSIX_FADV_DONTNEED
                    )
                os.pread(handle, lengths[i], starts[i])

            rates.append(in_threads(work, threads, seconds))
    finally:
        for handle in handles:
            os.close(handle)
    return rates[0], rates[1]
