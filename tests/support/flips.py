"""Flips single bits of every kind of file that we read back: make, flip, open, compare.

    python -m tests.support.flips 20000

flips 20,000 single bits in each file, and prints the number of flips that were refused, harmless,
not noticed (silent) and not caught.
"""

import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data_tools.errors import UserError
from data_tools.open import load_cached, open_store, save_cached
from data_tools.preparation.journal import SAMPLE, Journal, Record
from data_tools.prepare import prepare
from data_tools.safe_reading.checksum import unsaid
from data_tools.store import INDEX_DTYPE
from fastmoco.evaluation import feature_cache
from fastmoco.evaluation.resume_state import EpochState

FLIPS = 300  # of each file, in the tests
SHAPE = (50, 16)


@dataclass
class Target:
    """A good file, a function that opens it, and one that compares the content."""

    path: Path
    opened: Callable[[], tuple[Any, list[str]]]
    """Return the content (None if it was refused or counts as missing), and the printed lines."""
    equal: Callable[[Any], bool]


def flipped(whole: bytes, rng: np.random.Generator) -> bytes:
    """A copy with one bit changed."""
    content = bytearray(whole)
    content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
    return bytes(content)


def caches(folder: Path) -> dict[str, Target]:
    """A file of each kind, in a folder."""
    return {
        "feature cache": features(folder / "features.npy"),
        "index cache": index_cache(folder / "foreign.index"),
        "journal": journal(folder),
        "resume state": state(),
        "manifest": dataset(folder / "manifest", "manifest.json"),
        "index": dataset(folder / "index", "index.npy"),
    }


def features(path: Path) -> Target:
    values = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    np.save(path, values)
    size = path.stat().st_size
    path.write_bytes(path.read_bytes() + feature_cache.block_crcs(path, size, 1).tobytes())

    def opened() -> tuple[Any, list[str]]:
        lines: list[str] = []
        return feature_cache.opened(path, SHAPE, lines.append), lines

    return Target(path, opened, lambda got: np.array_equal(got, values))


def index_cache(path: Path) -> Target:
    rows = np.zeros(40, INDEX_DTYPE)
    rows["size"], rows["label"] = np.arange(40), np.arange(40) % 3
    save_cached(path, rows, ["a", "b", "c"])

    def opened() -> tuple[Any, list[str]]:
        got = load_cached(path, path, unsaid)
        return (None if got[0] is None else got), []

    return Target(
        path, opened, lambda got: np.array_equal(got[0], rows) and got[1] == ["a", "b", "c"]
    )


def journal(folder: Path) -> Target:
    samples = np.zeros(40, SAMPLE)
    samples["size"], samples["digest"] = np.arange(40), b"0123456789abcdef"
    written = Record(7, samples, {"tfrecord": np.ones((40, 2), np.int64)}, [(3, "bad")], {"PNG": 2})
    kept = Journal(folder, {"fingerprint": "x"})
    kept.begin()
    kept.write(written)

    def equal(got: Record) -> bool:
        places = np.array_equal(got.places["tfrecord"], written.places["tfrecord"])
        others = got.quarantine == [(3, "bad")] and got.reencoded == {"PNG": 2}
        return places and others and np.array_equal(got.samples, samples)

    return Target(kept.path(7), lambda: (kept.read(7), []), equal)


def state() -> Target:
    weight = torch.arange(300.0)
    kept = EpochState("flips", 0.0)
    kept.save({"epoch": 3, "weight": weight})

    def opened() -> tuple[Any, list[str]]:
        lines: list[str] = []
        return kept.load(torch.device("cpu"), lines.append), lines

    return Target(
        kept.path, opened, lambda got: got["epoch"] == 3 and torch.equal(got["weight"], weight)
    )


def dataset(folder: Path, name: str) -> Target:
    """A file of a prepared dataset; open_store raises UserError if it is damaged."""
    from PIL import Image

    source = folder / "source"
    for i in range(4):
        place = source / "ab"[i % 2] / f"{i}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 10), (i, 50, 9)).save(place)
    prepare(source, folder / "out")
    whole = open_store(folder / "out")

    def opened() -> tuple[Any, list[str]]:
        try:
            return open_store(folder / "out"), []
        except UserError as error:
            assert "\n" not in str(error)
            return None, [str(error)]

    def equal(got: Any) -> bool:
        same = (got.classes, got.fingerprint) == (whole.classes, whole.fingerprint)
        columns = ("sizes", "labels", "kinds", "lengths")
        return same and all(
            np.array_equal(getattr(got, c), getattr(whole, c)) for c in columns
        ) and all(bytes(got.encoded(i)) == bytes(whole.encoded(i)) for i in range(len(whole)))

    return Target(folder / "out" / name, opened, equal)


def main() -> None:
    """Prints a line per kind of file."""
    flips = int(sys.argv[1]) if len(sys.argv) > 1 else FLIPS
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        for kind, target in caches(Path(folder)).items():
            whole, rng = target.path.read_bytes(), np.random.default_rng(0)
            refused = harmless = silent = uncaught = 0
            for _ in range(flips):
                target.path.write_bytes(flipped(whole, rng))
                try:
                    got, _ = target.opened()
                except Exception:
                    uncaught += 1
                    continue
                refused += got is None
                harmless += got is not None and target.equal(got)
                silent += got is not None and not target.equal(got)
            target.path.write_bytes(whole)
            print(f"{kind}: {flips:,} flips of {len(whole):,} bytes: {refused:,} refused, "
                  f"{harmless:,} harmless, {silent:,} silent, {uncaught:,} not caught")


if __name__ == "__main__":
    main()
