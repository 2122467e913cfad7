"""Advice before a run: the largest batch that fits into memory, and K, m, rate and epochs for the
dataset."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from data_tools.errors import UserError
from data_tools.store import Store
from fastmoco.loading.engines.resident_gpu import LARGEST_SIDE, SHARE, needed
from fastmoco.measuring.step_memory import Estimate, estimate
from fastmoco.recipe import Recipe
from fastmoco.run_options import RunOptions
from fastmoco.settings import queue_size
from fastmoco.system.device import pick_device, pick_precision
from fastmoco.system.hardware import usable_memory

GUESSES = 4  # estimates along a straight line, before the search halves its range
GB = 1e9
MANY_STEPS = 100_000  # from here on m = 0.999
Tick = Callable[[int, int], None]


@dataclass(frozen=True)
class Advice:
    """A setting: its value, a suggested value, and the reason."""

    setting: str
    now: float
    suggested: float
    reason: str


@dataclass(frozen=True)
class DryRun:
    """Result of `fastmoco train --dry-run`."""

    samples: int
    device: str
    precision: str
    estimate: Estimate
    room: int | None
    """Bytes that may be used, or None if that is not known."""
    largest: Estimate | None
    """Estimate of the largest batch that fits into the room, if any fits."""
    refused: str
    """Reason why train would refuse to start, or empty."""
    advice: list[Advice]


def dry_run(
    recipe: Recipe, store: Store, options: RunOptions, room: int | None = None,
    tick: Tick | None = None,
) -> DryRun:
    """Estimate the memory of a run, search for the largest batch, and give advice on the settings.

    room: bytes that may be used [default: all of the device's memory]. `--device cuda` works on a
    machine without a GPU too. Raises UserError as train does.
    """
    samples = len(store)
    recipe.check(samples)
    options.check()
    try:
        device = pick_device(options.device)
        recipe = replace(recipe, precision=pick_precision(recipe.precision, device))
        room = room or usable_memory(device)
    except UserError:
        if not options.device.startswith("cuda"):
            raise
        device = torch.device("cuda")
        if recipe.precision == "auto":
            recipe = replace(recipe, precision="bfloat16")
    refused = ""
    if recipe.mechanism == "queue":
        queue_size.refuse_vast(recipe.K, recipe.dim, room)
        refused = "" if options.force else queue_size.too_large(recipe.K, samples)
    images = resident_bytes(store, options, device, room)
    largest = None
    if room is not None:
        largest = largest_batch(recipe, samples, options, device, room - images, tick)
    return DryRun(
        samples, str(device), recipe.precision,
        estimate(recipe, samples, options, device).with_resident(images), room,
        None if largest is None else largest.with_resident(images), refused,
        advise(recipe, samples),
    )


def resident_bytes(
    store: Store, options: RunOptions, device: torch.device, room: int | None
) -> int:
    """Return the bytes of the dataset's images if the resident engine keeps them on the device:
    on request, or because `auto` takes it (loading.engines.registry.open_engine)."""
    images = needed(store, device)
    if options.engine == "resident":
        return images
    small = int(store.sizes.max()) <= LARGEST_SIDE
    fits = room is None or images <= SHARE * room
    return images if options.engine == "auto" and small and fits else 0


def out_of_memory(recipe: Recipe, store: Store, options: RunOptions, ranks: int = 1) -> str:
    """Return the error line for a run that had no memory for a step, on each of several ranks."""
    device = pick_device(options.device)
    recipe = replace(recipe, precision=pick_precision(recipe.precision, device))
    room = usable_memory(device)
    room -= resident_bytes(store, options, device, room)
    return what_fits(recipe, len(store), options, device, room, ranks)


def resized(recipe: Recipe, batch: int) -> Recipe:
    """Return the recipe with another batch, and with a K that holds it."""
    K = max(recipe.K, queue_size.least_keys(batch, recipe.symmetric))
    return replace(recipe, batch=batch, K=K)


def largest_batch(
    recipe: Recipe, samples: int, options: RunOptions, device: torch.device, room: int,
    tick: Tick | None = None,
) -> Estimate | None:
    """Return the estimate of the largest batch that fits into `room` bytes, up to the dataset.

    A batch is a multiple of --bn-splits times --accumulate. Returns None if not even two images
    per part of BatchNorm fit.
    """
    step = recipe.bn_splits * options.accumulate
    least, most = 2 * step, samples // step * step
    known: dict[int, Estimate] = {}

    def bytes_of(batch: int) -> int:
        if batch not in known:
            known[batch] = estimate(resized(recipe, batch), samples, options, device)
            if tick is not None:
                tick(len(known), max(len(known), GUESSES + 1))
        return known[batch].bytes

    if most < least or bytes_of(least) > room:
        return None
    fits = last_that_fits(bytes_of, room, range(least, most + 1, step), recipe.batch)
    return known[fits]


def last_that_fits(
    bytes_of: Callable[[int], int], room: int, batches: range, first_guess: int
) -> int:
    """Return the largest of `batches` whose bytes fit into the room; the first of them must fit.

    This is a bisection. A probe takes seconds, and memory is nearly a straight line in the batch,
    so the first probes come from a line through the smallest batch and the last probe. They are
    right at once or off by one step. The later ones halve the range, which bounds their number.
    """
    least, step = batches[0], batches.step
    fits, too_large = least, batches[-1] + step
    guess, probes = first_guess, 0
    while too_large - fits > step:
        if probes >= GUESSES:
            guess = (fits + too_large) // 2
        on_grid = least + (guess - least) // step * step
        probe = min(max(on_grid, fits + step), too_large - step)
        if bytes_of(probe) <= room:
            fits = probe
        else:
            too_large = probe
        probes += 1
        slope = (bytes_of(probe) - bytes_of(least)) / (probe - least)
        guess = least + int((room - bytes_of(least)) / max(slope, 1.0))
    return fits


def what_fits(
    recipe: Recipe, samples: int, options: RunOptions, device: torch.device, room: int,
    ranks: int = 1,
) -> str:
    """Return one line on the changes that would fit into `room` bytes on each of the ranks, which
    share out the batch and BatchNorm's parts."""
    whole, samples = recipe, samples // ranks
    recipe = replace(
        recipe, batch=recipe.batch // ranks, bn_splits=max(1, recipe.bn_splits // ranks)
    )
    now = estimate(recipe, samples, options, device)
    room = min(room, int(0.9 * now.bytes))  # the memory did run out, whatever the estimate says
    ways = []
    if not options.activation_checkpointing:
        leaner = replace(options, activation_checkpointing=True)
        if estimate(recipe, samples, leaner, device).bytes <= room:
            ways.append("--activation-checkpointing (the same batch, a third more time)")
    pieces = fewest_pieces(recipe, samples, options, device, room)
    if pieces is not None:
        ways.append(f"--accumulate {pieces} (the same batch in {pieces} pieces)")
    fitting = largest_batch(recipe, samples, options, device, room)
    if fitting is not None and fitting.batch < recipe.batch:
        rate = recipe.lr * fitting.batch / recipe.batch
        ways.append(f"--batch {fitting.batch * ranks} --lr {rate:.3g}")
    change = ", or ".join(ways) if ways else "a smaller --size or --arch: no batch fits"
    return (
        f"out of memory: a step with --batch {whole.batch} takes about {now.bytes / GB:.1f} GB"
        f"{f' on each of {ranks} ranks' if ranks > 1 else ''}; use {change}"
    )


def fewest_pieces(
    recipe: Recipe, samples: int, options: RunOptions, device: torch.device, room: int
) -> int | None:
    """Return the smallest --accumulate whose step fits, or None."""
    if recipe.mechanism == "end-to-end":
        return None
    for pieces in range(options.accumulate + 1, recipe.bn_splits + 1):
        if recipe.batch % pieces == 0 and recipe.bn_splits % pieces == 0:
            accumulated = replace(options, accumulate=pieces)
            if estimate(recipe, samples, accumulated, device).bytes <= room:
                return pieces
    return None


def advise(recipe: Recipe, samples: int) -> list[Advice]:
    """Suggest K, m, the learning rate and the epochs for a dataset, each with the reason.

    There are two published points: ImageNet (1911.05722, 2003.04297) and the official CIFAR-10
    demo. The rules between them are this project's, and each reason says so.
    """
    found = []
    if recipe.mechanism == "queue":
        keys = queue_size.advised_keys(samples, recipe.batch)
        found.append(Advice("K", recipe.K, keys, (
            f"{keys / samples:.0%} of the images: published are 65,536 of 1.28 million (5 %) and "
            "4,096 of 50,000 (8 %), where more gained nothing; a queue that holds the set's own "
            "images again has false negatives (rule: a sixteenth, to a power of two)"
        )))
    steps = max(samples // recipe.batch * recipe.epochs, 1)
    if recipe.mechanism != "memory-bank" and not recipe.shared:
        m = 0.999 if steps >= MANY_STEPS else 0.99
        found.append(Advice("m", recipe.m, m, (
            f"{steps:,} steps: the key encoder is a mean over the last 1/(1-m) of them; 0.999 is "
            "best on ImageNet's million steps (59.0 against 57.8 with 0.99), the CIFAR-10 demo has "
            "0.99 for 19,400 (rule: 0.99 below 100,000 steps)"
        )))
    base = 0.06 / 512 if recipe.size <= 64 else 0.03 / 256
    found.append(Advice("lr", recipe.lr, float(f"{base * recipe.batch:.3g}"), (
        f"in proportion to the batch: published are 0.03 for 256, 0.015 for 128, 0.06 for 512; "
        f"here {recipe.batch}"
    )))
    epochs = 200 if samples >= 500_000 else 400 if samples >= 100_000 else 800
    found.append(Advice("epochs", recipe.epochs, epochs, (
        f"{samples * epochs / 1e6:,.0f} million images seen: ImageNet's 200 epochs see 256 "
        "million, and small sets go on gaining (CIFAR-10 demo: 82.6 % after 200 epochs, 86.3 "
        "after 400, 88.7 after 800; rule: 400 below half a million images, 800 below 100,000)"
    )))
    return found
