"""The time to a kNN accuracy on CIFAR-10: fastmoco against a plain MoCo, with one encoder.

    python -m bench.learning.time_to_knn FOLDER [--work DIR] [--out bench/results]

FOLDER holds cifar10-train.tar (split/class/number.jpg). Trained on 45,000 of its images; kNN (k =
200, T = 0.1, pooled trunk, plain images) of the other 5,000, every 20 s of training, off the clock:
with 5,000 images in the bank, and with all 45,000 from where that comes near the goal.

Sides, in turns of 20 s, each a process of its own that stands still meanwhile, so that whatever
else the machine does meets all alike:
- the plain reference (plain_moco.py beside this file) at three learning rates, of which the best
  counts;
- with --same, fastmoco with the reference's recipe: what the machinery alone gives;
- fastmoco with a recipe of its own: smaller views, larger crops, smaller batches.

Ends with 1 where the last takes more than a quarter of the reference's time.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.learning.time_to_knn.plain_moco import LEAST
from bench.learning.time_to_knn.sides import FEW
from bench.shared.charts import Curve, Panel, draw
from bench.shared.cifar_split import split
from bench.shared.command import Flags, finish
from data_tools.quantities import duration
from fastmoco.system.device import pick_device, pick_precision
from fastmoco.system.hardware import describe
from fastmoco.system.versions import versions
from fastmoco.terminal.console import say, table

GOAL = 0.47
OURS = "fastmoco"
SHARE = 0.25  # of the reference's time, that ours may take at most
RATES = (0.015, 0.03, 0.06)
EPOCHS = 1.4  # of the reference's cosine, which then ends when ours has had a quarter of its time
OWN = {  # tuned on the same 5,000 images as the reference's rate
    "epochs": 2, "lr": 0.06, "warmup": 0.1, "progressive": [16, 22], "size": 22, "batch": 128,
    "scale": [0.4, 1.0],
}


@dataclass
class Side:
    """A process, and what it has said."""

    name: str
    process: subprocess.Popen
    points: list[dict[str, Any]] = field(default_factory=list)

    def turn(self) -> dict[str, Any]:
        """Let it train for a turn; what it found."""
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return self.hear()

    def hear(self) -> dict[str, Any]:
        """Its next line. Raises RuntimeError where it died."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name}: ended with {self.process.wait()}")
        self.points.append(json.loads(line))
        return self.points[-1]

    def end(self) -> None:
        """Kill it, and the workers it may have."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def over(self) -> bool:
        return self.points[-1]["over"]

    def reached(self, clock: str) -> float | None:
        """Its time at the first measurement that met the goal."""
        return next((p[clock] for p in self.points if (p["knn"] or 0) >= GOAL), None)


def begin(name: str, **side: Any) -> Side:
    """Start a side's process, in a group of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.learning.time_to_knn.sides", json.dumps(side)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
    )
    return Side(name, process)


def race(sides: list[Side], most: float) -> None:
    """Turns for all until the references' best and every other side met the goal, or all ended."""
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
    """kNN at a point, in words."""
    every = "" if point["knn"] is None else f", {point['knn']:.1%} with all"
    return f"kNN {point['knn_few']:.1%} with {FEW:,} in the bank{every}"


def result(sides: list[Side]) -> dict[str, Any]:
    """Times to the goal, by the clock and in seconds of a core, and their ratios."""
    found: dict[str, Any] = {"goal": GOAL, "sides": {}}
    for side in sides:
        last = side.points[-1]
        found["sides"][side.name] = {
            "seconds": side.reached("seconds"), "cpu_seconds": side.reached("cpu_seconds"),
            "images_per_s": last["images"] / last["seconds"], "curve": side.points,
        }
    for clock in ("seconds", "cpu_seconds"):
        plains = [s for s in sides if s.name.startswith("plain")]
        # one that never met the goal took longer than all of its time
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
    """kNN over training time, a curve a side."""
    panels = []
    for key, bank, goal in (("knn_few", f"{FEW:,}", None), ("knn", "all 45,000", GOAL)):
        curves = [
            Curve(s.name, [(p["seconds"], *[p[key]] * 3) for p in s.points if p[key] is not None])
            for s in reversed(sides)
        ]
        title = f"CIFAR-10 on two cores, one encoder: kNN with {bank} images in the bank"
        panels.append(Panel(title, "seconds of training", curves, goal=goal))
    draw(panels, out, foot)


def show(found: dict[str, Any]) -> bool:
    """The table and the verdict; whether the goal was kept."""
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
        say(f"ours did not meet {GOAL:.0%}")
        return False
    at_least = "" if found["reference_met_the_goal"] else "at least "
    took = duration(found["reference_seconds"])
    say(f"the reference took {at_least}{took}; ours {share:.0%} of that")
    return share <= SHARE


def main() -> int:
    """Split, race, write; exit 1 where ours took more than its share of the time."""
    parser = Flags(__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--work", type=Path, help="where the split is kept [default: temporary]")
    parser.add_argument("--out", type=Path, help="folder of the JSON and the chart")
    parser.add_argument("--every", type=float, default=20.0, help="seconds of a turn")
    parser.add_argument("--most", type=float, default=1200.0, help="seconds of a side at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--rates", type=float, nargs="+", default=RATES, help="learning rates of the reference"
    )
    parser.add_argument(
        "--epochs", type=float, default=EPOCHS, help="of the reference, in which its cosine ends"
    )
    parser.add_argument(
        "--least", type=float, default=LEAST, help="of the image in a crop of the reference"
    )
    parser.add_argument("--same", action="store_true", help="also fastmoco with its recipe")
    args = parser.parse_args()
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
            same = {"epochs": 2, "lr": RATES[1]}
            planned["fastmoco, same recipe"] = {"kind": "fastmoco", "recipe": same}
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
        machine = {
            "machine": describe(device), "platform": platform.platform(),
            "precision": pick_precision("auto", device), "own": OWN, **versions(),
        }
        date = datetime.date.today().strftime("%Y-%m")
        stem = f"time_to_knn_{os.cpu_count()}-core_{date}"
        (args.out / f"{stem}.json").write_text(json.dumps({**found, **machine}, indent=1) + "\n")
        foot = f"{machine['machine']}, {date}; 45,000 images, kNN of 5,000 others off the clock"
        chart(sides, args.out / "time_to_knn.png", foot)
    return 0 if kept else 1


if __name__ == "__main__":
    finish(main)
