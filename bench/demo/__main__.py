"""`make demo`: the whole product on drawn images, from a folder to features that beat raw pixels.

    python -m bench.demo [--seed 0]

Works in demo-out/ under the current folder, which it removes first. Prints every command before it
runs it, as one would type it. Exits with 0 only where kNN after training is at least 15 points
above both kNN before training and kNN of centred raw pixels.
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
# Of the protocols that `fastmoco knn` reports: 2104.14294, appendix F.2.
PROTOCOL, K = "DINO", 20
ROWS = {"raw pixels": "centred raw pixels", "at step 0": "before training",
        "trained": "after training"}


class Failed(Exception):
    """A command of the demo failed; its exit code."""


def main(argv: list[str] | None = None) -> int:
    """Run the demo; returns the exit code."""
    parser = Flags(__doc__)
    parser.add_argument("--seed", type=int, default=0, help="of the images and of the training")
    seed = parser.parse_args(argv).seed
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    try:
        times, top1 = parts(str(seed))
    except Failed as failed:
        return int(failed.args[0])
    return conclusion(times, top1)


def parts(seed: str) -> tuple[dict[str, float], dict[str, float]]:
    """The demo's commands in order; returns each part's seconds, and top-1 by features."""
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
    """Show and run a command, its output shown or written to a file; returns its seconds."""
    line = shlex.join([*command.split(), *arguments]) + (f" > {into}" if into else "")
    print(f"\n$ {line}", flush=True)
    words = command.split()
    words = words[1:] if words[0] == "python" else ["-m", *words]  # this Python's, on PATH or not
    begun = time.monotonic()
    output = into.open("wb") if into else None
    try:
        code = subprocess.run([sys.executable, *words, *arguments], stdout=output).returncode
    finally:
        if output:
            output.close()
    if code:
        print(f"demo: exit code {code} from: {line}", file=sys.stderr)
        raise Failed(code)
    return time.monotonic() - begun


def conclusion(times: dict[str, float], top1: dict[str, float]) -> int:
    """Print what the demo found; returns its exit code."""
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
              f"{100 * MARGIN:.0f} are asked for", file=sys.stderr)
        return 1
    print(f"training gained {100 * gain:.1f} points over the better of both "
          f"({100 * MARGIN:.0f} are asked for)")
    return 0


if __name__ == "__main__":
    finish(main)
