"""Measures kNN on CIFAR-10 after eight minutes of training on a CPU, at step 0, and of raw pixels.

    python -m bench.learning.cifar10 FOLDER

FOLDER holds cifar10-train.tar and cifar10-test.tar (CIFAR-10 as JPEGs, split/class/number.jpg). The
recipe is moco-cifar-mini, with as many epochs as --budget fits into eight minutes. Features are the
pooled trunk's, from one forward pass of the plain image; k = 200, T = 0.1; the bank is the 50,000
training images, the queries are the 10,000 test images. Training time is the trainer's own clock,
which leaves out checkpoints and the kNN itself. Exits with 1 if the median of the seeds is too low.
"""

from __future__ import annotations

from pathlib import Path

from bench.shared.command import Flags, finish
from fastmoco.recipe import RECIPES

with Flags(__name__, __doc__) as flags:
    flags.add_argument("folder", type=Path, help="folder of both tars")
    flags.add_argument("--seeds", type=int, default=3, help="number of runs [default: 3]")
    flags.add_argument("--recipe", default="moco-cifar-mini", choices=sorted(RECIPES))
    flags.add_argument("--work", type=Path, help="keeps data and runs [default: temporary]")
    flags.add_out()

import dataclasses
import statistics
import tempfile
import time

from bench.shared.results import environment, write_json
from data_tools.errors import UserError
from data_tools.open import open_store
from data_tools.prepare import prepare
from fastmoco.evaluation.knn import CIFAR_DEMO, knn
from fastmoco.run_options import RunOptions
from fastmoco.runs.events import Ended, Event
from fastmoco.system.device import pick_device
from fastmoco.terminal.console import say, table
from fastmoco.terminal.live_panel import print_event
from fastmoco.training.train import train

MOST_SECONDS = 480
LEAST, LEAST_GAIN = 0.56, 0.17  # of the medians: kNN, and kNN less that at step 0


def to_the_end(event: Event) -> None:
    """End the script if a run was stopped: half a run gives no figure."""
    if isinstance(event, Ended) and not event.finished:
        raise UserError("stopped before the end: nothing was measured")


def main() -> int:
    """Prepare, train once per seed, measure; return 1 if the figure is not met."""
    args = flags.parse_args()
    device = pick_device("auto")
    results = []
    with tempfile.TemporaryDirectory() as temporary:
        work, started = args.work or Path(temporary), time.perf_counter()
        for split in ("train", "test"):
            prepare(args.folder / f"cifar10-{split}.tar", work / split)
        prep_seconds = time.perf_counter() - started
        say(f"prepared 60,000 images in {prep_seconds:.1f} s")
        stores = [open_store(work / split) for split in ("train", "test")]
        for seed in range(args.seeds):
            recipe = dataclasses.replace(RECIPES[args.recipe], seed=seed)
            options = RunOptions(
                out=str(work / f"run{seed}"), log_every=200, budget=f"{MOST_SECONDS}s"
            )
            last = train(work / "train", recipe, options, [print_event, to_the_end])
            rows = knn(last, *stores, device)
            top1 = {r.features: r.top1 for r in rows if r.protocol == CIFAR_DEMO.name}
            images = last.step * last.recipe.batch
            results.append({
                "seed": seed, "seconds": last.clock["train_seconds"], "images": images, **top1,
            })
            say(f"seed {seed}: {results[-1]}")
    table(
        ("seed", "training s", "trained", "at step 0", "raw pixels"),
        [
            (
                str(r["seed"]), f"{r['seconds']:.0f}",
                *(f"{r[k]:.2%}" for k in ("trained", "at step 0", "raw pixels")),
            )
            for r in results
        ],
    )
    trained = statistics.median(r["trained"] for r in results)
    gain = statistics.median(r["trained"] - r["at step 0"] for r in results)
    seconds = max(r["seconds"] for r in results)
    say(f"median {trained:.2%}, {gain:+.2%} over step 0, at most {seconds:.0f} s of training")
    if args.out:
        write_json(args.out, {
            "prep_seconds": prep_seconds, "results": results, **environment(device),
        })
    return 0 if trained >= LEAST and gain >= LEAST_GAIN and seconds <= MOST_SECONDS else 1


if __name__ == "__main__":
    finish(main)
