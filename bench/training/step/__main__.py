"""Compares the training step with other code's, and all of training with its bare step.

    python -m bench.training.step [--images FOLDER] [--batch 32] [--seconds 300] [--out RESULT.json]

FOLDER holds images by class; without it the demo's are drawn. Everything runs in one process
(except lightly's workers) and in interleaved rounds; each ratio is taken per round, and its median
counts. A round starts only if it would end within --seconds. Exits with 1 if a promise is not kept.

- A ResNet-50 at 224, and the CIFAR ResNet-18 at batch 256, on tensors in memory, against the
  official code's way: float32, NCHW, the momentum update in a Python loop, a cloned queue, logits
  written out, accuracy read at every step. The ratio depends on --batch: small batches stay in the
  caches, which helps the way that moves more bytes.
- All of training at 32 pixels against lightly's MoCo example: lightly's own dataset, transform,
  collate, head and loss, its DataLoader with two workers, and the same trunk. Batches that either
  side loaded ahead while others were measured are dropped first.
- `train` on resident images against its bare step (from views to the optimizer's step), and with
  the threads engine, whose share of time waiting for data is printed.

Next to each rate is its arithmetic as a share of this machine's rate in large matrix products. That
rate bounds all sides: no layout and no loop can pass it.
"""

from __future__ import annotations

from pathlib import Path

from bench.shared.command import Flags, finish

with Flags(__name__, __doc__) as flags:
    flags.add_argument("--images", type=Path, metavar="FOLDER", help="folder of images by class")
    flags.add_argument("--batch", type=int, default=32, help="photographs per batch [default: 32]")
    flags.add_rounds(3)
    flags.add_argument("--seconds", type=float, default=300,
                       help="approximate limit for all rounds [default: 300]")
    flags.add_argument("--steps", type=int, default=2,
                       help="steps per side and round [default: 2]")
    flags.add_argument("--quick", action="store_true", help="tiny sizes, which test the script")
    flags.add_out()

import contextlib
import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from bench.demo.photographs import drawn
from bench.shared.promises import Promise, in_json, verdict
from bench.shared.results import write_json
from bench.shared.rounds import alternate, ratio, spread
from bench.training.step.sides import (
    CPU,
    Side,
    flops_an_image,
    lightly,
    official,
    ours,
    product_rate,
    trained,
    unpack,
)
from data_tools.open import open_store
from data_tools.policy import Policy
from data_tools.prepare import prepare
from fastmoco.recipe import MOCO_CIFAR, MOCO_V2, Recipe
from fastmoco.system.device import pick_precision
from fastmoco.system.hardware import describe
from fastmoco.system.versions import versions
from fastmoco.terminal.console import say, table

# (comparison, the faster side, the slower side, the promised ratio of their rates)
PROMISES = (
    ("ResNet-50 at 224", "fastmoco", "the official way", 4.0),
    ("CIFAR ResNet-18", "fastmoco", "the official way", 2.0),
    ("CIFAR ResNet-18, whole", "fastmoco", "lightly", 1.5),
    ("ResNet-50 at 224, train", "resident", "bare step", 0.95),
)


@dataclass(frozen=True)
class Sizes:
    """The recipes of photographs and of small images."""

    photo: Recipe
    small: Recipe
    drawn: int
    """Number of images to draw if none are given."""


def sizes(batch: int, quick: bool) -> Sizes:
    """Return the sizes that the promises are about, or tiny ones."""
    auto = pick_precision("auto", CPU)
    photo = dataclasses.replace(MOCO_V2, batch=batch, bn_splits=1, precision=auto)
    small = dataclasses.replace(MOCO_CIFAR, batch=256, head="mlp", precision=auto)
    if not quick:
        return Sizes(photo, small, 768)
    tiny = {"arch": "resnet-mini", "batch": 8, "K": 64}
    return Sizes(
        dataclasses.replace(photo, size=32, **tiny),
        dataclasses.replace(small, stem="imagenet", bn_splits=4, **tiny), 64,
    )


def sides(
    size: Sizes, folder: Path, work: Path, steps: int, waits: dict[str, list[float]],
    close: contextlib.ExitStack,
) -> dict[tuple[str, str], Callable[[], float]]:
    """Prepare the data and every side; return a function per side that measures its images/s."""
    photo, small = size.photo, size.small
    shrunk = {"small": Policy(short_side=32), "photos": Policy(short_side=256, max_side=400)}
    for name, policy in shrunk.items():
        prepare(folder, work / name, dataclasses.replace(policy, reencode="always"))
    tiny, photos = (open_store(work / name) for name in shrunk)
    unpack(tiny, range(len(tiny)), work / "plain")  # ours and lightly read the same files
    unpack(photos, range(2 * steps * photo.batch), work / "few")  # one epoch, two log lines
    prepare(work / "few", work / "data", Policy())
    alone_50, bare_50, _ = ours(photo, photos, close)
    alone_18, _, whole_18 = ours(small, tiny, close)
    first, second, third, fourth = (name for name, *_ in PROMISES)
    few = max(1, steps // 2)  # of large batches
    ready: dict[tuple[str, str], tuple[Side | None, int]] = {
        (first, "fastmoco"): (alone_50, steps),
        (first, "the official way"): (official(photo), steps),
        (second, "fastmoco"): (alone_18, few),
        (second, "the official way"): (official(small), few),
        (third, "fastmoco"): (whole_18, few),
        (third, "lightly"): (lightly(small, work / "plain"), few),
        (fourth, "bare step"): (bare_50, steps),
        (fourth, "resident"): (
            trained(photo, work / "data", "resident", waits["resident"]), steps
        ),
        (fourth, "threads"): (trained(photo, work / "data", "threads", waits["threads"]), steps),
    }
    return {
        name: partial(side, count) for name, (side, count) in ready.items() if side is not None
    }


def kind_of(name: tuple[str, str]) -> str:
    """Return the name of the recipe in Sizes that a comparison trains."""
    return "photo" if name[0].startswith("ResNet-50") else "small"


def judged(found: dict[tuple[str, str], list[float]]) -> list[Promise]:
    """Return the promises whose sides were measured."""
    lines = []
    for what, faster, slower, times in PROMISES:
        if (what, slower) in found:
            measured = ratio(found[what, faster], found[what, slower])
            lines.append((f"{what}: {measured:.2f} times {slower} ({times:g} promised)",
                          measured >= times))
    return lines


def main() -> int:
    """Measure, print; return 1 if a promise is not kept."""
    args = flags.parse_args()
    end, size = time.monotonic() + args.seconds, sizes(args.batch, args.quick)
    waits: dict[str, list[float]] = {"resident": [], "threads": []}
    with tempfile.TemporaryDirectory() as temporary, contextlib.ExitStack() as close:
        folder = args.images or drawn(Path(temporary), size.drawn)
        say("preparing every side; each takes one step")
        ready = sides(size, folder, Path(temporary), args.steps, waits, close)
        found = alternate(ready, args.rounds, end=end)
    products = product_rate(size.photo.precision)
    flops = {name: flops_an_image(r) for name, r in (("photo", size.photo), ("small", size.small))}
    table(
        ("what", "by", "images/s", "least", "most", "of matrix products"),
        [(*name, *(f"{x:,.2f}" for x in spread(rates)),
          f"{spread(rates)[0] * flops[kind_of(name)] / products:.0%}")
         for name, rates in found.items()],
    )
    say(
        f"{size.photo.precision} matrix products: {products / 1e9:,.0f} GFLOP/s; a step takes "
        + ", ".join(f"{count / 1e9:.1f} GFLOP per image ({name})" for name, count in flops.items())
    )
    for engine, shares in waits.items():
        say(f"train, engine {engine}: data wait {statistics.median(shares):.1%}")
    lines = judged(found)
    code = verdict(lines)
    if args.out:
        write_json(args.out, {
            "rates": {" | ".join(name): rates for name, rates in found.items()},
            "flops_an_image": flops, "product_rate": products,
            "data_wait": waits, "steps": args.steps, "quick": args.quick,
            "batches": {"photo": size.photo.batch, "small": size.small.batch},
            "precision": size.photo.precision,
            "promises": in_json(lines), "machine": describe(CPU), **versions(),
        })  # fmt: skip
    return 0 if args.quick else code


if __name__ == "__main__":
    finish(main)
