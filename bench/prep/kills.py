"""Kills prep at random moments and resumes it, until it ends; then compares every byte.

    python -m bench.prep.kills [--kills 200] [--seed 0]

Every round draws formats, workers and engines (threads, or Ray with a cluster of its own on this
machine), prepares the same images and kills the process (SIGKILL) after a random time, up to three
times. The last run ends undisturbed, and its output must equal that of a run that was never killed.
Prints a line per round and exits with 1 at the first difference.
"""

from __future__ import annotations

from bench.shared.command import Flags, finish

with Flags(__name__, __doc__) as flags:
    flags.add_argument("--kills", type=int, default=200, help="number of kills [default: 200]")
    flags.add_argument("--seed", type=int, default=0, help="seed of every draw [default: 0]")
    flags.add_argument("--ray-share", type=float, default=0.08,
                       help="share of starts that run on Ray, whose cluster takes seconds to start "
                            "[default: 0.08; 0: Ray is not used]")

import hashlib
import random
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from data_tools.formats.registry import FORMATS

PART_BYTES = 60_000
KILLS_PER_ROUND = 3
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
    """Write small JPEGs of three classes, some equal, some broken, and PNGs to be re-encoded."""
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
    """Return the SHA-256 of every file below a folder, by relative path."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in paths
    }


def start(
    source: Path, out: Path, formats: list[str], workers: int, engine: str
) -> subprocess.Popen[bytes]:
    """Start prep in a process of its own; return when its imports are done and prep starts."""
    command = [sys.executable, "-c", CHILD, str(source), str(out), ",".join(formats),
               str(workers), engine]
    with open(out.with_name("said"), "ab") as said:  # shown if a round fails
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said)
    assert process.stdout is not None
    process.stdout.readline()
    return process


@dataclass
class Tally:
    """Counts of rounds and kills."""

    killed: dict[str, int] = field(default_factory=lambda: {"threads": 0, "ray": 0})
    rounds: int = 0

    @property
    def kills(self) -> int:
        return sum(self.killed.values())


class Harness:
    """The images, the undisturbed results, and one killed round after another against them."""

    def __init__(self, scratch: Path, rng: random.Random, ray_share: float) -> None:
        self.scratch, self.rng, self.ray_share = scratch, rng, ray_share
        self.source, self.out = scratch / "images", scratch / "out"
        self.whole: dict[tuple[str, ...], dict[str, str]] = {}
        self.took: dict[str, float] = {}
        self.tally = Tally()
        images(self.source)
        for engine in ("threads", "ray") if ray_share else ("threads",):
            process = start(self.source, self.out, list(FORMATS), 2, engine)
            at = time.perf_counter()
            process.wait()
            self.took[engine] = time.perf_counter() - at
            found = self._found()
            assert self.whole.setdefault(FORMATS, found) == found, "threads and Ray differ"

    def round(self) -> str:
        """Prepare random formats with kills; return a message if the end differs, else nothing."""
        formats = tuple(self.rng.sample(FORMATS, self.rng.randint(1, len(FORMATS))))
        if formats not in self.whole:
            start(self.source, self.out, list(formats), 2, "threads").wait()
            self.whole[formats] = self._found()
        before = self.tally.kills
        code = self._kill_and_finish(formats)
        end, self.tally.rounds = self._found(), self.tally.rounds + 1
        same = end == self.whole[formats] and code == 0
        print(f"round {self.tally.rounds}: {', '.join(formats)}: killed "
              f"{self.tally.kills - before} times, {'the same bytes' if same else 'OTHER BYTES'}; "
              f"{self.tally.kills} kills so far", flush=True)
        if same:
            return ""
        names = sorted({name for name, _ in self.whole[formats].items() ^ end.items()})
        return (f"the last run ended with {code} and differs in {', '.join(names) or 'nothing'}\n"
                + (self.scratch / "said").read_text()[-2000:])

    def _kill_and_finish(self, formats: tuple[str, ...]) -> int:
        """Start prep, kill it up to KILLS_PER_ROUND times, let the last run end; its exit code."""
        # fewer formats take less time; a kill after the end would be none
        share = len(formats) / len(FORMATS)
        for last in (False,) * KILLS_PER_ROUND + (True,):
            engine = "ray" if self.rng.random() < self.ray_share and not last else "threads"
            workers = self.rng.randint(1, 3)
            process = start(self.source, self.out, list(formats), workers, engine)
            try:
                process.wait(None if last else self.rng.uniform(0, share * self.took[engine]))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                self.tally.killed[engine] += 1
        return process.returncode

    def _found(self) -> dict[str, str]:
        """Return the output's digests and remove it."""
        found = digests(self.out)
        shutil.rmtree(self.out)
        return found


def main() -> int:
    """Run rounds until there were enough kills; return 1 at the first difference."""
    args = flags.parse_args()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        harness = Harness(Path(scratch), random.Random(args.seed), args.ray_share)
        while harness.tally.kills < args.kills:
            wrong = harness.round()
            if wrong:
                print(wrong)
                return 1
    tally = harness.tally
    share = ", ".join(f"{count} of {engine}" for engine, count in tally.killed.items())
    print(f"{tally.kills} kills ({share}) in {tally.rounds} rounds, "
          f"{time.perf_counter() - started:.0f} s: every output was byte-identical")
    return 0


if __name__ == "__main__":
    finish(main)
