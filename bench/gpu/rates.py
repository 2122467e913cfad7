"""Rates and memory of a step on a device, and rates of the augmentation's forms."""

from __future__ import annotations

import dataclasses
import gc
import time
from collections.abc import Callable

import torch

from bench.gpu.checks import Check
from bench.gpu.ways import FORMS, SAMPLES, How, compile_it, narrower, prepared, views
from fastmoco.measuring.step_memory import Walk, walk, walked
from fastmoco.model.activation_checkpointing import recompute_blocks
from fastmoco.model.build import build_moco, make_optimizer
from fastmoco.recipe import Recipe
from fastmoco.system.device import DTYPES, choose_deterministic, grad_scaler
from fastmoco.system.hardware import free_memory
from fastmoco.system.streams import synchronize
from fastmoco.terminal.console import say
from fastmoco.training.step import training_step

MEMORY_WITHIN = 0.15  # allowed relative error of a step's predicted memory
STEP = {"eager": How(), "compiled": How(compiled=True), "CUDA graphs": How(compiled=True,
                                                                           graphs=True)}


def rate(work: Callable[[], object], images: int, device: torch.device, seconds: float) -> float:
    """Return the images/s of `work`, repeated for about `seconds` after three calls to warm up."""
    for _ in range(3):
        work()
    synchronize(device)
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        work()
        synchronize(device)
        count += 1
    return count * images / (time.perf_counter() - started)


def augmentation_rates(recipe: Recipe, device: torch.device, seconds: float) -> dict[str, float]:
    """Return the views/s of each form of the augmentation."""
    forms = {f"{name}, eager": form for name, form in FORMS.items()}
    if device.type == "cuda":
        for name in ("torch", "fast"):
            forms[f"{name}, compiled"] = torch.compile(FORMS[name], fullgraph=True, dynamic=False)
    pixels, colour = views(recipe, device)
    dtype = DTYPES[recipe.precision]
    return {
        name: rate(
            lambda form=form: form(pixels, colour, recipe.augmentation, dtype),
            2 * recipe.batch, device, seconds,
        )
        for name, form in forms.items()
    }


class Stepper:
    """A model that takes training steps on images already on the device."""

    def __init__(self, recipe: Recipe, how: How, device: torch.device) -> None:
        choose_deterministic(device)  # as train does
        torch.manual_seed(0)
        self.moco = build_moco(recipe, SAMPLES, device, pieces=how.pieces)
        if how.recomputed:
            recompute_blocks(self.moco)
        compile_it(self.moco, how)
        self.recipe, self.pieces = recipe, how.pieces
        self.optimizer = make_optimizer(self.moco, recipe)
        self.scaler = grad_scaler(device, recipe.precision)
        shape = (2, recipe.batch, recipe.size, recipe.size, 3)
        images = torch.randn(shape, device=device).to(DTYPES[recipe.precision])
        self.batch = prepared(recipe, images.permute(0, 1, 4, 2, 3))

    def step(self) -> None:
        """Take one training step."""
        training_step(
            self.moco, self.optimizer, self.scaler, self.batch, self.recipe, self.pieces
        )


def step_rates(recipe: Recipe, device: torch.device, seconds: float) -> dict[str, float]:
    """Return the images/s of the step in each precision and in each form."""
    types = ("float32", *narrower(device)) if device.type == "cuda" else ("float32",)
    wanted = [(p, "eager") for p in types]
    rows = [(f"{p}, {form}", p, form, recipe.bn_splits) for p, form in wanted]
    if device.type == "cuda":  # split BatchNorm compiles for minutes, so the forms use one
        rows += [
            (f"{recipe.precision}, {form}, BatchNorm whole", recipe.precision, form, 1)
            for form in STEP
        ]
    found = {}
    for name, precision, form, splits in rows:
        own = dataclasses.replace(recipe, precision=precision, bn_splits=splits)
        taken: Stepper | None = None
        try:
            taken = Stepper(own, STEP[form], device)
            found[name] = rate(taken.step, recipe.batch, device, seconds)
        except Exception as error:  # the other forms are measured nonetheless
            say(f"{name}: {first_line(error)}")
            found[name] = 0.0
        del taken
        gc.collect()
    return found


def total(step: Walk) -> int:
    """Return the bytes of a step at its peak."""
    return sum(step.lasting.values()) + sum(step.peak.values())


def memory_checks(recipe: Recipe, device: torch.device, quick: bool) -> list[Check]:
    """Compare a step's peak memory with fastmoco.measuring.step_memory's prediction.

    A check's figure is the relative error. A CPU has no counter of its peak, so there the tensors
    of a real step are counted."""
    found, ways = [], {"": How(), ", activation checkpointing": How(recomputed=True)}
    if not quick:
        ways[", in two pieces"] = How(pieces=2)
    if device.type == "cuda":  # from here on cuBLAS and cuDNN keep a workspace
        Stepper(dataclasses.replace(recipe, arch="resnet-mini", size=32), How(), device).step()
    for name, how in ways.items():
        predicted = total(walked(recipe, SAMPLES, how.pieces, how.recomputed))
        if device.type == "cuda":
            gc.collect()
            before = torch.cuda.memory_allocated(device)
            taken = Stepper(recipe, how, device)
            taken.step()
            torch.cuda.reset_peak_memory_stats(device)
            taken.step()
            synchronize(device)
            measured = torch.cuda.max_memory_allocated(device) - before
            del taken
        else:
            measured = total(walk(recipe, SAMPLES, how.pieces, how.recomputed, real=True))
        note = f"{measured / 1e9:.3f} GB, {predicted / 1e9:.3f} predicted"
        found.append(Check(f"memory of {recipe.arch} at {recipe.size}, batch {recipe.batch}{name}",
                           abs(predicted / measured - 1), MEMORY_WITHIN, note))
    return found


def fitting(recipe: Recipe, device: torch.device) -> Recipe:
    """Halve the recipe's batch until a float32 step needs at most half of the device's memory."""
    while device.type == "cuda" and recipe.batch > 32:
        wide = dataclasses.replace(recipe, precision="float32")
        if total(walked(wide, SAMPLES)) < 0.5 * free_memory(device):
            break
        recipe = dataclasses.replace(recipe, batch=recipe.batch // 2)
    return recipe


def first_line(error: Exception) -> str:
    """Return the first line of an error's message that is not empty."""
    return next((x for x in str(error).splitlines() if x.strip()), repr(error)).strip()[:200]
