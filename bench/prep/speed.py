"""prep against FFCV's DatasetWriter on the same photographs; its memory; opening a large dataset.

    python -m bench.prep.speed [FOLDER] [--out RESULT.json]

FOLDER holds JPEGs, at any depth; without it the demo's images are drawn. Both sides have two
workers and write one beton, into the same folder, from files in the page cache. FFCV's writer is
used as its documents show, for photographs shrunk to 500 pixels at quality 90. Rounds are
interleaved; the ratios are the figures to watch. Wants the extra `ffcv`, and some 2 GB of disk.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import simplejpeg
from PIL import Image

from bench.demo.images import generate
from bench.shared.command import Flags, finish
from data_tools.errors import UserError
from data_tools.files import FileRecord
from data_tools.manifest import MANIFEST, read_manifest
from data_tools.policy import Policy
from data_tools.prepare import prepare
from data_tools.store import INDEX, INDEX_DTYPE, KEYS
from fastmoco.system.device import pick_device
from fastmoco.system.hardware import describe
from fastmoco.system.versions import versions
from fastmoco.terminal.console import say, table

WORKERS = 2
SIDE, QUALITY = 500, 90
# Our modes, each with the least ratio to FFCV's rate that this project promises.
MODES = {
    "byte copy, structure checked": (Policy(workers=WORKERS), 5.0),
    "byte copy, every image decoded": (Policy(workers=WORKERS, check="decode"), 1.8),
    f"re-encoded, {SIDE} pixels, quality {QUALITY}": (
        Policy(SIDE, quality=QUALITY, reencode="always", workers=WORKERS), 1.3,
    ),
}  # fmt: skip
FEW, MANY, ENTRIES = 1_000, 100_000, 1_300_000
# Most MiB that a hundred times the samples may add to prep's peak, for its tables of them.
FLAT_MIB = 100
OPEN_SECONDS, OPEN_MIB = 1.0, 150
# Run in a process of its own, so that the peak is its own; VmHWM counts from exec on.
PEAK = """
import re, sys, time
from pathlib import Path
begun = time.perf_counter()
{statements}
seconds = time.perf_counter() - begun
peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
print(seconds, peak / 1024)
"""
PREPARE = """
from data_tools.prepare import prepare
prepare(sys.argv[1], sys.argv[2])
"""
OPEN = """
from data_tools.open import open_store
begun = time.perf_counter()
store = open_store(sys.argv[1])
assert len(store) == int(sys.argv[2]) and len(store.encoded(len(store) - 1))
"""


class Photographs:
    """An indexable dataset, as FFCV's documents have it: (PIL image, label)."""

    def __init__(self, files: list[Path]) -> None:
        self.files = files
        self.labels = {name: i for i, name in enumerate(sorted({f.parent.name for f in files}))}

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> tuple[Image.Image, int]:
        with Image.open(self.files[i]) as image:
            return image.convert("RGB"), self.labels[self.files[i].parent.name]


def repeat(folder: Path, out: Path, least: int) -> list[Path]:
    """The JPEGs of a folder in `out`, as class/number.jpg, repeated until there are enough.

    Each gets a comment of its own: prep stores images that are equal only once. Raises UserError
    where the folder holds none.
    """
    sources = sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg"))
    whole = [path for path in sources if is_whole(path)]
    if not whole:
        raise UserError(f"{folder}: no JPEGs there; give a folder of photographs, by class")
    files: list[Path] = []
    for i in range(-(-least // len(whole)) * len(whole)):
        source = whole[i % len(whole)]
        path = out / source.parent.name / f"{i:06}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        data, comment = source.read_bytes(), b"%08d" % i
        path.write_bytes(data[:2] + b"\xff\xfe\0\x0a" + comment + data[2:])
        files.append(path)
    return files


def is_whole(path: Path) -> bool:
    """FFCV's writer stops at an image that Pillow can't decode."""
    try:
        with Image.open(path) as image:
            image.load()
        return True
    except OSError:
        return False


def rate(count: int, write: Callable[[Path], object], out: Path) -> float:
    """Images/s of write(out), which must not exist before; it is removed."""
    begun = time.perf_counter()
    write(out)
    seconds = time.perf_counter() - begun
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
    """Images/s of each writer in each round."""
    source = work / "photographs"
    files = repeat(folder, source, least)
    say(f"{len(files):,} JPEGs, {statistics.mean(f.stat().st_size for f in files):,.0f} bytes each")
    writers: dict[str, Callable[[Path], object]] = {"FFCV's DatasetWriter": ffcv_writer(files)}
    for name, (policy, _) in MODES.items():
        writers[name] = lambda out, policy=policy: prepare(source, out, policy)
    rates: dict[str, list[float]] = {name: [] for name in writers}
    for number in range(rounds):
        for name, write in writers.items():
            rates[name].append(rate(len(files), write, work / "out"))
        say(f"round {number + 1}: " + ", ".join(f"{r[-1]:,.0f}" for r in rates.values()))
    return rates


def in_a_process(statements: str, *arguments: object) -> tuple[float, float]:
    """Seconds and peak MiB of a fresh Python that runs the statements."""
    code = PEAK.format(statements=statements.strip())
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    seconds, peak = done.stdout.split()
    return float(seconds), float(peak)


def prep_memory(work: Path) -> dict[int, float]:
    """Peak MiB of prep on few and on many tiny JPEGs."""
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
    """A dataset of so many entries, all of them the same few images: only its index is large."""
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
    """Prints the table; returns the ratios, medians of those of the rounds."""
    (reference, theirs), *ours = rates.items()
    ratios = {
        name: statistics.median(a / b for a, b in zip(rate, theirs, strict=True))
        for name, rate in ours
    }
    rows = []
    for name, rate in rates.items():
        middle, low, high = statistics.median(rate), min(rate), max(rate)
        ratio = f"{ratios[name]:.2f}" if name in ratios else "1"
        target = f"{MODES[name][1]}" if name in MODES else ""
        rows.append((name, f"{middle:,.0f}", f"{low:,.0f}", f"{high:,.0f}", ratio, target))
    table(("writer", "images/s", "least", "most", f"x {reference}", "at least"), rows)
    return ratios


def main() -> int:
    """Measure; exit 1 where a promised figure is not met."""
    parser = Flags(__doc__)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--images", type=int, default=2400, help="at least so many")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="write the result as JSON")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        if args.folder is None:
            say("no photographs given: drawing the demo's images")
            generate(work / "drawn", seed=0, train=600, val=12)
        rates = compare(args.folder or work / "drawn" / "train", work, args.rounds, args.images)
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
        content = {
            "images": args.images, "rates": rates, "ratios": ratios, "prep_peak_mib": peaks,
            "open": {"entries": ENTRIES, "seconds": seconds, "peak_mib": peak}, "missed": failed,
            "machine": describe(pick_device("auto")), "platform": platform.platform(),
            **versions(), **libraries,
        }  # fmt: skip
        args.out.write_text(json.dumps(content, indent=1) + "\n")
    for name in failed:
        say(f"not met: {name}")
    return 1 if failed else 0


if __name__ == "__main__":
    finish(main)
