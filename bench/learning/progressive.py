"""Measures views that grow during a run: seconds and kNN on CIFAR-10, against fixed sizes.

    python -m bench.learning.progressive FOLDER [--epochs 8] [--seeds 2] [--out RESULT.json]

FOLDER holds cifar10-train.tar (split/class/number.jpg). Every form trains moco-cifar-mini for the
same number of epochs on 45,000 of the images. kNN (k = 200, T = 0.1) classifies the other 5,000 at
32 pixels. Forms take turns within a seed. Seconds are the trainer's own clock.
"""

from __future__ import annotations

from pathlib import Path

from bench.shared.command import Flags, finish

with Flags(__name__, __doc__) as flags:
    flags.add_argument("folder", type=Path, help="folder of cifar10-train.tar")
    flags.add_argument("--epochs", type=int, default=8, help="epochs per form [default: 8]")
    flags.add_argument("--seeds", type=int, default=2, help="runs per form [default: 2]")
    flags.add_argument("--held-out", type=int, default=5000,
                       help="number of images to measure with [default: 5000]")
    flags.add_out()

import dataclasses
import tempfile

from bench.shared.cifar_split import split
from bench.shared.results import write_json
from bench.shared.rounds import spread
from data_tools.open import open_store
from fastmoco.evaluation.knn import CIFAR_DEMO, knn
from fastmoco.recipe import MOCO_CIFAR_MINI
from fastmoco.run_options import RunOptions
from fastmoco.system.device import pick_device
from fastmoco.system.hardware import describe
from fastmoco.system.versions import versions
from fastmoco.terminal.console import say, table
from fastmoco.training.train import train

# Side lengths of the views; each is used for an equal part of the steps.
FORMS = ((24,), (16, 24), (16, 20, 24), (12, 24), (16,))


def main() -> int:
    """Train every form with every seed, measure, print."""
    args = flags.parse_args()
    device = pick_device("auto")
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        data, held_out = split(args.folder, Path(temporary), args.held_out)
        stores = open_store(data), open_store(held_out)
        for seed in range(args.seeds):
            for sides in FORMS:
                recipe = dataclasses.replace(
                    MOCO_CIFAR_MINI, seed=seed, epochs=args.epochs, size=sides[-1],
                    progressive=sides if len(sides) > 1 else (),
                )
                out = Path(temporary) / f"{'-'.join(map(str, sides))}-{seed}"
                last = train(data, recipe, RunOptions(out=str(out), force=True))
                found = knn(last, *stores, device, companions=False)
                top1 = next(r.top1 for r in found if r.protocol == CIFAR_DEMO.name)
                seconds = last.clock["train_seconds"]
                rows.append({"sides": sides, "seed": seed, "seconds": seconds, "knn": top1})
                say(f"{named(sides)}, seed {seed}: {seconds:.0f} s, kNN {top1:.1%}")
    table(("views", "s", "kNN", "least", "most"), [summary(rows, sides) for sides in FORMS])
    if args.out:
        write_json(args.out, {
            "epochs": args.epochs, "results": rows, "machine": describe(device), **versions(),
        })
    return 0


def named(sides: tuple[int, ...]) -> str:
    """Return the side lengths in words."""
    return " to ".join(map(str, sides)) + " pixels"


def summary(rows: list[dict], sides: tuple[int, ...]) -> tuple[str, ...]:
    """Return a form's row: median seconds; kNN's median, least and most over the seeds."""
    mine = [r for r in rows if r["sides"] == sides]
    seconds, _, _ = spread([r["seconds"] for r in mine])
    top1 = spread([r["knn"] for r in mine])
    return named(sides), f"{seconds:.0f}", *(f"{x:.1%}" for x in top1)


if __name__ == "__main__":
    finish(main)
