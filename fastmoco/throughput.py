"""Images a second, stage by stage, what binds, and what to change."""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import simplejpeg
import torch

from data_tools.errors import UserError
from data_tools.open import open_store
from data_tools.store import JPEG, Store
from fastmoco.batch import Batch, Engine
from fastmoco.device import (
    DTYPES,
    describe,
    grad_scaler,
    peak_memory,
    pick_device,
    pick_precision,
    synchronize,
)
from fastmoco.encoder import build_encoder
from fastmoco.engines import open_engine
from fastmoco.features import Subset, Tick
from fastmoco.loader import TrainLoader
from fastmoco.moco import MoCo, compile_parts, make_optimizer
from fastmoco.recipe import Recipe, RunOptions
from fastmoco.train import augmentation, training_step

ROUNDS = 7  # interleaved; the medians are shown


@dataclass(frozen=True)
class Stage:
    """One row: images/s as the median of the rounds, with the least and the most."""

    name: str
    images_per_s: float
    least: float
    most: float
    per_core: float


@dataclass(frozen=True)
class Report:
    """What `fastmoco bench` shows."""

    data: str
    images: int
    mean_kilobytes: float
    mean_megapixels: float
    machine: str
    cores: int
    engine: str
    recipe: str
    size: int
    batch: int
    precision: str
    stages: list[Stage]
    binds: str
    advice: str
    device_memory: int  # bytes at the most; 0 on the CPU

    def rate(self, name: str) -> float:
        """Images/s of a stage."""
        return next(s.images_per_s for s in self.stages if s.name == name)


def bench(
    data: str | os.PathLike[str],
    recipe: Recipe,
    options: RunOptions = RunOptions(),
    rounds: int = ROUNDS,
    seconds: float = 1.0,
    tick: Tick | None = None,
) -> Report:
    """Measure the stages alone and together, interleaved, `seconds` each in every round.

    On the CPU the batch is 64 at the most, so that a large encoder can be measured at all.
    """
    if rounds < 1 or not 0 < seconds < math.inf:
        raise UserError(f"--rounds {rounds} --seconds {seconds}: give 1 or more, and above 0")
    options.check()
    recipe.check()
    store = open_store(data)
    device = pick_device(options.device)
    batch = min(recipe.batch, len(store)) if device.type == "cuda" else min(recipe.batch, 64)
    recipe = dataclasses.replace(
        recipe, batch=batch, bn_splits=math.gcd(recipe.bn_splits, batch),
        K=max(recipe.K, batch), precision=pick_precision(recipe.precision, device),
    )
    # A small dataset is gone round often enough for the pipeline to run full.
    laps = -(-64 * batch // len(store))
    many = Subset(store, np.tile(np.arange(len(store)), laps))
    engine, _, how = open_engine(options.engine, many, options.threads, device)
    try:
        stages = Stages(many, recipe, options, device, engine)
        stages.warm_up()
        found: dict[str, list[float]] = {name: [] for name in stages.runs}
        for i in range(rounds):
            for j, (name, run) in enumerate(stages.runs.items()):
                found[name].append(run(seconds))
                if tick is not None:
                    tick(i * len(stages.runs) + j + 1, rounds * len(stages.runs))
    finally:
        engine.close()
    cores = engine.threads
    rows = [
        Stage(n, statistics.median(f), min(f), max(f), statistics.median(f) / cores)
        for n, f in found.items()
    ]
    binds, advice = verdict({s.name: s.images_per_s for s in rows}, device, store, recipe)
    return Report(
        data=str(data),
        images=len(store),
        mean_kilobytes=float(np.mean([len(store.encoded(i)) for i in sample(store)])) / 1e3,
        mean_megapixels=float(store.sizes.astype(np.float64).prod(axis=1).mean()) / 1e6,
        machine=describe(device),
        cores=cores,
        engine=how,
        recipe=recipe.name,
        size=recipe.size,
        batch=batch,
        precision=recipe.precision,
        stages=rows,
        binds=binds,
        advice=advice,
        device_memory=peak_memory(device),
    )


def sample(store: Store, count: int = 1000) -> Iterator[int]:
    """At most so many samples, evenly spread."""
    return iter(range(0, len(store), max(1, len(store) // count)))


class Stages:
    """The stages of a training run, each as a function from seconds to images/s."""

    def __init__(
        self, store: Store, recipe: Recipe, options: RunOptions, device: torch.device,
        engine: Engine,
    ) -> None:
        self.store, self.recipe, self.device, self.engine = store, recipe, device, engine
        self.loader = TrainLoader(store, recipe, engine, device)
        self.to_images, note = augmentation(options, device)
        torch.manual_seed(recipe.seed)
        encoder = build_encoder(recipe)
        self.moco = MoCo(encoder, recipe.dim, recipe.K, recipe.m, recipe.T).to(device)
        self.optimizer = make_optimizer(self.moco, recipe)
        self.scaler = grad_scaler(device, recipe.precision)
        if options.compile and note is None:
            compile_parts(self.moco)
        self.runs: dict[str, Callable[[float], float]] = {
            "decode": self.decode,
            "two views": self.two_views,
            "augmentation alone": self.augmentation_alone,
            "step alone": self.step_alone,
            "two views + augmentation": self.views_augmented,
            "two views + augmentation + step": self.everything,
        }

    def warm_up(self) -> None:
        """Compile and allocate outside the measurement; keep one batch of images."""
        for batch in self.batches():
            assert batch.colour is not None and batch.shuffle is not None
            self.fixed = dataclasses.replace(
                batch, views=batch.views.clone(),
                colour=dataclasses.replace(
                    batch.colour, **{k: t.clone() for k, t in batch.colour.arrays().items()}
                ),
                index=batch.index.clone(), label=batch.label.clone(),
                shuffle=batch.shuffle.clone(),
            )
            break
        self.images = self.augment(self.fixed)
        self.step(self.images, self.fixed)

    def batches(self) -> Iterator[Batch]:
        """Batches without end."""
        return itertools.chain.from_iterable(self.loader.epoch(e) for e in itertools.count())

    def augment(self, batch: Batch) -> torch.Tensor:
        dtype = DTYPES[self.recipe.precision]
        return self.to_images(batch.views, batch.colour, self.recipe.augmentation, dtype)

    def step(self, images: torch.Tensor, batch: Batch) -> None:
        im_q, im_k = images
        training_step(self.moco, self.optimizer, self.scaler, im_q, im_k, batch, self.recipe)

    def timed(self, work: Iterator[int], seconds: float) -> float:
        """Images/s of an iterator that yields how many it did, for about so long, once running:
        the first item fills the pipeline and is not counted."""
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
        """simplejpeg's exact decode on as many threads as the engine has: the bound."""
        chunk = 16

        def work(start: int) -> int:
            for i in range(start, start + chunk):
                encoded = self.store.encoded(i % len(self.store))
                if self.store.kinds[i % len(self.store)] == JPEG:
                    simplejpeg.decode_jpeg(encoded)
            return chunk

        with ThreadPoolExecutor(self.engine.threads) as pool:
            running = [pool.submit(work, n * chunk) for n in range(2 * self.engine.threads)]
            following = itertools.count(len(running))

            def done() -> Iterator[int]:
                while running:
                    yield running.pop(0).result()
                    running.append(pool.submit(work, next(following) * chunk))

            return self.timed(done(), seconds)

    def two_views(self, seconds: float) -> float:
        return self.timed((len(b.index) for b in self.batches()), seconds)

    def augmentation_alone(self, seconds: float) -> float:
        n = len(self.fixed.index)
        return self.timed((n for _ in iter(lambda: self.augment(self.fixed), None)), seconds)

    def step_alone(self, seconds: float) -> float:
        n = len(self.fixed.index)
        again = iter(lambda: self.step(self.images, self.fixed), 0)
        return self.timed((n for _ in again), seconds)

    def views_augmented(self, seconds: float) -> float:
        def work() -> Iterator[int]:
            for batch in self.batches():
                self.augment(batch)
                yield len(batch.index)

        return self.timed(work(), seconds)

    def everything(self, seconds: float) -> float:
        def work() -> Iterator[int]:
            for batch in self.batches():
                self.step(self.augment(batch), batch)
                yield len(batch.index)

        return self.timed(work(), seconds)


def verdict(
    rate: dict[str, float], device: torch.device, store: Store, recipe: Recipe
) -> tuple[str, str]:
    """The stage that binds, and what to change."""
    cost = {
        "decode": 1 / rate["decode"],
        "crops": max(0.0, 1 / rate["two views"] - 1 / rate["decode"]),
        "augmentation": 1 / rate["augmentation alone"],
        "step": 1 / rate["step alone"],
    }
    names: tuple[str, ...] = tuple(cost)
    if device.type == "cuda":  # loading and the device's work overlap
        loading, computing = cost["decode"] + cost["crops"], cost["augmentation"] + cost["step"]
        names = ("decode", "crops") if loading > computing else ("augmentation", "step")
        where = f"the {'loader' if loading > computing else 'GPU'} is the slower side"
        whole = loading if loading > computing else computing
    else:
        where, whole = "all stages share the cores", sum(cost.values())
    binds = max(names, key=lambda n: cost[n])
    share = cost[binds] / whole
    longer, enough = float(store.sizes.max(axis=1).mean()), max(recipe.size * 2, 256)
    smaller = (
        f"prepare smaller images (the longer side is {longer:.0f} pixels on average; prep "
        f"--max-side {enough} decodes and cuts less), or "
        if longer > 1.1 * enough
        else ""
    )
    advice = {
        "decode": f"{smaller}use more cores",
        "crops": f"{smaller}use more cores",
        "augmentation": f"{'--compile fuses it; ' if device.type == 'cuda' else ''}a smaller "
        "--size costs less",
        "step": "the encoder is what the time goes into, as it should be; --compile, a smaller "
        "--arch or --size make it cheaper",
    }
    return f"{binds} ({share:.0%} of the time; {where})", advice[binds]
