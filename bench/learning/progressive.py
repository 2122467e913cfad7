"""What views that grow while a run lasts give: seconds and kNN on CIFAR-10.

    python -m bench.learning.progressive FOLDER [--epochs 8] [--seeds 2] [--out RESULT.json]

FOLDER holds cifar10-train.tar (split/class/number.jpg). The recipe is moco-cifar-mini with as many
epochs for every form, on 45,000 of the images; kNN (k = 200, T = 0.1) is that of the other 5,000,
seen at 32 pixels. Forms take turns within a seed. Seconds are the trainer's own clock.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import tempfile
from pathlib import Path

from bench.shared.cifar_split import COUNT, split
from bench.shared.command import Flags, finish
from data_tools.open import open_store
from fastmoco.evaluation.knn import CIFAR_DEMO, knn
from fastmoco.recipe import MOCO_CIFAR_MINI
from fastmoco.run_options import RunOptions
from fastmoco.system.device import pick_device
from fastmoco.system.hardware import describe
from fastmoco.system.versions import versions
from fastmoco.terminal.console import say, table
from fastmoco.training.train import train

# Sides of the views, in equal parts of the steps; the last is the side that they end with.
FORMS = ((24,), (16, 24), (16, 20, 24), (12, 24), (16,))


def main() -> int:
    """Train every form with every seed, measure, tell."""
    parser = Flags(__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--held-out", type=int, default=COUNT, help="images to measure with")
    parser.add_argument("--out", type=Path, help="write the result as JSON")
    args = parser.parse_args()
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
        content = {
            "epochs": args.epochs, "results": rows, "machine": describe(device), **versions()
        }
        args.out.write_text(json.dumps(content, indent=1) + "\n")
    return 0


def named(sides: tuple[int, ...]) -> str:
    """Sides in words."""
    return " to ".join(map(str, sides)) + " pixels"


def summary(rows: list[dict], sides: tuple[int, ...]) -> tuple[str, ...]:
    """The line of a form: median seconds and kNN over the seeds."""
    mine = [r for r in rows if r["sides"] == sides]
    top1 = [r["knn"] for r in mine]
    seconds = statistics.median(r["seconds"] for r in mine)
    return named(sides), f"{seconds:.0f}", *(
        f"{f(top1):.1%}" for f in (statistics.median, min, max)
    )


if __name__ == "__main__":
    finish(main)
