"""What to choose: a batch that fits a memory; what K, m, the rate, the epochs owe to the data."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from data_tools.errors import UserError
from data_tools.store import Store
from fastmoco.loading.engines.resident_gpu import LARGEST_SIDE, SHARE, needed
from fastmoco.measuring.step_memory import Estimate, estimate
from fastmoco.recipe import Recipe, most_keys
from fastmoco.run_options import RunOptions
from fastmoco.system.device import pick_device, pick_precision
from fastmoco.system.hardware import usable_memory
from fastmoco.training.checks import refuse_vast_keys

TRIES = 6  # estimates in the search for the largest batch
GB = 1e9
Tick = Callable[[int, int], None]


@dataclass(frozen=True)
class Advice:
    """One setting: as it is, as it might be, and why."""

    setting: str
    now: float
    suggested: float
    reason: str


@dataclass(frozen=True)
class DryRun:
    """What `fastmoco train --dry-run` tells."""

    samples: int
    device: str
    precision: str
    estimate: Estimate
    room: int | None
    """Bytes that may be used; None where that is not known."""
    largest: Estimate | None
    """The largest batch that fits into the room."""
    refused: str
    """Why train would not begin, or nothing."""
    advice: list[Advice]


def dry_run(
    recipe: Recipe, store: Store, options: RunOptions, room: int | None = None,
    tick: Tick | None = None,
) -> DryRun:
    """The estimate of a run, the largest batch in `room` bytes [default: the device's own], and
    what the settings owe to the dataset. A GPU need not be here: --device cuda asks about one."""
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
    refuse_vast_keys(recipe, room)
    refused = ""
    if recipe.mechanism == "queue" and recipe.K > samples and not options.force:
        refused = f"--K {recipe.K} is larger than the dataset ({samples} images)"
    images = resident_bytes(store, options, device, room)
    largest = None
    if room is not None:
        largest = largest_batch(recipe, samples, options, device, room - images, tick)
    return DryRun(
        samples, str(device), recipe.precision,
        estimate(recipe, samples, options, device).beside(images), room,
        None if largest is None else largest.beside(images), refused, advise(recipe, samples),
    )


def resident_bytes(
    store: Store, options: RunOptions, device: torch.device, room: int | None
) -> int:
    """Bytes of the dataset's images where the resident engine lays them on the device: it is asked
    for, or `auto` takes it (engines.open_engine) where there is so much room."""
    images = needed(store, device)
    if options.engine == "resident":
        return images
    small = int(store.sizes.max()) <= LARGEST_SIDE
    fits = room is None or images <= SHARE * room
    return images if options.engine == "auto" and small and fits else 0


def out_of_memory(recipe: Recipe, store: Store, options: RunOptions, ranks: int = 1) -> str:
    """The line for a run whose device had no room for a step, of one rank among so many."""
    device = pick_device(options.device)
    recipe = replace(recipe, precision=pick_precision(recipe.precision, device))
    room = usable_memory(device)
    room -= resident_bytes(store, options, device, room)
    return what_fits(recipe, len(store), options, device, room, ranks)


def resized(recipe: Recipe, batch: int) -> Recipe:
    """The recipe with another batch; K where it must follow."""
    return replace(recipe, batch=batch, K=max(recipe.K, batch * (2 if recipe.symmetric else 1)))


def largest_batch(
    recipe: Recipe, samples: int, options: RunOptions, device: torch.device, room: int,
    tick: Tick | None = None,
) -> Estimate | None:
    """The estimate of the largest batch that fits into `room` bytes, up to the dataset; None
    where not even two images a part of BatchNorm do.

    A batch is a multiple of --bn-splits times --accumulate. Memory is nearly a straight line in the
    batch, so the search goes along secants and each answer is an estimate of its own.
    """
    step = recipe.bn_splits * options.accumulate
    least, most = 2 * step, samples // step * step
    known: dict[int, Estimate] = {}

    def at(batch: int) -> Estimate:
        if batch not in known:
            known[batch] = estimate(resized(recipe, batch), samples, options, device)
            if tick is not None:
                tick(len(known), TRIES)
        return known[batch]

    if most < least or at(least).bytes > room:
        return None
    low, high = least, max(min(recipe.batch // step * step, most), 2 * least)
    while len(known) < TRIES:
        slope = (at(high).bytes - at(low).bytes) / (high - low)
        target = int((room - at(low).bytes) / slope) + low
        target = min(max(target // step * step, least), most)
        if target in known:
            break
        at(target)
        fit, too_large = ([b for b in known if (known[b].bytes <= room) == so] for so in (True,
                                                                                         False))
        low = max(fit)
        high = min(too_large) if too_large else sorted(known)[-2]
        if high - low == step:
            break
    return known[max(b for b in known if known[b].bytes <= room and b <= most)]


def what_fits(
    recipe: Recipe, samples: int, options: RunOptions, device: torch.device, room: int,
    ranks: int = 1,
) -> str:
    """After memory ran out: in one line, what would fit into `room` bytes on each of the ranks,
    which share out batch and BatchNorm's parts."""
    whole, samples = recipe, samples // ranks
    recipe = replace(
        recipe, batch=recipe.batch // ranks, bn_splits=max(1, recipe.bn_splits // ranks)
    )
    now = estimate(recipe, samples, options, device)
    room = min(room, int(0.9 * now.bytes))  # it did run out, whatever was estimated
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
    tell = ", or ".join(ways) if ways else "a smaller --size or --arch: no batch fits"
    return (
        f"out of memory: a step with --batch {whole.batch} takes about {now.bytes / GB:.1f} GB"
        f"{f' on each of {ranks} ranks' if ranks > 1 else ''}; use {tell}"
    )


def fewest_pieces(
    recipe: Recipe, samples: int, options: RunOptions, device: torch.device, room: int
) -> int | None:
    """The least --accumulate whose step fits, or None."""
    if recipe.mechanism == "end-to-end":
        return None
    for pieces in range(options.accumulate + 1, recipe.bn_splits + 1):
        if recipe.batch % pieces == 0 and recipe.bn_splits % pieces == 0:
            accumulated = replace(options, accumulate=pieces)
            if estimate(recipe, samples, accumulated, device).bytes <= room:
                return pieces
    return None


def advise(recipe: Recipe, samples: int) -> list[Advice]:
    """How K, m, the learning rate and the epochs might follow the dataset, each with its reason.

    The published settings are two points, ImageNet's (1911.05722, 2003.04297) and the official
    CIFAR-10 demo's; between them the rules are this project's reading, and each line says so.
    """
    found = []
    if recipe.mechanism == "queue":
        share = 2 ** round(math.log2(max(samples / 16, 1)))
        keys = max(min(65536, share, most_keys(samples, recipe.batch)), recipe.batch)
        found.append(Advice("K", recipe.K, keys, (
            f"{keys / samples:.0%} of the images: published are 65,536 of 1.28 million (5 %) and "
            "4,096 of 50,000 (8 %), where more gained nothing; a queue that holds the set's own "
            "images again has false negatives (rule: a sixteenth, to a power of two)"
        )))
    steps = max(samples // recipe.batch * recipe.epochs, 1)
    if recipe.mechanism != "memory-bank" and not recipe.shared:
        m = 0.999 if steps >= 100_000 else 0.99
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
