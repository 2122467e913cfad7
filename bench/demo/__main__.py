"""Runs the whole product on drawn images: from a folder to features that beat raw pixels.

    python -m bench.demo [--seed 0]

This is `make demo`. It works in demo-out/ in the current folder, which it removes first. It prints
every command before it runs it, as one would type it. Exits with 0 only if kNN after training is at
least 15 points above both kNN before training and kNN of centred raw pixels.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

from bench.shared.command import Flags, finish

OUT = Path("demo-out")
RECIPE = "moco-demo"
MARGIN = 0.15
# One of the protocols that `fastmoco knn` reports: 2104.14294, appendix F.2.
PROTOCOL, K = "DINO", 20
ROWS = {"raw pixels": "centred raw pixels", "at step 0": "before training",
        "trained": "after training"}


class Failed(Exception):
    """Raised with the exit code of a command that failed."""


def main(argv: list[str] | None = None) -> int:
    """Run the demo; return the exit code."""
    parser = Flags(__name__, __doc__)
    parser.add_argument("--seed", type=int, default=0,
                        help="seed of the images and of the training [default: 0]")
    seed = parser.parse_args(argv).seed
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    try:
        times, top1 = parts(str(seed))
    except Failed as failed:
        return int(failed.args[0])
    return conclusion(times, top1)


def parts(seed: str) -> tuple[dict[str, float], dict[str, float]]:
    """Run the demo's commands in order; return each part's seconds, and top-1 by features."""
    images, train, val, run = (str(OUT / name) for name in ("images", "train", "val", "run"))
    table = OUT / "knn.json"
    times = {
        "images": call("python -m bench.demo.images", images, "--seed", seed),
        "prep": call("fastmoco prep", f"{images}/train", train)
        + call("fastmoco prep", f"{images}/val", val),
        "views": call("fastmoco views", train, "--recipe", RECIPE, "--out", str(OUT / "views.png")),
        "bench": call(
            "fastmoco bench", train, "--recipe", RECIPE, "--rounds", "3", "--seconds", "0.5"
        ),
        "train": call(
            "fastmoco train", train, "--recipe", RECIPE, "--seed", seed, "--val", val,
            "--val-every", "4", "--log-every", "46", "--out", run,  # 46 steps: an epoch
        ),
        "knn": call("fastmoco knn", run, train, val, "--json", into=table),
    }
    rows = json.loads(table.read_text())["rows"]
    top1 = {
        row["features"]: row["top1"]
        for row in rows
        if (row["protocol"], row["k"]) == (PROTOCOL, K)
    }
    return times, top1


def call(command: str, *arguments: str, into: Path | None = None) -> float:
    """Print and run a command; show its output or write it to a file; return its seconds."""
    line = shlex.join([*command.split(), *arguments]) + (f" > {into}" if into else "")
    print(f"\n$ {line}", flush=True)
    words = command.split()
    # sys.executable, since this Python may not be on PATH
    words = words[1:] if words[0] == "python" else ["-m", *words]
    started = time.monotonic()
    output = into.open("wb") if into else None
    try:
        code = subprocess.run([sys.executable, *words, *arguments], stdout=output).returncode
    finally:
        if output:
            output.close()
    if code:
        print(f"demo: exit code {code} from: {line}", file=sys.stderr)
        raise Failed(code)
    return time.monotonic() - started


def conclusion(times: dict[str, float], top1: dict[str, float]) -> int:
    """Print the demo's results; return its exit code."""
    print(f"\nkNN top-1 on val/ ({PROTOCOL}'s protocol, k={K}, bank train/):")
    for features, name in ROWS.items():
        print(f"  {name:<20}{top1[features]:6.1%}")
    print("\ntime:")
    for name, seconds in {**times, "whole": sum(times.values())}.items():
        print(f"  {name:<20}{seconds:5.0f} s")
    print(f"\npicture of the views: {OUT / 'views.png'}")
    gain = top1["trained"] - max(top1["at step 0"], top1["raw pixels"])
    if gain < MARGIN:
        print(f"demo: training gained {100 * gain:.1f} points over the better of both; "
              f"at least {100 * MARGIN:.0f} are required", file=sys.stderr)
        return 1
    print(f"training gained {100 * gain:.1f} points over the better of both "
          f"(at least {100 * MARGIN:.0f} are required)")
    return 0


if __name__ == "__main__":
    finish(main)
