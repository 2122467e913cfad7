"""Measures when a run with a time budget ends, and whether its cosine schedule is complete then.

    python -m bench.training.budget FOLDER [--minutes 5]

FOLDER holds cifar10-train.tar (split/class/number.jpg). The command `fastmoco train --budget` runs
twice and is timed from start to end: once undisturbed, and once with other work on all cores from
half-way on. Exits with 1 if a run took less than 90 % of its budget, or more than all of it, or
ended above a hundredth of its peak learning rate.
"""

from __future__ import annotations

from pathlib import Path

from bench.shared.command import Flags, finish

with Flags(__name__, __doc__) as flags:
    flags.add_argument("folder", type=Path, help="folder of cifar10-train.tar")
    flags.add_argument("--minutes", type=float, default=5.0, help="the budget [default: 5]")
    flags.add_argument("--recipe", default="moco-cifar-mini", help="[default: moco-cifar-mini]")
    flags.add_out()

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any

from bench.shared.cifar_split import split
from bench.shared.results import environment, write_json
from data_tools.quantities import duration
from fastmoco.system.device import pick_device
from fastmoco.terminal.console import say, table
from fastmoco.weights.checkpoint import load

LEAST = 0.9  # share of the budget that a run must use
LAST_RATE = 0.01  # share of the peak rate at the last step of a complete cosine
SPIN = "while True: pass"


def main() -> int:
    """Run both, print the table; return 1 if a run did not keep its promise."""
    args = flags.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        data, _ = split(args.folder, work)
        found = [
            run(name, data, work / name, 60 * args.minutes, args.recipe, busy)
            for name, busy in (("undisturbed", False), ("busy-from-half-way", True))
        ]
    table(
        ("run", "took", "of its budget", "steps", "images/s first", "last", "last rate, of peak"),
        [
            (
                r["run"], duration(r["seconds"]), f"{r['share']:.1%}", f"{r['steps']:,}",
                *(f"{r[k]:,.0f}" for k in ("first_images_per_s", "last_images_per_s")),
                f"{r['last_rate']:.3%}",
            )
            for r in found
        ],
    )
    if args.out:
        write_json(args.out, {"runs": found, **environment(pick_device("auto"))})
    return 0 if all(kept(r) for r in found) else 1


def run(name: str, data: Path, out: Path, budget: float, recipe: str, busy: bool) -> dict[str, Any]:
    """Run `fastmoco train --budget` in a process of its own; return when and how it ended."""
    say(f"{name}: --budget {budget:.0f}s")
    command = [
        sys.executable, "-m", "fastmoco", "train", str(data), "--recipe", recipe,
        "--budget", f"{budget:.0f}s", "--out", str(out),
    ]
    others: list[subprocess.Popen] = []

    def disturb() -> None:
        for _ in range(os.cpu_count() or 1):
            others.append(subprocess.Popen([sys.executable, "-c", SPIN]))

    timer = threading.Timer(budget / 2, disturb)
    started = time.monotonic()
    if busy:
        timer.start()
    try:
        subprocess.run(command, check=True)
        seconds = time.monotonic() - started
    finally:
        timer.cancel()
        for other in others:
            other.kill()
            other.wait()
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    progress = [row for row in rows if row["event"] == "progress"]
    last = load(out)
    return {
        "run": name, "seconds": seconds, "share": seconds / budget, "steps": last.step,
        "finished": rows[-1]["event"] == "ended" and rows[-1]["finished"],
        "first_images_per_s": progress[len(progress) // 4]["images_per_s"],
        "last_images_per_s": progress[-2]["images_per_s"],
        "last_rate": progress[-1]["lr"] / last.recipe.lr, "plan": last.plan,
    }


def kept(result: dict[str, Any]) -> bool:
    """Return whether a run used its budget, kept within it, and finished its schedule."""
    return (
        LEAST <= result["share"] <= 1 and result["finished"] and result["last_rate"] <= LAST_RATE
    )


if __name__ == "__main__":
    finish(main)
