"""Compares ways to load a dataset larger than memory: random access, or blocks read ahead.

    python -m bench.prep.reading_ahead FOLDER [--work DIRECTORY] [--out RESULT.json]

The photographs in FOLDER are repeated until they take 3 GB (each copy gets a comment of its own)
and prepared unchanged. Every round loads part of one epoch in each order, in a fresh process, after
the file has been dropped from memory (posix_fadvise), so that every byte comes from DIRECTORY's
disk. For comparison it also loads in random order with the file in memory. Rounds are interleaved;
medians count.
"""

from __future__ import annotations

from pathlib import Path

from bench.shared.command import Flags, finish

with Flags(__name__, __doc__) as flags:
    flags.add_argument("folder", type=Path, help="folder of JPEGs")
    flags.add_rounds(5)
    flags.add_argument("--work", type=Path, help="a directory on the disk to measure")
    flags.add_out()

import dataclasses
import os
import subprocess
import sys
import tempfile
import time
from functools import partial

from bench.demo.photographs import repeat
from bench.shared.results import environment, write_json
from bench.shared.rounds import alternate, spread
from data_tools.open import open_store
from data_tools.prepare import prepare
from fastmoco.loading.engines.threads import ThreadsEngine
from fastmoco.loading.train_loader import TrainLoader
from fastmoco.recipe import MOCO_V2
from fastmoco.system.device import pick_device
from fastmoco.terminal.console import say, table

BYTES = 3 << 30
SECONDS = 8.0  # per measurement
WAYS = ("random, from disk", "blocks, from disk", "random, in memory")


def load(data: Path, order: str, seconds: float) -> float:
    """Return the training loader's images/s from an epoch's start, which starts the threads too."""
    store = open_store(data)
    recipe = dataclasses.replace(MOCO_V2, order=order, batch=64)
    engine = ThreadsEngine(store)
    loader = TrainLoader(store, recipe, engine, pick_device("cpu"))
    images, started = 0, time.perf_counter()
    for batch in loader.epoch(0):
        images += len(batch.index)
        if time.perf_counter() - started >= seconds:
            break
    rate = images / (time.perf_counter() - started)
    engine.close()
    return rate


def drop(data: Path) -> None:
    """Drop the files from the page cache."""
    for path in data.iterdir():
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read(data: Path) -> None:
    """Read the files into the page cache."""
    for path in data.iterdir():
        with open(path, "rb") as file:
            while file.read(1 << 24):
                pass


def one(data: Path, way: str) -> float:
    """Return the images/s of one way, measured in a fresh process."""
    order, where = way.split(", ")
    (drop if where == "from disk" else read)(data)
    command = [sys.executable, "-m", "bench.prep.reading_ahead", "--load", str(data), order]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> int:
    """Prepare, measure, print; with --load, be the process that one() starts."""
    if sys.argv[1:2] == ["--load"]:
        print(load(Path(sys.argv[2]), sys.argv[3], SECONDS))
        return 0
    args = flags.parse_args()
    with tempfile.TemporaryDirectory(dir=args.work) as temporary:
        work, data = Path(temporary), Path(temporary) / "data"
        photographs = [p for p in args.folder.rglob("*") if p.is_file()]
        mean = sum(p.stat().st_size for p in photographs) / len(photographs)
        repeat(args.folder, work / "photographs", round(BYTES / mean))
        prepare(work / "photographs", data)
        size = int(open_store(data).lengths.sum())
        rates = alternate({way: partial(one, data, way) for way in WAYS}, args.rounds)
    best, _, _ = spread(rates["random, in memory"])
    rows = [
        (way, *(f"{x:,.0f}" for x in spread(found)), f"{spread(found)[0] / best:.0%}")
        for way, found in rates.items()
    ]
    say(f"{size / 1e9:,.1f} GB of JPEGs, two views at 224, {SECONDS:g} s a measurement")
    table(("order", "images/s", "least", "most", "of in memory"), rows)
    if args.out:
        write_json(args.out, {
            "bytes": size, "seconds": SECONDS, "rates": rates, **environment(pick_device("cpu")),
        })
    return 0


if __name__ == "__main__":
    finish(main)
