"""Pre-training, from a prepared dataset to an encoder: one function, read top to bottom."""

from __future__ import annotations

import dataclasses
import math
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch

from data_tools.errors import UserError
from data_tools.open import open_store
from data_tools.store import Store
from fastmoco import checkpoint as checkpoints
from fastmoco import draws
from fastmoco.augment import augment
from fastmoco.augment_kornia import augment_kornia
from fastmoco.augment_numba import augment_numba
from fastmoco.checkpoint import Checkpoint
from fastmoco.device import DTYPES, autocast, describe, grad_scaler, pick_device, pick_precision
from fastmoco.encoder import Encoder, build_encoder
from fastmoco.engines.threads import ThreadsEngine
from fastmoco.events import Ended, Evaluated, Listener, Noted, Progress, Saved, Started
from fastmoco.features import Subset, extract, shared_labels
from fastmoco.knn import CIFAR_DEMO, weighted_knn
from fastmoco.loader import TrainLoader
from fastmoco.moco import MoCo, compile_parts, make_optimizer
from fastmoco.recipe import Recipe, RunOptions
from fastmoco.run_dir import RunDir
from fastmoco.schedule import learning_rate

MONITOR_BANK = 50_000  # training images at most in the bank of the kNN monitor


def train(
    data: str | os.PathLike[str],
    recipe: Recipe,
    options: RunOptions = RunOptions(),
    listeners: Iterable[Listener] = (),
) -> Checkpoint:
    """Pre-train by a recipe on a prepared dataset; returns the last checkpoint, also on disk.

    Stops early, with a checkpoint, at SIGTERM or SIGINT. Raises UserError for what the user can
    mend: data, recipe, run directory.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("this release trains on one device: run torchrun with --nproc-per-node 1")
    store = open_store(data)
    recipe.check(len(store))
    device = pick_device(options.device)
    recipe = dataclasses.replace(recipe, precision=pick_precision(recipe.precision, device))
    run = RunDir(options.out or f"runs/{Path(data).name}-{recipe.name}", options.resume)
    saved = resumable(run, recipe, store, device) if options.resume else None
    monitor = Monitor(store, options, recipe, device) if options.val else None
    listeners = [run, *listeners]

    def tell(event) -> None:
        for listener in listeners:
            listener(event)

    torch.manual_seed(recipe.seed)
    moco = MoCo(build_encoder(recipe), recipe.dim, recipe.K, recipe.m, recipe.T).to(device)
    optimizer = make_optimizer(moco, recipe)
    scaler = grad_scaler(device, recipe.precision)
    engine = ThreadsEngine(store, options.threads)
    loader = TrainLoader(store, recipe, engine, device)
    window = Window(loader, recipe, device)
    to_images, note = augmentation(options, device)
    if options.compile and note is None:
        compile_parts(moco)

    dtype, shuffles = DTYPES[recipe.precision], recipe.bn_splits > 1
    per_epoch, step, earlier = loader.steps_per_epoch, 0, 0.0
    steps = recipe.epochs * per_epoch
    if saved is not None:
        moco.load_state_dict(saved.moco)
        optimizer.load_state_dict(saved.optimizer)
        scaler.load_state_dict(saved.scaler)
        window.load(saved.window)
        step, earlier = saved.step, saved.clock["train_seconds"]
    run.open(resumed_at=step)
    parameters = sum(p.numel() for p in moco.encoder_q.parameters())
    tell(Started(
        recipe, len(store), per_epoch, step, describe(device), f"threads ({engine.threads})",
        parameters, str(run.path),
    ))
    if note is not None:
        tell(Noted(note))
    if saved is not None and saved.versions != checkpoints.versions():
        tell(Noted("versions differ from the checkpoint's: the run goes on, not to the same bits"))

    def save() -> Checkpoint:
        state = Checkpoint(
            recipe, moco.state_dict(), optimizer.state_dict(), scaler.state_dict(), step,
            store.fingerprint, len(store), window.state(), torch.get_num_threads(),
            checkpoints.versions(), {"train_seconds": earlier + clock.seconds()},
        )
        checkpoints.save(state, run.checkpoint)
        tell(Saved(step, str(run.checkpoint)))
        return state

    with Clock() as clock, asked_to_stop() as stop:
        try:
            if monitor is not None and step == 0:
                with clock.paused():
                    tell(monitor(moco, step, per_epoch))
            while step < steps and not stop.is_set():
                for batch in loader.epoch(step // per_epoch, step % per_epoch):
                    lr = learning_rate(recipe, step, per_epoch)
                    for group in optimizer.param_groups:
                        group["lr"] = lr
                    assert batch.colour is not None
                    im_q, im_k = to_images(batch.views, batch.colour, recipe.augmentation, dtype)
                    with autocast(device, recipe.precision):
                        out = moco(im_q, im_k, batch.index, batch.shuffle if shuffles else None)
                    scaler.scale(out.loss).backward()
                    scaler.step(optimizer)
                    scaler.update()
                    optimizer.zero_grad(set_to_none=True)
                    moco.update(out)
                    window.add(out.stats)
                    step += 1
                    if step % options.log_every == 0 or step == steps:
                        tell(window.read(step, steps, lr, clock))  # the one wait for the device
                    if clock.since_mark() > options.checkpoint_minutes * 60 and step < steps:
                        with clock.paused():
                            save()
                        clock.mark()
                    if stop.is_set():
                        break
                if monitor is not None and monitor.due(step, per_epoch) and not stop.is_set():
                    with clock.paused():
                        tell(monitor(moco, step, per_epoch))
            seconds = earlier + clock.seconds()
            with clock.paused():
                last = save()
        finally:
            engine.close()
    tell(Ended(step, steps, seconds, step == steps, str(run.checkpoint)))
    return last


def augmentation(options: RunOptions, device: torch.device):
    """The augmentation for a device, and a note where torch.compile was asked for in vain."""
    note = None
    if options.compile and device.type == "cpu" and not (
        shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++")
    ):
        note = "--compile: no C++ compiler here (Debian: apt-get install g++); going on without"
    if options.augment == "kornia":
        return augment_kornia, note
    if device.type == "cpu" and options.augment == "auto":
        return partial(augment_numba, threads=options.threads or None), note
    if options.compile and note is None:
        return torch.compile(augment, fullgraph=True, dynamic=False), note
    return augment, note


def resumable(run: RunDir, recipe: Recipe, store: Store, device: torch.device) -> Checkpoint:
    """The run's checkpoint; UserError where it belongs to another recipe or dataset."""
    saved = checkpoints.load(run.checkpoint, device)
    for field in dataclasses.fields(recipe):
        ours, theirs = getattr(recipe, field.name), getattr(saved.recipe, field.name)
        if ours != theirs:
            raise UserError(
                f"{run.checkpoint}: trained with {field.name} {theirs}, not {ours}; resume with "
                f"the same recipe, or start another run with --out"
            )
    if saved.dataset != store.fingerprint:
        raise UserError(
            f"{run.checkpoint}: trained on another dataset than {store.path}; resume on the same "
            f"one, or start another run with --out"
        )
    if device.type == "cpu":
        torch.set_num_threads(saved.threads)
    return saved


class Monitor:
    """kNN on a labelled store while training: the CIFAR demo's protocol on pooled features.

    The bank is the training set (at most MONITOR_BANK images of it); where that has no labels,
    one half of the validation store is the bank of the other.
    """

    def __init__(
        self, store: Store, options: RunOptions, recipe: Recipe, device: torch.device
    ) -> None:
        val = open_store(options.val)
        bank: Store = store
        if len(store.labels) and int(store.labels.min()) < 0:
            bank = Subset(val, draws.permutation(recipe.seed, 0, len(val))[::2])
            val = Subset(val, draws.permutation(recipe.seed, 0, len(val))[1::2])
        elif len(store) > MONITOR_BANK:
            bank = Subset(store, draws.permutation(recipe.seed, 0, len(store))[:MONITOR_BANK])
        self.bank, self.val = bank, val
        self.labels = shared_labels(bank, val)
        self.recipe, self.device, self.threads = recipe, device, options.threads
        self.every = options.val_every or max(1, recipe.epochs // 10)

    def due(self, step: int, per_epoch: int) -> bool:
        """True after every so many epochs and at the end."""
        epoch, rest = divmod(step, per_epoch)
        return rest == 0 and (epoch % self.every == 0 or epoch == self.recipe.epochs)

    def __call__(self, moco: MoCo, step: int, per_epoch: int) -> Evaluated:
        begun = time.perf_counter()
        bank_labels, labels, classes = self.labels
        bank, queries = (
            extract(cast(Encoder, moco.encoder_q), s, self.recipe, self.device, self.threads)
            for s in (self.bank, self.val)
        )
        top1 = weighted_knn(bank, bank_labels, queries, labels, classes, CIFAR_DEMO)
        k, accuracy = next(iter(top1.items()))
        return Evaluated(
            step, step / per_epoch, accuracy, f"k={k}, T={CIFAR_DEMO.T}, bank {len(bank):,}",
            time.perf_counter() - begun,
        )


class Window:
    """Sums of what the steps since the last log line gave, kept on the device."""

    def __init__(self, loader: TrainLoader, recipe: Recipe, device: torch.device) -> None:
        self.loader, self.recipe = loader, recipe
        self.sums = {n: torch.zeros((), device=device) for n in ("loss", "pretext_accuracy")}
        self.count = 0
        self.begun, self.waited = 0.0, 0.0
        self.steps_here = 0

    def add(self, stats: dict[str, torch.Tensor]) -> None:
        """Add one step's scalars; no sync."""
        for name, total in self.sums.items():
            total += stats[name]
        self.count += 1
        self.steps_here += 1

    def read(self, step: int, steps: int, lr: float, clock: Clock) -> Progress:
        """The means, waiting for the device, and begin anew."""
        means = {name: float(total) / self.count for name, total in self.sums.items()}
        now, waited = clock.seconds(), self.loader.data_wait
        elapsed = max(now - self.begun, 1e-9)
        rate = self.steps_here / elapsed
        progress = Progress(
            step=step,
            steps=steps,
            epoch=step / self.loader.steps_per_epoch,
            loss=means["loss"],
            chance=math.log(self.recipe.K + 1),
            pretext_accuracy=means["pretext_accuracy"],
            queue_fill=min(1.0, step * self.recipe.batch / self.recipe.K),
            lr=lr,
            images_per_s=rate * self.recipe.batch,
            data_wait=(waited - self.waited) / elapsed,
            seconds_left=(steps - step) / rate,
        )
        for total in self.sums.values():
            total.zero_()
        self.count, self.steps_here, self.begun, self.waited = 0, 0, now, waited
        return progress

    def state(self) -> dict:
        return {"sums": self.sums, "count": self.count}

    def load(self, state: dict) -> None:
        self.count = state["count"]
        for name, total in self.sums.items():
            total.copy_(state["sums"][name])


class Clock:
    """Training time: what passes inside `with clock`, less what is paused."""

    def __enter__(self) -> Clock:
        self._begun = self._mark = time.perf_counter()
        self._paused = 0.0
        return self

    def __exit__(self, *_) -> None:
        pass

    def seconds(self) -> float:
        return time.perf_counter() - self._begun - self._paused

    @contextmanager
    def paused(self) -> Iterator[None]:
        begun = time.perf_counter()
        yield
        self._paused += time.perf_counter() - begun

    def mark(self) -> None:
        self._mark = time.perf_counter()

    def since_mark(self) -> float:
        return time.perf_counter() - self._mark


@contextmanager
def asked_to_stop() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set; a second one ends the process as usual."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # signals reach the main thread only
        return

    def handler(number: int, _frame: object) -> None:
        stop.set()
        signal.signal(number, before[number])

    before: dict[int, Any] = {int(s): signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)}
    for s in before:
        signal.signal(s, handler)
    try:
        yield stop
    finally:
        for s, old in before.items():
            signal.signal(s, old)
