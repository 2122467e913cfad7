"""Measures prep against FFCV's DatasetWriter, prep's peak memory, and opening a large dataset.

    python -m bench.prep.speed [FOLDER] [--out RESULT.json]

FOLDER holds JPEGs, at any depth; without it the demo's images are drawn. Both sides have two
workers and write one beton, into the same folder, from files in the page cache. FFCV's writer is
used as its documents show, for photographs shrunk to 500 pixels at quality 90. Rounds are
interleaved, so compare the ratios: the rates change with the machine's load. Needs the extra `ffcv`
and some 2 GB of disk. Exits with 1 if a promised figure is not met.
"""

from __future__ import annotations

from pathlib import Path

from bench.shared.command import Flags, finish

with Flags(__name__, __doc__) as flags:
    flags.add_argument("folder", type=Path, nargs="?", help="folder of JPEGs")
    flags.add_argument("--images", type=int, default=2400,
                       help="least number of images; the JPEGs are repeated [default: 2400]")
    flags.add_rounds(5)
    flags.add_out()

import contextlib
import dataclasses
import io
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version

import numpy as np
import simplejpeg
from PIL import Image

from bench.demo.photographs import POLICY as PHOTO_POLICY
from bench.demo.photographs import QUALITY, SIDE, drawn, repeat
from bench.shared.promises import not_met
from bench.shared.results import environment, write_json
from bench.shared.rounds import alternate, ratio, spread
from data_tools.files import FileRecord
from data_tools.manifest import MANIFEST, read_manifest
from data_tools.policy import Policy
from data_tools.prepare import prepare
from data_tools.store import INDEX, INDEX_DTYPE, KEYS
from fastmoco.system.device import pick_device
from fastmoco.terminal.console import say, table

WORKERS = 2
# Our modes, each with the least ratio to FFCV's rate that this project promises.
MODES = {
    "byte copy, structure checked": (Policy(workers=WORKERS), 5.0),
    "byte copy, every image decoded": (Policy(workers=WORKERS, check="decode"), 1.8),
    f"re-encoded, {SIDE} pixels, quality {QUALITY}": (
        dataclasses.replace(PHOTO_POLICY, workers=WORKERS), 1.3,
    ),
}  # fmt: skip
FEW, MANY, ENTRIES = 1_000, 100_000, 1_300_000
# MiB that a hundred times the samples may add to prep's peak: its tables grow with them.
FLAT_MIB = 100
OPEN_SECONDS, OPEN_MIB = 1.0, 150
# Runs in a fresh process, since VmHWM is the peak of the whole process since exec.
PEAK = """
import re, sys, time
from pathlib import Path
started = time.perf_counter()
{statements}
seconds = time.perf_counter() - started
peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
print(seconds, peak / 1024)
"""
PREPARE = """
from data_tools.prepare import prepare
prepare(sys.argv[1], sys.argv[2])
"""
OPEN = """
from data_tools.open import open_store
started = time.perf_counter()
store = open_store(sys.argv[1])
assert len(store) == int(sys.argv[2]) and len(store.encoded(len(store) - 1))
"""


class Photographs:
    """An indexable dataset of (PIL image, label), as FFCV's documents show it."""

    def __init__(self, files: list[Path]) -> None:
        self.files = files
        self.labels = {name: i for i, name in enumerate(sorted({f.parent.name for f in files}))}

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> tuple[Image.Image, int]:
        with Image.open(self.files[i]) as image:
            return image.convert("RGB"), self.labels[self.files[i].parent.name]


def rate(count: int, write: Callable[[Path], object], out: Path) -> float:
    """Return the images/s of write(out). `out` must not exist; it is removed afterwards."""
    started = time.perf_counter()
    write(out)
    seconds = time.perf_counter() - started
    shutil.rmtree(out)
    return count / seconds


def ffcv_writer(files: list[Path]) -> Callable[[Path], None]:
    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter

    dataset = Photographs(files)

    def write(out: Path) -> None:
        out.mkdir()
        image = RGBImageField(write_mode="jpg", max_resolution=SIDE, jpeg_quality=QUALITY)
        fields = {"image": image, "label": IntField()}
        writer = DatasetWriter(str(out / "train.beton"), fields, num_workers=WORKERS)
        with contextlib.redirect_stderr(io.StringIO()):  # its progress bar
            writer.from_indexed_dataset(dataset)

    return write


def compare(folder: Path, work: Path, rounds: int, least: int) -> dict[str, list[float]]:
    """Return the images/s of each writer in each round."""
    source = work / "photographs"
    files = repeat(folder, source, least)
    say(f"{len(files):,} JPEGs, {statistics.mean(f.stat().st_size for f in files):,.0f} bytes each")
    writers: dict[str, Callable[[Path], object]] = {"FFCV's DatasetWriter": ffcv_writer(files)}
    for name, (policy, _) in MODES.items():
        writers[name] = lambda out, policy=policy: prepare(source, out, policy)
    sides = {name: partial(rate, len(files), write, work / "out")
             for name, write in writers.items()}
    return alternate(sides, rounds)


def in_a_process(statements: str, *arguments: object) -> tuple[float, float]:
    """Return the seconds and the peak MiB of a fresh Python that runs the statements."""
    code = PEAK.format(statements=statements.strip())
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    seconds, peak = done.stdout.split()
    return float(seconds), float(peak)


def prep_memory(work: Path) -> dict[int, float]:
    """Return the peak MiB of prep on FEW and on MANY tiny JPEGs."""
    rng = np.random.default_rng(0)
    images = [simplejpeg.encode_jpeg(rng.integers(0, 256, (32, 32, 3), np.uint8)) for _ in range(9)]
    peaks = {}
    for count in (FEW, MANY):
        source = work / f"tiny{count}"
        for label in range(10):
            (source / str(label)).mkdir(parents=True)
        for i in range(count):
            path = source / str(i % 10) / f"{i:06}.jpg"
            first = source / str((i % 9) % 10) / f"{i % 9:06}.jpg"
            if i < len(images):
                path.write_bytes(images[i])
            else:
                os.link(first, path)
        peaks[count] = in_a_process(PREPARE, source, work / f"prepared{count}")[1]
        shutil.rmtree(source)
    return peaks


def large_dataset(work: Path, entries: int = ENTRIES) -> Path:
    """Make a dataset whose index is large: many entries that point at the same four images."""
    source, out = work / "seeds", work / "large"
    source.mkdir()
    for i in range(4):
        image = np.full((24, 32, 3), 60 * i, np.uint8)
        (source / f"{i}.jpg").write_bytes(simplejpeg.encode_jpeg(image))
    manifest = prepare(source, out)
    rows = np.tile(np.load(out / INDEX), -(-entries // 4))[:entries]
    assert rows.dtype == INDEX_DTYPE
    np.save(out / INDEX, rows)
    (out / KEYS).write_text("".join(f"n{i % 1000:08}/{i:08}.JPEG\n" for i in range(entries)))
    files = manifest.files | {
        name: FileRecord((out / name).stat().st_size) for name in (INDEX, KEYS)
    }
    changed = dataclasses.replace(read_manifest(out), samples=entries, files=files)
    (out / MANIFEST).write_text(changed.to_json())
    return out


def report(rates: dict[str, list[float]]) -> dict[str, float]:
    """Print the table; return each mode's ratio to FFCV, the median of the rounds' ratios."""
    (reference, theirs), *ours = rates.items()
    ratios = {name: ratio(rate, theirs) for name, rate in ours}
    rows = []
    for name, rate in rates.items():
        times = f"{ratios[name]:.2f}" if name in ratios else "1"
        target = f"{MODES[name][1]}" if name in MODES else ""
        rows.append((name, *(f"{x:,.0f}" for x in spread(rate)), times, target))
    table(("writer", "images/s", "least", "most", f"x {reference}", "at least"), rows)
    return ratios


def main() -> int:
    """Measure, print; return 1 if a promised figure is not met."""
    args = flags.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        rates = compare(args.folder or drawn(work, 600), work, args.rounds, args.images)
        ratios = report(rates)
        peaks = prep_memory(work)
        for count, peak in peaks.items():
            say(f"prep of {count:,} tiny images: peak {peak:,.0f} MiB")
        seconds, peak = in_a_process(OPEN, large_dataset(work), ENTRIES)
        say(f"opening {ENTRIES:,} entries: {seconds:.2f} s, peak {peak:,.0f} MiB")
    failed = [name for name, (_, least) in MODES.items() if ratios[name] < least]
    failed += ["memory of prep"] if peaks[MANY] > peaks[FEW] + FLAT_MIB else []
    failed += ["opening"] if seconds >= OPEN_SECONDS or peak >= OPEN_MIB else []
    if args.out:
        names = ("ffcv", "opencv-python", "pillow", "simplejpeg")
        libraries = {name: version(name) for name in names}
        write_json(args.out, {
            "images": args.images, "rates": rates, "ratios": ratios, "prep_peak_mib": peaks,
            "open": {"entries": ENTRIES, "seconds": seconds, "peak_mib": peak}, "missed": failed,
            **environment(pick_device("auto")), **libraries,
        })  # fmt: skip
    return not_met(failed)


if __name__ == "__main__":
    finish(main)
