"""Larger than memory: samples from anywhere against blocks read ahead, with nothing in memory.

    python -m bench.prep.reading_ahead FOLDER [--work DIRECTORY] [--out RESULT.json]

The photographs are repeated until they take 3 GB (each copy with a comment of its own) and prepared
as they are. Every round loads a part of one epoch in a process of its own, in each order, after
the file has been dropped from memory (posix_fadvise), so that every byte comes from DIRECTORY's
disk; then once more with the file in memory. Medians of interleaved rounds.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.prep.speed import repeat
from bench.shared.command import Flags, finish
from data_tools.open import open_store
from data_tools.prepare import prepare
from fastmoco.loading.engines.threads import ThreadsEngine
from fastmoco.loading.train_loader import TrainLoader
from fastmoco.recipe import MOCO_V2
from fastmoco.system.device import pick_device
from fastmoco.system.hardware import describe
from fastmoco.system.versions import versions
from fastmoco.terminal.console import say, table

BYTES = 3 << 30
ROUNDS, SECONDS = 5, 8.0
WAYS = ("random, from disk", "blocks, from disk", "random, in memory")


def load(data: Path, order: str, seconds: float) -> float:
    """Images/s of the training loader from the beginning of an epoch, threads' start included."""
    store = open_store(data)
    recipe = dataclasses.replace(MOCO_V2, order=order, batch=64)
    engine = ThreadsEngine(store)
    loader = TrainLoader(store, recipe, engine, pick_device("cpu"))
    images, begun = 0, time.perf_counter()
    for batch in loader.epoch(0):
        images += len(batch.index)
        if time.perf_counter() - begun >= seconds:
            break
    rate = images / (time.perf_counter() - begun)
    engine.close()
    return rate


def drop(data: Path) -> None:
    """Take the files out of the page cache."""
    for path in data.iterdir():
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read(data: Path) -> None:
    """Bring the files into the page cache."""
    for path in data.iterdir():
        with open(path, "rb") as file:
            while file.read(1 << 24):
                pass


def one(data: Path, way: str) -> float:
    """One measurement, in a process of its own."""
    order, where = way.split(", ")
    (drop if where == "from disk" else read)(data)
    command = [sys.executable, "-m", "bench.prep.reading_ahead", "--load", str(data), order]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> int:
    """Prepare, measure, print."""
    if sys.argv[1:2] == ["--load"]:
        print(load(Path(sys.argv[2]), sys.argv[3], SECONDS))
        return 0
    parser = Flags(__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--work", type=Path, help="a directory on the disk to measure")
    parser.add_argument("--out", type=Path, help="write the result as JSON")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.work) as temporary:
        work, data = Path(temporary), Path(temporary) / "data"
        photographs = [p for p in args.folder.rglob("*") if p.is_file()]
        mean = sum(p.stat().st_size for p in photographs) / len(photographs)
        repeat(args.folder, work / "photographs", round(BYTES / mean))
        prepare(work / "photographs", data)
        size = int(open_store(data).lengths.sum())
        rates: dict[str, list[float]] = {way: [] for way in WAYS}
        for number in range(args.rounds):
            for way in WAYS:
                rates[way].append(one(data, way))
            say(f"round {number + 1}: " + ", ".join(f"{rates[w][-1]:,.0f}" for w in WAYS))
    medians = {way: statistics.median(found) for way, found in rates.items()}
    best = medians["random, in memory"]
    rows = [
        (way, f"{medians[way]:,.0f}", f"{min(found):,.0f}", f"{max(found):,.0f}",
         f"{medians[way] / best:.0%}")
        for way, found in rates.items()
    ]
    say(f"{size / 1e9:,.1f} GB of JPEGs, two views at 224, {SECONDS:g} s a measurement")
    table(("order", "images/s", "least", "most", "of in memory"), rows)
    if args.out:
        content = {
            "bytes": size, "seconds": SECONDS, "rates": rates,
            "machine": describe(pick_device("cpu")), "platform": platform.platform(), **versions(),
        }
        args.out.write_text(json.dumps(content, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    finish(main)
