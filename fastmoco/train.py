"""Pre-training, from a prepared dataset to an encoder: one function, read top to bottom."""

from __future__ import annotations

import dataclasses
import functools
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from data_tools.errors import UserError
from data_tools.open import open_store
from data_tools.store import Store
from fastmoco import checkpoint as checkpoints
from fastmoco.augment import augment
from fastmoco.augment_fast import augment_fast
from fastmoco.augment_kornia import augment_kornia
from fastmoco.augment_numba import augment_numba
from fastmoco.batch import Batch
from fastmoco.checkpoint import Checkpoint
from fastmoco.device import (
    DTYPES,
    autocast,
    choose_deterministic,
    describe,
    grad_scaler,
    pick_device,
    pick_precision,
)
from fastmoco.encoder import build_encoder
from fastmoco.engines import open_engine
from fastmoco.events import Ended, Listener, Noted, Saved, Started
from fastmoco.loader import TrainLoader
from fastmoco.moco import MoCo, Out, compile_parts, make_optimizer
from fastmoco.monitor import Monitor
from fastmoco.progress import Clock, Window
from fastmoco.read_ahead import pick_order
from fastmoco.recipe import Recipe, RunOptions
from fastmoco.run_dir import RunDir, default_out
from fastmoco.schedule import learning_rate


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
    options.check()
    store = open_store(data)
    recipe.check(len(store))
    device = pick_device(options.device)
    choose_deterministic(device)
    aug, aug_note = recipe.augmentation.for_resolution(recipe.size)
    recipe = dataclasses.replace(
        recipe, precision=pick_precision(recipe.precision, device), augmentation=aug
    )
    run = RunDir(options.out or default_out(data, recipe), options.resume)
    saved = resumable(run, recipe, store, device) if options.resume else None
    wanted_order = recipe.order if saved is None else saved.recipe.order
    order, order_note = pick_order(wanted_order, store)
    recipe = dataclasses.replace(recipe, order=order)
    monitor = Monitor(store, options, recipe, device) if options.val else None
    listeners = [run, *listeners]

    def tell(event) -> None:
        for listener in listeners:
            listener(event)

    torch.manual_seed(recipe.seed)
    moco = MoCo(build_encoder(recipe), recipe.dim, recipe.K, recipe.m, recipe.T).to(device)
    optimizer = make_optimizer(moco, recipe)
    scaler = grad_scaler(device, recipe.precision)
    wanted: str = options.engine
    if saved is not None and wanted == "auto":  # the same bits take the same decoder
        wanted = saved.versions.get("engine", wanted)
    engine, engine_name, how = open_engine(wanted, store, options.threads, device)
    loader = TrainLoader(store, recipe, engine, device)
    window = Window(loader, recipe, device)
    to_images, form, note = augmentation(options, device)
    if options.compile and lacks_compiler(device) is None:
        compile_parts(moco)

    dtype = DTYPES[recipe.precision]
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
        recipe, len(store), per_epoch, step, describe(device), how, parameters, str(run.path),
    ))
    for line in (note, order_note, aug_note):
        if line is not None:
            tell(Noted(line))
    if recipe.K > len(store):
        tell(Noted(
            f"--K {recipe.K} is larger than the dataset ({len(store)} images): the negatives hold "
            f"older keys of the same images; a --K well below the dataset's size learns more"
        ))
    made_by = checkpoints.versions() | {
        "device": device.type, "augment": form, "compile": str(options.compile),
        "engine": engine_name,
    }
    if saved is not None and saved.versions != made_by:
        differ = [k for k, v in made_by.items() if saved.versions.get(k) != v]
        tell(Noted(f"not to the same bits: {', '.join(differ)} differ from the checkpoint's"))

    def save() -> Checkpoint:
        state = Checkpoint(
            recipe, moco.state_dict(), optimizer.state_dict(), scaler.state_dict(), step,
            store.fingerprint, len(store), window.state(), torch.get_num_threads(),
            made_by, {"train_seconds": earlier + clock.seconds()},
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
                    out = training_step(moco, optimizer, scaler, im_q, im_k, batch, recipe)
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


def training_step(
    moco: MoCo,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    im_q: torch.Tensor,
    im_k: torch.Tensor,
    batch: Batch,
    recipe: Recipe,
) -> Out:
    """One step of Algorithm 1 on two views [N, 3, S, S]; nothing in it waits for the device."""
    shuffle = batch.shuffle if recipe.bn_splits > 1 else None  # one part: nothing to deal
    with autocast(im_q.device, recipe.precision):
        out = moco(im_q, im_k, batch.index, shuffle)
    scaler.scale(out.loss).backward()
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
    moco.update(out)
    return out


def augmentation(
    options: RunOptions, device: torch.device
) -> tuple[Callable[..., torch.Tensor], str, str | None]:
    """The augmentation for a device, its name, and a note where it cannot be compiled.

    On a GPU it is compiled unless --augment torch asks for the plain form: eagerly it takes 600
    launches and thirty times the memory traffic (bench/gpu_model.py).
    """
    if options.augment == "kornia":
        return augment_kornia, "kornia", None
    if device.type == "cpu" and options.augment == "auto":
        return partial(augment_numba, threads=options.threads or None), "numba", None
    form = augment if options.augment == "torch" else augment_fast
    if not options.compile and options.augment == "torch":
        return augment, "torch", None
    missing = lacks_compiler(device)
    if missing is not None:
        return augment, "torch", f"the augmentation is not compiled: {missing}"
    return torch.compile(form, fullgraph=True, dynamic=False), f"{form.__name__}, compiled", None


@functools.cache
def lacks_compiler(device: torch.device) -> str | None:
    """What torch.compile misses on this machine for a device, and how to get it: a compiler, or
    whatever a first trial stops at (a header, a GPU that Triton does not know)."""
    names = ("g++", "clang++") if device.type == "cpu" else ("gcc", "cc", "clang")
    if not any(shutil.which(name) for name in (os.environ.get("CXX", ""), *names) if name):
        language = "C++" if device.type == "cpu" else "C"
        return f"no {language} compiler here (Debian: apt-get install g++)"
    try:
        torch.compile(lambda x: x + 1)(torch.ones(8, device=device))
    except Exception as error:  # of Dynamo, Inductor, Triton, the compiler, the driver
        said = next((line for line in str(error).splitlines() if line.strip()), repr(error))
        return f"torch.compile does not work here ({said.strip()[:200]})"
    return None


def resumable(run: RunDir, recipe: Recipe, store: Store, device: torch.device) -> Checkpoint:
    """The run's checkpoint; UserError where it belongs to another recipe or dataset."""
    saved = checkpoints.load(run.checkpoint, device)
    for field in dataclasses.fields(recipe):
        ours, theirs = getattr(recipe, field.name), getattr(saved.recipe, field.name)
        if ours != theirs and not (field.name == "order" and "auto" in (ours, theirs)):
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
