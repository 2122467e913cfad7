"""Kills prep at random moments and lets it go on, until it ends; the bytes must be as if never.

    python -m bench.prep.kills [--kills 200] [--seed 0]

Every round draws formats, workers and engine (threads, or Ray with a cluster of its own on this
machine), prepares the same images and kills the process (SIGKILL) after a random time, again and
again, up to three times. Prints a line a round and exits with 1 at the first difference.
"""

from __future__ import annotations

import hashlib
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.shared.command import Flags, finish
from data_tools.formats.registry import FORMATS

PART_BYTES = 60_000
KILLS_A_ROUND = 3
CHILD = """
import sys
from data_tools.policy import Policy
from data_tools.prepare import prepare

source, out, formats, workers, ray = sys.argv[1:]
if ray == "ray":
    import ray as cluster
    cluster.init("local", include_dashboard=False, log_to_driver=False)
print("ready", flush=True)
policy = Policy(workers=int(workers), shard_size=PART_BYTES / 1e6, engine=ray)
prepare(source, out, policy, formats.split(","))
""".replace("PART_BYTES", str(PART_BYTES))


def images(folder: Path, count: int = 1200) -> None:
    """Small JPEGs of three classes, some equal, some broken, and PNGs that are re-encoded."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for i in range(count):
        path = folder / "abc"[i % 3] / f"{i:04}.{'png' if i % 7 == 0 else 'jpg'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if i % 40 == 39:
            path.write_bytes((folder / "a" / "0003.jpg").read_bytes())
            continue
        pixels = rng.integers(0, 256, (40, 50, 3), np.uint8)
        Image.fromarray(pixels).save(path)
        if i % 50 == 49:
            path.write_bytes(path.read_bytes()[:-40])


def digests(folder: Path) -> dict[str, str]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in paths
    }


def start(
    source: Path, out: Path, formats: list[str], workers: int, engine: str
) -> subprocess.Popen[bytes]:
    """A run in a process of its own, which is about to begin."""
    command = [sys.executable, "-c", CHILD, str(source), str(out), ",".join(formats),
               str(workers), engine]
    with open(out.with_name("said"), "ab") as said:  # shown if a round fails
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def main() -> int:
    parser = Flags(__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ray-share", type=float, default=0.2, help="of rounds that run on Ray")
    args = parser.parse_args()
    rng = random.Random(args.seed)
    whole: dict[tuple[str, ...], dict[str, str]] = {}
    took: dict[str, float] = {}
    killed = {"threads": 0, "ray": 0}
    kills = rounds = 0
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        source, out = Path(scratch) / "images", Path(scratch) / "out"
        images(source)
        for engine in ("threads", "ray"):
            process = start(source, out, list(FORMATS), 2, engine)
            at = time.perf_counter()
            process.wait()
            took[engine] = time.perf_counter() - at
            whole.setdefault(FORMATS, digests(out))
            assert whole[FORMATS] == digests(out), "threads and Ray differ"
            shutil.rmtree(out)
        while kills < args.kills:
            formats = tuple(rng.sample(FORMATS, rng.randint(1, len(FORMATS))))
            if formats not in whole:
                start(source, out, list(formats), 2, "threads").wait()
                whole[formats] = digests(out)
                shutil.rmtree(out)
            here = 0
            for last in (False,) * KILLS_A_ROUND + (True,):
                engine = "ray" if rng.random() < args.ray_share and not last else "threads"
                process = start(source, out, list(formats), rng.randint(1, 3), engine)
                try:
                    process.wait(None if last else rng.uniform(0, took[engine]))
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
                    here += 1
                    killed[engine] += 1
            end = digests(out)
            same = end == whole[formats] and process.returncode == 0
            kills, rounds = kills + here, rounds + 1
            found = "the same bytes" if same else "OTHER BYTES"
            print(f"round {rounds}: {', '.join(formats)}: killed {here} times, {found}; "
                  f"{kills} kills so far", flush=True)
            if not same:
                names = sorted(whole[formats].items() ^ end.items())
                print(f"the last run ended with {process.returncode} and differs in "
                      f"{', '.join(sorted({name for name, _ in names})) or 'nothing'}")
                print((Path(scratch) / "said").read_text()[-2000:])
                return 1
            shutil.rmtree(out)
    share = ", ".join(f"{count} of {engine}" for engine, count in killed.items())
    print(f"{kills} kills ({share}) in {rounds} rounds, {time.perf_counter() - begun:.0f} s: "
          "every output was byte-identical")
    return 0


if __name__ == "__main__":
    finish(main)
