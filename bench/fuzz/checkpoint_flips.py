"""Flips single bits of a checkpoint and opens it: refused, or as it was written; never other.

    python -m bench.fuzz.checkpoint_flips RUN/checkpoint.pt [--flips 20000] [--seed 0]

Half of the flips hit any bit of the file, half the bits outside the tensors: headers, directory,
pickle, digests. Prints the counts, and exits with 1 if a changed file was opened without a word, or
an error was none of ours.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from bench.shared.command import Flags, finish
from data_tools.errors import UserError
from fastmoco.weights import checkpoint as checkpoints
from fastmoco.weights.zip_records import read_records


def flip_and_open(path: Path, flips: int, seed: int = 0) -> Counter[str]:
    """How many flipped files were "refused", opened the "same", opened otherwise ("silent"), or
    raised something else than UserError ("uncaught"). Changes the file in place, and restores it.
    """
    draws = random.Random(seed)
    wanted = fields(checkpoints.load(path))
    size = path.stat().st_size
    outside = outside_tensors(path, size)
    counts: Counter[str] = Counter(refused=0, same=0, silent=0, uncaught=0)
    with open(path, "r+b", buffering=0) as file:
        for i in range(flips):
            at = draws.randrange(size) if i % 2 else draws.choice(draws.choice(outside))
            bit = 1 << draws.randrange(8)
            before = os.pread(file.fileno(), 1, at)
            os.pwrite(file.fileno(), bytes([before[0] ^ bit]), at)
            found = outcome(path, wanted)
            counts[found] += 1
            if found in ("silent", "uncaught"):
                print(f"byte {at} ^ {bit}: {found}", flush=True)
            os.pwrite(file.fileno(), before, at)
    return counts


def outside_tensors(path: Path, size: int) -> list[range]:
    """The bytes between the storages."""
    with open(path, "rb") as file:
        records = read_records(file).values()
    storages = sorted((r.start, r.start + r.size) for r in records if r.name.startswith("data/"))
    starts = [0, *(end for _, end in storages)]
    ends = [*(start for start, _ in storages), size]
    return [range(a, b) for a, b in zip(starts, ends, strict=True) if a < b]


def outcome(path: Path, wanted: Any) -> str:
    try:
        found = fields(checkpoints.load(path))
    except UserError:
        return "refused"
    except Exception:
        return "uncaught"
    return "same" if equal(found, wanted) else "silent"


def fields(saved: checkpoints.Checkpoint) -> dict[str, Any]:
    """All that was written."""
    return {name: value for name, value in vars(saved).items() if name != "note"}


def equal(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return bool(a == b)


def main() -> int:
    flags = Flags(__doc__ or "")
    flags.add_argument("checkpoint", type=Path)
    flags.add_argument("--flips", type=int, default=20_000)
    flags.add_argument("--seed", type=int, default=0)
    args = flags.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(shutil.copy(args.checkpoint, folder))
        counts = flip_and_open(path, args.flips, args.seed)
    print(f"{args.flips:,} flips: " + ", ".join(f"{n:,} {word}" for word, n in counts.items()))
    return int(bool(counts["silent"] or counts["uncaught"]))


if __name__ == "__main__":
    finish(main)
