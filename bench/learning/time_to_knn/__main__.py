"""Measures the time to a kNN accuracy on CIFAR-10: fastmoco against a plain MoCo, same encoder.

    python -m bench.learning.time_to_knn FOLDER [--work DIR] [--out bench/results/time_to_knn]

FOLDER holds cifar10-train.tar (split/class/number.jpg). Sides train on 45,000 of its images. Every
20 s of training, off the clock, kNN (k = 200, T = 0.1, pooled trunk, plain images) classifies the
other 5,000: with 5,000 images in the bank, and with all 45,000 once that comes near the goal.

Sides take turns of 20 s. Each is a process of its own that stands still during the others' turns,
so that other work on the machine affects all alike:
- the plain reference (plain_moco.py in this folder) at three learning rates, of which the best
  counts;
- with --same, fastmoco with the reference's recipe, which shows the effect of the code alone;
- fastmoco with a recipe of its own: smaller views, larger crops, smaller batches.

Exits with 1 if the last takes more than a quarter of the reference's time.
"""

from __future__ import annotations

from pathlib import Path

from bench.shared.command import Flags, finish

with Flags(__name__, __doc__) as flags:
    flags.add_argument("folder", type=Path, help="folder of cifar10-train.tar")
    flags.add_argument("--work", type=Path, help="folder that keeps the split [default: temporary]")
    flags.add_out("folder for the JSON and the chart")
    flags.add_argument("--every", type=float, default=20.0, help="seconds per turn [default: 20]")
    flags.add_argument("--most", type=float, default=1200.0,
                       help="limit of a side's training in seconds [default: 1200]")
    flags.add_argument("--seed", type=int, default=0, help="[default: 0]")
    flags.add_argument("--rates", type=float, nargs="+", default=(0.015, 0.03, 0.06),
                       help="learning rates of the reference [default: 0.015 0.03 0.06]")
    # with 1.4 epochs the reference's cosine is over when ours has had a quarter of its time
    flags.add_argument("--epochs", type=float, default=1.4,
                       help="epochs of the reference's cosine [default: 1.4]")
    flags.add_argument("--least", type=float, default=0.08,
                       help="least share of the image in the reference's crops [default: 0.08]")
    flags.add_argument("--same", action="store_true",
                       help="also run fastmoco with the reference's recipe")

import contextlib
import datetime
import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from typing import Any

from bench.learning.time_to_knn.sides import FEW
from bench.shared.charts import Curve, Panel, draw_curves
from bench.shared.cifar_split import split
from bench.shared.results import environment, write_json
from data_tools.quantities import duration
from fastmoco.system.device import pick_device, pick_precision
from fastmoco.terminal.console import say, table

GOAL = 0.47
OURS = "fastmoco"
SAME = {"epochs": 2, "lr": 0.03}  # fastmoco with the reference's recipe
SHARE = 0.25  # largest allowed share of the reference's time
OWN = {  # tuned on the same 5,000 images as the reference's rate
    "epochs": 2, "lr": 0.06, "warmup": 0.1, "progressive": [16, 22], "size": 22, "batch": 128,
    "scale": [0.4, 1.0],
}


@dataclass
class Side:
    """A side's process, and the measurements that it printed."""

    name: str
    process: subprocess.Popen
    points: list[dict[str, Any]] = field(default_factory=list)

    def turn(self) -> dict[str, Any]:
        """Let it train for a turn; return its measurement."""
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return self.hear()

    def hear(self) -> dict[str, Any]:
        """Return its next line. Raises RuntimeError if it died."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name}: ended with {self.process.wait()}")
        self.points.append(json.loads(line))
        return self.points[-1]

    def end(self) -> None:
        """Kill it and its workers."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def over(self) -> bool:
        return self.points[-1]["over"]

    def reached(self, clock: str) -> float | None:
        """Return its time at the first measurement that met the goal, else None."""
        return next((p[clock] for p in self.points if (p["knn"] or 0) >= GOAL), None)


def begin(name: str, **side: Any) -> Side:
    """Start a side's process, in a group of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.learning.time_to_knn.sides", json.dumps(side)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
    )
    return Side(name, process)


def race(sides: list[Side], most: float) -> None:
    """Give turns until the best reference and every other side met the goal, or all ended."""
    for side in sides:
        say(f"{side.name}: before training {shown(side.hear())}")
    while True:
        met = any(s.reached("seconds") is not None for s in sides if s.name.startswith("plain"))
        waiting = [
            s for s in sides
            if not s.over() and s.points[-1]["seconds"] < most
            and not (met and s.name.startswith("plain"))
        ]
        if not waiting:
            return
        for side in waiting:
            point = side.turn()
            say(
                f"{side.name}: {point['seconds']:.0f} s, {point['images']:,} images, "
                f"{shown(point)}" + (", done" if point["over"] else "")
            )


def shown(point: dict[str, Any]) -> str:
    """Return the kNN of a measurement in words."""
    every = "" if point["knn"] is None else f", {point['knn']:.1%} with all"
    return f"kNN {point['knn_few']:.1%} with {FEW:,} in the bank{every}"


def result(sides: list[Side]) -> dict[str, Any]:
    """Return the times to the goal, by the clock and in core seconds, and their ratios."""
    found: dict[str, Any] = {"goal": GOAL, "sides": {}}
    for side in sides:
        last = side.points[-1]
        found["sides"][side.name] = {
            "seconds": side.reached("seconds"), "cpu_seconds": side.reached("cpu_seconds"),
            "images_per_s": last["images"] / last["seconds"], "curve": side.points,
        }
    for clock in ("seconds", "cpu_seconds"):
        plains = [s for s in sides if s.name.startswith("plain")]
        # a side that never met the goal would have taken longer than it did
        times = [
            s.points[-1][clock] if s.reached(clock) is None else s.reached(clock) for s in plains
        ]
        found[f"reference_{clock}"] = best = min(times)
        found["reference_met_the_goal"] = any(s.reached(clock) is not None for s in plains)
        for side in sides:
            mine = side.reached(clock)
            if side not in plains and mine is not None:
                found["sides"][side.name][f"of_reference_{clock}"] = mine / best
    return found


def chart(sides: list[Side], out: Path, foot: str) -> None:
    """Draw kNN over training time, with a curve per side."""
    panels = []
    for key, bank, goal in (("knn_few", f"{FEW:,}", None), ("knn", "all 45,000", GOAL)):
        curves = [
            Curve(s.name, [(p["seconds"], *[p[key]] * 3) for p in s.points if p[key] is not None])
            for s in reversed(sides)
        ]
        title = f"CIFAR-10 on two cores, one encoder: kNN with {bank} images in the bank"
        panels.append(Panel(title, "seconds of training", curves, goal=goal))
    draw_curves(panels, out, foot)


def show(found: dict[str, Any]) -> bool:
    """Print the table and the verdict; return whether fastmoco kept the promise."""
    none = "not met"
    table(
        ("side", "images/s", f"s to {GOAL:.0%}", "core s", "of the reference", "by core s"),
        [
            (
                name, f"{s['images_per_s']:,.0f}",
                *(none if s[c] is None else f"{s[c]:.0f}" for c in ("seconds", "cpu_seconds")),
                *(
                    f"{s[k]:.0%}" if (k := f"of_reference_{c}") in s else ""
                    for c in ("seconds", "cpu_seconds")
                ),
            )
            for name, s in found["sides"].items()
        ],
    )
    share = found["sides"][OURS].get("of_reference_seconds")
    if share is None:
        say(f"fastmoco did not reach {GOAL:.0%}")
        return False
    at_least = "" if found["reference_met_the_goal"] else "at least "
    took = duration(found["reference_seconds"])
    say(f"the reference took {at_least}{took}; fastmoco took {share:.0%} of that")
    return share <= SHARE


def main() -> int:
    """Split, race, write; return 1 if fastmoco took more than its share of the time."""
    args = flags.parse_args()
    with tempfile.TemporaryDirectory() as temporary, contextlib.ExitStack() as ending:
        work = args.work or Path(temporary)
        split(args.folder, work)
        common = {"work": str(work), "every": args.every, "goal": GOAL, "seed": args.seed}
        planned: dict[str, dict[str, Any]] = {
            f"plain, lr {lr}": {
                "kind": "plain", "lr": lr, "epochs": args.epochs, "least": args.least
            }
            for lr in args.rates
        }
        if args.same:
            planned["fastmoco, same recipe"] = {"kind": "fastmoco", "recipe": SAME}
        planned[OURS] = {"kind": "fastmoco", "recipe": OWN}
        sides = []
        for name, side in planned.items():
            sides.append(begin(name, **side, **common))
            ending.callback(sides[-1].end)
        race(sides, args.most)
    found = result(sides)
    kept = show(found)
    if args.out:
        device = pick_device("auto")
        about = environment(device)
        date = datetime.date.today().strftime("%Y-%m")
        stem = f"time_to_knn_{os.cpu_count()}-core_{date}"
        write_json(args.out / f"{stem}.json", {
            **found, "precision": pick_precision("auto", device), "own": OWN, **about,
        })
        foot = f"{about['machine']}, {date}; 45,000 images, kNN of 5,000 others off the clock"
        chart(sides, args.out / "time_to_knn.png", foot)
    return 0 if kept else 1


if __name__ == "__main__":
    finish(main)
