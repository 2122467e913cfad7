"""Kills training at random moments and resumes it, until it ends; it must end as if never killed.

    python -m bench.training.kills [--kills 50] [--seed 0] [--out FILE.json]

Every round trains the same tiny run on the CPU (a checkpoint after every step, kNN in between),
ends it by SIGKILL or SIGTERM at a random moment, a third of them while a checkpoint is being
written, and resumes it, again and again. Then the checkpoint must equal an undisturbed run's in
every tensor and number but clocks, metrics.jsonl too, and TensorBoard's curves must have each point
once. Prints a line a round and exits with 1 at the first difference.
"""

from __future__ import annotations

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
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from bench.shared.command import Flags, finish
from data_tools.prepare import prepare
from fastmoco.cli import main as fastmoco
from fastmoco.system import versions
from fastmoco.system.hardware import describe
from fastmoco.terminal.console import say
from fastmoco.weights import checkpoint as checkpoints

KILLS_A_ROUND = 8
CLOCKS = {"images_per_s", "data_wait", "seconds_left", "budget_left", "train_seconds", "seconds",
          "memory", "path"}
FLAGS = (
    "--arch resnet-mini --size 16 --batch 16 --bn-splits 2 --K 40 --epochs 10 --lr 0.01 --threads 1"
    " --log-every 4 --val-every 3 --checkpoint-minutes 0 --device cpu --engine threads --json"
).split()
LINES = 15  # Progress events of such a run
COSTLY = (
    "fastmoco.training.train", "fastmoco.terminal.parse", "fastmoco.terminal.live_panel",
    "torch._dynamo",
)


def images(folder: Path, count: int = 96) -> None:
    """Two classes of small JPEGs, blobs of colour."""
    rng = np.random.default_rng(0)
    for i in range(count):
        path = folder / "ab"[i % 2] / f"{i:03}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        blobs = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        blobs.resize((48, 40), Image.Resampling.BICUBIC).save(path)


def start(data: Path, out: Path) -> int:
    """`fastmoco train` in a process of its own (forked: what is imported is imported); its pid."""
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
    """The exit code, negative for a signal, where the process ends before a time; else None."""
    while time.perf_counter() < until:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    return None


def while_writing(pid: int, out: Path, until: float) -> int | None:
    """As `over`, but returns as soon as a checkpoint is being written."""
    partial = str(out / "checkpoint.pt.partial")
    while time.perf_counter() < until and not os.path.exists(partial):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
    return None


def found(out: Path) -> dict[str, Any]:
    """All that a finished run left, clocks aside."""
    state = vars(checkpoints.load(out / "checkpoint.pt"))
    del state["clock"]
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    metrics = [
        {k: v for k, v in row.items() if k not in CLOCKS}
        for row in rows if row.get("name") != "waiting"  # a verdict on the clock
    ]
    return {"checkpoint": state, "metrics": metrics, "curves": curves(out)}


def curves(out: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows of a run, but for clocks: its points by curve."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(out))
    reader.Reload()
    return {
        tag: [(p.step, p.value) for p in reader.Scalars(tag)]
        for tag in reader.Tags()["scalars"] if not tag.startswith("speed/")
    }


def same(a: Any, b: Any) -> bool:
    """Equal in structure, types and values, tensors in every bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


@dataclass
class Tally:
    """What was done so far."""

    kills: dict[str, int] = field(default_factory=lambda: {"SIGKILL": 0, "SIGTERM": 0})
    while_writing: int = 0
    """Of them while a checkpoint was being written."""
    rounds: int = 0

    @property
    def count(self) -> int:
        return sum(self.kills.values())


def undisturbed(data: Path, scratch: Path) -> tuple[dict[str, Any], float]:
    """What a run leaves that nobody kills, and its seconds."""
    for name in ("first", "whole"):  # the first one compiles
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
    """One run, killed up to so many times within so many seconds of each start, until it is done;
    a line where it ended as it should not."""
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
            return None  # done in the moment before
        tally.kills[name] += 1
        # before the run begins SIGTERM ends the process as it does any other
        if code not in ((-signal.SIGKILL,) if name == "SIGKILL" else (0, -signal.SIGTERM)):
            return f"{name} ended a run with {code}"
    return None


def main() -> int:
    """Round after round, until there were enough kills or a difference."""
    parser = Flags(__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="results as JSON")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for module in COSTLY:  # once, not in every forked process
        importlib.import_module(module)
    rng, tally, begun = random.Random(args.seed), Tally(), time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        data = scratch / "data"
        images(scratch / "images")
        prepare(scratch / "images", data)
        whole, took = undisturbed(data, scratch)
        while tally.count < args.kills:
            out, before = scratch / f"killed-{tally.rounds}", tally.count
            most = min(KILLS_A_ROUND, args.kills - before)
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
            if args.out:  # after each round: what was done counts, also where this is stopped
                result = {
                    **vars(tally), "seconds": round(time.perf_counter() - begun),
                    "seed": args.seed, "flags": FLAGS, "differences": 0,
                    "versions": versions.versions(),
                    "machine": f"{describe(torch.device('cpu'))}, {platform.platform()}",
                }
                args.out.write_text(json.dumps(result, indent=1) + "\n")
    say(
        f"{tally.count} kills ({tally.kills}, {tally.while_writing} of them while a checkpoint was "
        f"being written) in {tally.rounds} rounds, {time.perf_counter() - begun:.0f} s: every run "
        f"ended as if never killed"
    )
    return 0


if __name__ == "__main__":
    finish(main)
