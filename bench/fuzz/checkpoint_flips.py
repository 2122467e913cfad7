"""Tests that a checkpoint with a flipped bit is refused, or opens with the same content.

    python -m bench.fuzz.checkpoint_flips RUN/checkpoint.pt [--flips 20000] [--seed 0]

Half of the flips hit any bit of the file, half hit bits outside the tensors: headers, directory,
pickle, digests. Prints the counts. Exits with 1 if a file opened with other content, or if an error
was not a UserError.
"""

from __future__ import annotations

from pathlib import Path

from bench.shared.command import Flags, finish

with Flags(__name__, __doc__) as flags:
    flags.add_argument("checkpoint", type=Path, help="a checkpoint.pt")
    flags.add_argument("--flips", type=int, default=20_000,
                       help="number of flips [default: 20000]")
    flags.add_argument("--seed", type=int, default=0, help="seed of the draws [default: 0]")

import os
import random
import shutil
import tempfile
from collections import Counter
from typing import Any

import torch

from data_tools.errors import UserError
from fastmoco.weights import checkpoint as checkpoints
from fastmoco.weights.zip_records import read_records


def flip_and_open(path: Path, flips: int, seed: int = 0) -> Counter[str]:
    """Flip bits one at a time, open the file each time, and restore it; return the counts.

    "refused": UserError; "same": opened with the same content; "silent": opened with other content;
    "uncaught": another error.
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
    """Return the ranges of bytes between the tensors' storages."""
    with open(path, "rb") as file:
        records = read_records(file).values()
    storages = sorted((r.start, r.start + r.size) for r in records if r.name.startswith("data/"))
    starts = [0, *(end for _, end in storages)]
    ends = [*(start for start, _ in storages), size]
    return [range(a, b) for a, b in zip(starts, ends, strict=True) if a < b]


def outcome(path: Path, wanted: Any) -> str:
    """Open the file; return the name that flip_and_open() counts."""
    try:
        found = fields(checkpoints.load(path))
    except UserError:
        return "refused"
    except Exception:
        return "uncaught"
    return "same" if equal(found, wanted) else "silent"


def fields(saved: checkpoints.Checkpoint) -> dict[str, Any]:
    """Return everything that the file stores."""
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
    """Flip bits of a copy; return 1 if a flip was neither refused nor harmless."""
    args = flags.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(shutil.copy(args.checkpoint, folder))
        counts = flip_and_open(path, args.flips, args.seed)
    print(f"{args.flips:,} flips: " + ", ".join(f"{n:,} {word}" for word, n in counts.items()))
    return int(bool(counts["silent"] or counts["uncaught"]))


if __name__ == "__main__":
    finish(main)
