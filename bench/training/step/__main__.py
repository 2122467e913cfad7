"""The training step against others', and the whole of training against the bare step.

    python -m bench.training.step [--images FOLDER] [--batch 32] [--seconds 300] [--out RESULT.json]

FOLDER holds images by class; without it the demo's are drawn. Everything in one process (lightly's
workers aside), rounds interleaved; a ratio is taken in every round, and its median counts. A round
begins only where it would end within --seconds. Exit code 1 where a promise is not kept.

- A ResNet-50 at 224, and the CIFAR ResNet-18 at batch 256, on tensors that are there: against the
  official code's way (float32, NCHW, the momentum update in a Python loop, a cloned queue, logits
  written out, accuracy read at every step). How far apart the two are depends on the batch, hence
  --batch: small ones stay in the caches, which helps the way that moves more bytes.
- The whole of training at 32 pixels against lightly's MoCo example, with lightly's own dataset,
  transform, collate, head and loss, its DataLoader with two workers, and the same trunk. What
  either side loaded ahead while others were measured is thrown away first.
- `train` on resident images against its bare step (views to optimizer's step), and with the threads
  engine, whose share of waiting for data is printed.

Beside each rate stands its arithmetic as a share of what this machine does in large matrix
products: a bound for all sides, which no layout or loop can pass.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.demo.images import generate
from bench.shared.command import Flags, finish
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
from fastmoco.terminal.console import progress, say, table

# (what, the faster, the slower, how many times as fast the project promises)
PROMISES = (
    ("ResNet-50 at 224", "fastmoco", "the official way", 4.0),
    ("CIFAR ResNet-18", "fastmoco", "the official way", 2.0),
    ("CIFAR ResNet-18, whole", "fastmoco", "lightly", 1.5),
    ("ResNet-50 at 224, train", "resident", "bare step", 0.95),
)


@dataclass(frozen=True)
class Sizes:
    """What is trained: photographs and small images."""

    photo: Recipe
    small: Recipe
    drawn: int
    """Images to draw where none are given."""


def sizes(batch: int, quick: bool) -> Sizes:
    """The sizes of the promises, or tiny ones."""
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
    """Everything that is measured, ready to be."""
    photo, small = size.photo, size.small
    shrunk = {"small": Policy(short_side=32), "photos": Policy(short_side=256, max_side=400)}
    for name, policy in shrunk.items():
        prepare(folder, work / name, dataclasses.replace(policy, reencode="always"))
    tiny, photos = (open_store(work / name) for name in shrunk)
    unpack(tiny, range(len(tiny)), work / "plain")  # both sides read the same files
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


def measured(
    ready: dict[tuple[str, str], Callable[[], float]], rounds: int, end: float
) -> dict[tuple[str, str], list[float]]:
    """Images/s of each side in each round; a round that would end after `end`, by the clock of
    time.monotonic(), is not begun, but for the first."""
    found: dict[tuple[str, str], list[float]] = {name: [] for name in ready}
    with progress("measuring", "runs") as tick:
        for number in range(rounds):
            begun = time.monotonic()
            for i, (name, side) in enumerate(ready.items()):
                found[name].append(side())
                tick(number * len(ready) + i + 1, rounds * len(ready))
            now = time.monotonic()
            if number + 1 < rounds and now + (now - begun) > end:
                say(f"stopped after {number + 1} of {rounds} rounds: another takes too long")
                break
    return found


def kind_of(name: tuple[str, str]) -> str:
    """Which of Sizes a comparison trains."""
    return "photo" if name[0].startswith("ResNet-50") else "small"


def judged(found: dict[tuple[str, str], list[float]]) -> list[tuple[str, bool]]:
    """Each promise whose sides were measured, in words, and whether it is kept."""
    lines = []
    for what, faster, slower, times in PROMISES:
        if (what, slower) in found:
            pairs = zip(found[what, faster], found[what, slower], strict=True)
            ratio = statistics.median(a / b for a, b in pairs)
            lines.append((f"{what}: {ratio:.2f} times {slower} ({times:g} promised)",
                          ratio >= times))
    return lines


def main() -> int:
    """Measure, print; exit 1 where a promise is not kept."""
    parser = Flags(__doc__)
    parser.add_argument("--images", type=Path, help="folder of images by class")
    parser.add_argument("--batch", type=int, default=32, help="of photographs")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=300, help="for all, roughly")
    parser.add_argument("--steps", type=int, default=2, help="of a side in a round")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: tests the script")
    parser.add_argument("--out", type=Path, help="write the result as JSON")
    args = parser.parse_args()
    end, size = time.monotonic() + args.seconds, sizes(args.batch, args.quick)
    waits: dict[str, list[float]] = {"resident": [], "threads": []}
    with tempfile.TemporaryDirectory() as temporary, contextlib.ExitStack() as close:
        folder = args.images
        if folder is None:
            say("no images given: drawing the demo's")
            generate(Path(temporary) / "images", seed=0, train=size.drawn, val=12)
            folder = Path(temporary) / "images" / "train"
        say("getting every side ready, a step each")
        ready = sides(size, folder, Path(temporary), args.steps, waits, close)
        found = measured(ready, args.rounds, end)
    products = product_rate(size.photo.precision)
    flops = {name: flops_an_image(r) for name, r in (("photo", size.photo), ("small", size.small))}
    table(
        ("what", "by", "images/s", "least", "most", "of matrix products"),
        [(*name, *(f"{f(rates):,.2f}" for f in (statistics.median, min, max)),
          f"{statistics.median(rates) * flops[kind_of(name)] / products:.0%}")
         for name, rates in found.items()],
    )
    say(
        f"{size.photo.precision} matrix products: {products / 1e9:,.0f} GFLOP/s; a step takes "
        + ", ".join(f"{count / 1e9:.1f} GFLOP an image ({name})" for name, count in flops.items())
    )
    for engine, shares in waits.items():
        say(f"train, engine {engine}: data wait {statistics.median(shares):.1%}")
    lines = judged(found)
    for line, good in lines:
        say(f"{'kept' if good else 'NOT KEPT'}: {line}")
    if args.out:
        content = {
            "rates": {" | ".join(name): rates for name, rates in found.items()},
            "flops_an_image": flops, "product_rate": products,
            "data_wait": waits, "steps": args.steps, "quick": args.quick,
            "batches": {"photo": size.photo.batch, "small": size.small.batch},
            "precision": size.photo.precision,
            "promises": [{"line": line, "kept": good} for line, good in lines],
            "machine": describe(CPU), **versions(),
        }  # fmt: skip
        args.out.write_text(json.dumps(content, indent=1) + "\n")
    return 0 if args.quick or all(good for _, good in lines) else 1


if __name__ == "__main__":
    finish(main)
