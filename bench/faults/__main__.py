"""Tests that prep, train, knn, export and report survive faults of the machine.

    python -m bench.faults --minutes 10 [--task train ...] [--fault disk ...] [--seed 1] [--json]

The faults are kills, full disks, I/O errors, stops (SIGSTOP) and a clock set back. Each trial runs
a command under one fault. The command must end by the fault's kill, with its result, or with one
line and exit code 2. A second run without a fault must end with the same bits as a run that met
none. Full disks are file systems in memory if mounting is permitted. Otherwise a library (compiled
from bench/faults/shim.c) counts the bytes written; it also makes the I/O errors and sets the clock.
Exits with 1 if anything was wrong.
"""

from __future__ import annotations

from bench.shared.command import Flags
from bench.shared.command import finish as exit_with

with Flags(__name__, __doc__) as flags:
    COMMANDS = ("prep", "train", "knn", "export", "report")
    FAULTS = ("kill", "disk", "io", "stop", "clock")
    flags.add_argument("--minutes", type=float, default=10, help="time limit [default: 10]")
    flags.add_argument("--trials", type=int, default=1 << 40,
                       help="greatest number of trials [default: no limit]")
    flags.add_argument("--task", nargs="+", choices=COMMANDS, default=list(COMMANDS),
                       help="commands to run [default: all]")
    flags.add_argument("--fault", nargs="+", choices=FAULTS, default=list(FAULTS),
                       help="faults to try [default: all]")
    flags.add_argument("--seed", type=int, default=0, help="seed of every draw [default: 0]")
    flags.add_argument("--json", action="store_true", help="print the trials as JSON")

import argparse
import dataclasses
import importlib
import json
import logging
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.faults import trial
from bench.faults.shim import PRELOADED, compile_shim, set_fault
from bench.faults.tasks import TASKS, Task, make_inputs
from bench.faults.trial import Arm, Trial
from bench.training.kills import COSTLY, same
from fastmoco.terminal import console

SIZES = 20  # number of disk sizes, from none to enough
OPERATIONS = ("read", "write", "sync")
Run = tuple[str, str, Any]
"""(fault, detail, and the values that the fault needs)."""


class Harness:
    """Runs each command undisturbed, then compares trial after trial with that."""

    def __init__(self, scratch: Path, tasks: list[Task], shim: str) -> None:
        self.scratch, self.inputs, self.shim = scratch, scratch / "inputs", shim
        self.mounts = trial.can_mount(scratch)
        self.inputs.mkdir()
        make_inputs(self.inputs, lambda argv, place: trial.finish(
            trial.start(argv, place, None), place).code or 0)
        self.whole: dict[str, Any] = {}
        self.sizes: dict[str, int] = {}
        self.seconds: dict[str, float] = {}
        for task in tasks:
            results = [self._undisturbed(task) for _ in range(2)]
            if not same(*results):
                raise SystemExit(f"{task.name}: two undisturbed runs differ")
            self.whole[task.name] = results[0]

    def _place(self) -> Path:
        """Make an empty folder, always of the same name, since outputs may contain the name."""
        place = self.scratch / "place"
        place.mkdir()
        return place

    def _undisturbed(self, task: Task) -> Any:
        place, began = self._place(), time.monotonic()
        ended = trial.finish(trial.start(task.argv(self.inputs, place), place, None), place)
        if ended.code:
            raise SystemExit(f"{task.name} ends with {ended.code} without a fault: {ended.errors}")
        self.seconds[task.name] = time.monotonic() - began
        files = (path for path in place.rglob("*") if path.is_file())
        self.sizes[task.name] = sum(512 * path.stat().st_blocks for path in files)
        found = task.left(place, ended.printed)
        shutil.rmtree(place)
        return found

    def planned(self, task: Task, faults: list[str], rng: random.Random) -> Iterator[Run]:
        """Yield faults for one task without end, in an order that tries each kind early."""
        turn = 0
        while True:
            if "kill" in faults:
                aim = task.aims[turn % len(task.aims)]
                delay = rng.choice((0.0, 0.0, rng.uniform(0.0005, 0.01)))
                count = rng.choice((1, 1, 2, 3, 6)) if turn >= len(task.aims) else 1
                detail = f"{aim.event} {aim.part}, time {count}, {1e3 * delay:.1f} ms later"
                yield "kill", detail, trial.kill_at(aim, count, delay)
            if "disk" in faults:
                step = turn if turn < SIZES else rng.uniform(0, SIZES)
                size = max(4096, int((step + 0.5) / SIZES * 1.15 * self.sizes[task.name]))
                yield "disk", f"{size:,} bytes", size
            if "io" in faults:
                kind, every = OPERATIONS[turn % 3], rng.choice((1, 2, 3, 5, 10, 30, 100))
                yield "io", f"every {every}. {kind} fails", {kind: every}
            if "stop" in faults and turn % 3 == 0:
                after = rng.uniform(0, 0.7 * self.seconds[task.name])
                yield "stop", f"after {after:.1f} s", after
            if "clock" in faults and turn % 3 == 0:
                after, back = rng.choice((1, 5, 50, 500)), rng.choice((1.0, 3600.0, 4e8))
                yield "clock", f"{back:g} s back", {"clock_after": after, "clock_back": back}
            turn += 1

    def run(self, task: Task, fault: str, detail: str, how: Any) -> Trial:
        place = self._place()
        try:
            if fault == "disk" and self.mounts:
                with trial.small_disk(place, how) as make_room:
                    outcome = self._first(task, place, None, False)
                    make_room()
                    return Trial(task.name, fault, detail, self._again(task, place, outcome))
            if fault == "kill":
                outcome = self._first(task, place, how, True)
            elif fault == "stop":
                outcome = self._stopped(task, place, how)
            elif self.shim:
                return Trial(task.name, fault, detail, "skipped")
            else:
                outcome = self._first(task, place, shim_arm(fault, how), False)
            return Trial(task.name, fault, detail, self._again(task, place, outcome))
        finally:
            shutil.rmtree(place, ignore_errors=True)

    def _first(self, task: Task, place: Path, arm: Arm | None, killed: bool) -> str:
        place.with_suffix(".hits").unlink(missing_ok=True)
        ended = trial.finish(trial.start(task.argv(self.inputs, place), place, arm), place)
        return self._judged(task, place, ended, killed)

    def _judged(self, task: Task, place: Path, ended: trial.Ended, killed: bool) -> str:
        outcome = trial.judge_first(ended, killed)
        if ended.code == 0:
            wrong = trial.judge_left(task, place, ended, self.whole[task.name])
            return f"ended with 0: {wrong}" if wrong else outcome
        return outcome

    def _stopped(self, task: Task, place: Path, after: float) -> str:
        pid = trial.start(task.argv(self.inputs, place), place, None)
        struck = trial.stop_and_go(pid, after, 0.5)
        outcome = self._judged(task, place, trial.finish(pid, place), False)
        if outcome == "struck":
            return "a stop made it fail"
        return "struck" if struck and outcome == "missed" else outcome

    def _again(self, task: Task, place: Path, outcome: str) -> str:
        wrong = trial.judge_again(task, self.inputs, place, self.whole[task.name])
        if wrong:
            return wrong if outcome in ("struck", "missed") else f"{outcome}; {wrong}"
        return outcome


def shim_arm(fault: str, how: Any) -> Arm:
    """Return a function that arms the library in the command's process, for its output folder."""
    def arm(place: Path) -> None:
        options = {"budget": how} if fault == "disk" else how
        set_fault(place, **options)

    return arm


def main() -> int:
    """Run trials until the time is up, then print a table."""
    args = flags.parse_args()
    if PRELOADED not in os.environ:
        return with_shim()
    import torch

    torch.set_num_threads(1)
    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    for module in (
        *COSTLY, "fastmoco.commands.evaluations", "fastmoco.evaluation.knn",
        "fastmoco.reporting.report", "fastmoco.weights.export.directory",
        "fastmoco.training.knn_monitor", "data_tools.prepare",
    ):
        importlib.import_module(module)  # once, not in each forked process
    tasks = [task for task in TASKS if task.name in args.task]
    trials: list[Trial] = []
    with tempfile.TemporaryDirectory(prefix="faults-") as scratch:
        harness = Harness(Path(scratch), tasks, os.environ.get(PRELOADED + "_LACKS", ""))
        rng, until = random.Random(args.seed), time.monotonic() + 60 * args.minutes
        plans = {task.name: harness.planned(task, args.fault, rng) for task in tasks}
        while time.monotonic() < until and len(trials) < args.trials:
            task = tasks[len(trials) % len(tasks)]
            trials.append(harness.run(task, *next(plans[task.name])))
            if not trials[-1].good and not args.json:
                one = trials[-1]
                console.say(f"{one.task}, {one.fault} ({one.detail}): {one.outcome}")
        show(trials, harness, args)
    return 0 if all(one.good or one.outcome == "skipped" for one in trials) else 1


def show(trials: list[Trial], harness: Harness, args: argparse.Namespace) -> None:
    """Print a row per command and fault, or JSON."""
    if args.json:
        print(json.dumps({"seed": args.seed, "shim": harness.shim or "compiled",
                          "disks": "mounted" if harness.mounts else "counted",
                          "trials": [dataclasses.asdict(one) for one in trials]}, indent=1))
        return
    rows = []
    for task in args.task:
        for fault in args.fault:
            mine = [t.outcome for t in trials if (t.task, t.fault) == (task, fault)]
            counts = [mine.count(word) for word in ("struck", "missed", "skipped")]
            wrong = len(mine) - sum(counts)
            rows.append((task, fault, *map(str, (len(mine), *counts, wrong))))
    console.table(("command", "fault", "tried", "struck", "missed", "skipped", "wrong"), rows)
    if harness.shim:
        console.say(f"skipped: {harness.shim}")
    bad = [t for t in trials if not t.good and t.outcome != "skipped"]
    console.say(f"{len(trials)} faults, {len(bad)} ended wrong, seed {args.seed}")


def with_shim() -> int:
    """Run this program again with the library preloaded; return its exit code."""
    with tempfile.TemporaryDirectory(prefix="shim-") as folder:
        lacks = compile_shim(Path(folder))
        library = "" if lacks else str(Path(folder) / "shim.so")
        environment = {**os.environ, PRELOADED: library, PRELOADED + "_LACKS": lacks,
                       "LD_PRELOAD": library, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "bench.faults", *sys.argv[1:]]
        return subprocess.run(command, env=environment).returncode


if __name__ == "__main__":
    exit_with(main)
