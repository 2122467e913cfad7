"""Kills training at random moments and resumes it, until it ends; then compares every bit.

    python -m bench.training.kills [--kills 50] [--seed 0] [--out FILE.json]

Every round trains the same tiny run on the CPU, with a checkpoint after every step and kNN in
between. SIGKILL or SIGTERM ends it at a random moment, in a third of the cases while a checkpoint
is being written; then it is resumed, again and again. At the end the checkpoint must equal an
undisturbed run's in every tensor and number except clocks, so must metrics.jsonl, and TensorBoard's
curves must hold each point once. Prints a line per round and exits with 1 at the first difference.
"""

from __future__ import annotations

from pathlib import Path

from bench.shared.command import Flags, finish

with Flags(__name__, __doc__) as flags:
    flags.add_argument("--kills", type=int, default=50, help="number of kills [default: 50]")
    flags.add_argument("--seed", type=int, default=0, help="seed of every draw [default: 0]")
    flags.add_out()

import importlib
import json
import os
import platform
import random
import signal
import sys
import tempfile
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image

from bench.shared.results import write_json
from data_tools.prepare import prepare
from fastmoco.cli import main as fastmoco
from fastmoco.system import versions
from fastmoco.system.hardware import describe
from fastmoco.terminal.console import say
from fastmoco.weights import checkpoint as checkpoints

KILLS_PER_ROUND = 8
CLOCKS = {"images_per_s", "data_wait", "seconds_left", "budget_left", "train_seconds", "seconds",
          "memory", "path"}
FLAGS = (
    "--arch resnet-mini --size 16 --batch 16 --bn-splits 2 --K 40 --epochs 10 --lr 0.01 --threads 1"
    " --log-every 4 --val-every 3 --checkpoint-minutes 0 --device cpu --engine threads --json"
).split()
LINES = 15  # progress events of an undisturbed run
COSTLY = (
    "fastmoco.training.train", "fastmoco.terminal.parse", "fastmoco.terminal.live_panel",
    "torch._dynamo",
)


def images(folder: Path, count: int = 96) -> None:
    """Write small JPEGs of two classes: blobs of colour."""
    rng = np.random.default_rng(0)
    for i in range(count):
        path = folder / "ab"[i % 2] / f"{i:03}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        blobs = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        blobs.resize((48, 40), Image.Resampling.BICUBIC).save(path)


def start(data: Path, out: Path) -> int:
    """Fork a process that runs `fastmoco train`, with all imports done; return its process id."""
    resume = ["--resume"] if (out / "checkpoint.pt").exists() else []
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        with open(os.devnull, "w") as nowhere:
            sys.stdout = nowhere
            code = fastmoco(
                ["train", str(data), "--val", str(data), "--out", str(out), *FLAGS, *resume]
            )
    finally:
        os._exit(code)


def over(pid: int, until: float) -> int | None:
    """Return the exit code (negative for a signal) if the process ends by `until`, else None."""
    while time.perf_counter() < until:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    return None


def while_writing(pid: int, out: Path, until: float) -> int | None:
    """Do as `over` does, but return as soon as a checkpoint is being written."""
    partial = str(out / "checkpoint.pt.partial")
    while time.perf_counter() < until and not os.path.exists(partial):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
    return None


def found(out: Path) -> dict[str, Any]:
    """Return everything that a finished run wrote, except clocks."""
    state = vars(checkpoints.load(out / "checkpoint.pt"))
    del state["clock"]
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    metrics = [
        {k: v for k, v in row.items() if k not in CLOCKS}
        for row in rows if row.get("name") != "waiting"  # a verdict on the clock
    ]
    return {"checkpoint": state, "metrics": metrics, "curves": curves(out)}


def curves(out: Path) -> dict[str, list[tuple[int, float]]]:
    """Return the points of TensorBoard's curves, except the speeds."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(out))
    reader.Reload()
    return {
        tag: [(p.step, p.value) for p in reader.Scalars(tag)]
        for tag in reader.Tags()["scalars"] if not tag.startswith("speed/")
    }


def same(a: Any, b: Any) -> bool:
    """Return whether two values are equal in structure, types and values, tensors in every bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


@dataclass
class Tally:
    """Counts of rounds and kills."""

    kills: dict[str, int] = field(default_factory=lambda: {"SIGKILL": 0, "SIGTERM": 0})
    while_writing: int = 0
    """Number of kills while a checkpoint was being written."""
    rounds: int = 0

    @property
    def count(self) -> int:
        return sum(self.kills.values())


def undisturbed(data: Path, scratch: Path) -> tuple[dict[str, Any], float]:
    """Return found() of a run that nobody kills, and its seconds."""
    for name in ("first", "whole"):  # the first run compiles, so the second is timed
        at = time.perf_counter()
        assert over(start(data, scratch / name), at + 600) == 0
        took = time.perf_counter() - at
    whole = found(scratch / "whole")
    assert same(whole, found(scratch / "first")), "two undisturbed runs differ"
    assert len(whole["curves"]["train/loss"]) == LINES
    return whole, took


def kill_until_done(
    data: Path, out: Path, most: int, seconds: float, rng: random.Random, tally: Tally
) -> str | None:
    """Run, kill and resume until the run is done: at most `most` kills, each within `seconds` of a
    start. Return a message if a process ended with the wrong code, else None."""
    for last in (False,) * most + (True,):
        pid, at = start(data, out), time.perf_counter()
        code = over(pid, at + (600 if last else rng.uniform(0, seconds)))
        if code is None and rng.random() < 1 / 3:
            code = while_writing(pid, out, time.perf_counter() + 5)
            tally.while_writing += code is None and (out / "checkpoint.pt.partial").exists()
        if code is not None:
            return None if code == 0 else f"a run ended with {code}"
        name = rng.choice(sorted(tally.kills))
        os.kill(pid, getattr(signal, name))
        code = over(pid, time.perf_counter() + 120)
        if name == "SIGKILL" and code == 0:
            return None  # it was done just before the signal
        tally.kills[name] += 1
        # until the run installs its handler, SIGTERM ends the process itself
        if code not in ((-signal.SIGKILL,) if name == "SIGKILL" else (0, -signal.SIGTERM)):
            return f"{name} ended a run with {code}"
    return None


def main() -> int:
    """Run rounds until there were enough kills; return 1 at the first difference."""
    args = flags.parse_args()
    torch.set_num_threads(1)
    for module in COSTLY:  # once, not in every forked process
        importlib.import_module(module)
    rng, tally, started = random.Random(args.seed), Tally(), time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        data = scratch / "data"
        images(scratch / "images")
        prepare(scratch / "images", data)
        whole, took = undisturbed(data, scratch)
        while tally.count < args.kills:
            out, before = scratch / f"killed-{tally.rounds}", tally.count
            most = min(KILLS_PER_ROUND, args.kills - before)
            failed = kill_until_done(data, out, most, 0.6 * took, rng, tally)
            if failed:
                say(failed)
                return 1
            left = found(out)
            wrong = [name for name in whole if not same(whole[name], left[name])]
            tally.rounds += 1
            say(
                f"round {tally.rounds}: killed {tally.count - before} times, "
                f"{'OTHER ' + ', '.join(wrong) if wrong else 'the same'}; "
                f"{tally.count} kills so far"
            )
            if wrong:
                return 1
            if args.out:  # after each round, so that an interrupted call keeps its rounds
                write_json(args.out, {
                    **vars(tally), "seconds": round(time.perf_counter() - started),
                    "seed": args.seed, "flags": FLAGS, "differences": 0,
                    "versions": versions.versions(),
                    "machine": f"{describe(torch.device('cpu'))}, {platform.platform()}",
                })
    say(
        f"{tally.count} kills ({tally.kills}, {tally.while_writing} of them while a checkpoint was "
        f"being written) in {tally.rounds} rounds, {time.perf_counter() - started:.0f} s: every "
        f"run ended as if never killed"
    )
    return 0


if __name__ == "__main__":
    finish(main)
