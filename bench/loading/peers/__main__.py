"""Two views, and the whole v2 augmentation, by every loader: side by side on the same photographs.

    python -m bench.loading.peers [FOLDER] [--rounds 7] [--seconds 3] [--out R.json] [--chart C.png]

FOLDER holds photographs; they are prepared once at 500 pixels, quality 90, and every side decodes
those JPEGs: from one beton, from a TFRecord of the same bytes (DALI), or from memory (what reads
files otherwise). Every side gets as many threads or workers as there are cores. Rounds are
interleaved; medians, with the least and the most. A peer that is not installed is left out and
named. --out also writes a markdown table beside the JSON.
"""

from __future__ import annotations

import json
import platform
import statistics
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from bench.demo.images import generate
from bench.loading.peers.chart import draw
from bench.loading.peers.ours import (
    Data,
    Decode,
    OursAugment,
    OursDali,
    OursFfcv,
    OursFull,
    OursThreads,
    Peer,
)
from bench.loading.peers.own_loaders import Dali, DaliFull, Ffcv, FfcvTwo
from bench.loading.peers.workers import (
    KorniaAlone,
    KorniaFull,
    Lightly,
    TorchvisionPil,
    TorchvisionTensors,
)
from bench.shared.command import Flags, finish
from data_tools.machine import cores
from data_tools.open import open_store
from data_tools.policy import Policy
from data_tools.prepare import prepare
from fastmoco.system.device import pick_device
from fastmoco.system.hardware import describe
from fastmoco.system.versions import versions
from fastmoco.terminal.console import progress, say, table

PEERS: list[type[Peer]] = [
    Decode, OursThreads, OursDali, OursFfcv, Dali, Ffcv, FfcvTwo, OursFull, TorchvisionPil,
    TorchvisionTensors, Lightly, KorniaFull, DaliFull, OursAugment, KorniaAlone,
]
PHOTOS = Path("../shared/data/photos-300.tar")
STAGES = ("decode", "two views", "full v2", "augmentation alone")
# (stage, ours, theirs, how many times as fast the project promises)
PROMISES = (
    ("two views", "fastmoco, threads", "FFCV, two pipelines", 2.5),
    ("two views", "fastmoco, threads", "DALI, CPU", 3.0),
    ("full v2", "fastmoco", "torchvision on PIL", 5.0),
    ("full v2", "fastmoco", "DALI, CPU", 3.0),
    ("augmentation alone", "fastmoco", "Kornia AugmentationSequential", 10.0),
)
OF_DECODE = 0.65
PACKAGES = ("torchvision", "kornia", "nvidia-dali-cuda130", "ffcv", "lightly", "simplejpeg",
            "pillow")


def measure(
    peers: list[Peer], rounds: int, seconds: float, quiet: bool = False
) -> dict[str, dict[str, list[float]]]:
    """Images/s of each peer in each round, by stage and name; interleaved."""
    found: dict[str, dict[str, list[float]]] = {}
    with progress("measuring", "runs") as tick:
        for number in range(rounds):
            for j, peer in enumerate(peers):
                rate = timed(peer, seconds)
                found.setdefault(peer.stage, {}).setdefault(peer.name, []).append(rate)
                if not quiet:
                    tick(number * len(peers) + j + 1, rounds * len(peers))
    return found


def timed(peer: Peer, seconds: float) -> float:
    """Images/s of a peer's endless batches. What it had made before its turn is thrown away
    first: a queue of finished batches is no speed."""
    batches = peer.batches()
    for _ in range(peer.ready + 1):
        next(batches)
    begun, images = time.perf_counter(), 0
    for count in batches:
        images += count
        if time.perf_counter() - begun >= seconds:
            break
    return images / (time.perf_counter() - begun)


def medians(found: dict[str, dict[str, list[float]]]) -> dict[str, dict[str, float]]:
    """The median of every peer's rounds."""
    return {
        stage: {name: statistics.median(rates) for name, rates in peers.items()}
        for stage, peers in found.items()
    }


def verdicts(middle: dict[str, dict[str, float]]) -> list[tuple[str, bool]]:
    """Each promise in words, and whether it was kept; those without their peer are left out."""
    lines = []
    for stage, ours, theirs, times in PROMISES:
        peers = middle.get(stage, {})
        if ours in peers and theirs in peers:
            ratio = peers[ours] / peers[theirs]
            lines.append((f"{stage}: {ratio:.1f} times {theirs} ({times:g} promised)",
                          ratio >= times))
    bound = middle.get("decode", {}).get("simplejpeg")
    ours = middle.get("two views", {}).get("fastmoco, threads")
    if bound and ours:
        lines.append((f"two views: {ours / bound:.0%} of the bare decode ({OF_DECODE:.0%} "
                      "promised)", ours / bound >= OF_DECODE))
    return lines


def rows_of(found: dict[str, dict[str, list[float]]]) -> list[tuple[str, ...]]:
    """The table: stage, peer, images/s, least, most, and ours against it."""
    rows, middle = [], medians(found)
    for stage in STAGES:
        peers = middle.get(stage, {})
        ours = next((rate for name, rate in peers.items() if name.startswith("fastmoco")), None)
        for name, rate in sorted(peers.items(), key=lambda item: -item[1]):
            each = found[stage][name]
            ratio = f"{ours / rate:.1f}" if ours and not name.startswith("fastmoco") else ""
            rows.append((stage, name, f"{rate:,.0f}", f"{min(each):,.0f}", f"{max(each):,.0f}",
                         ratio))
    return rows


HEADS = ("stage", "by", "images/s", "least", "most", "ours is x times")


def markdown(found: dict[str, dict[str, list[float]]], notes: dict[str, str]) -> str:
    """The same table for a page, with what is to know of each peer under it."""
    lines = ["| " + " | ".join(HEADS) + " |", "|" + "---|" * len(HEADS)]
    lines += ["| " + " | ".join(row) + " |" for row in rows_of(found)]
    return "\n".join([*lines, "", *(f"- {name}: {note}" for name, note in notes.items())]) + "\n"


def installed() -> dict[str, str]:
    """Versions of the peers' packages."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def main() -> int:
    """Prepare, measure, print; exit 1 where a promise is not kept."""
    parser = Flags(__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=PHOTOS)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--only", default="", help="stages or peers whose name holds this")
    parser.add_argument("--out", type=Path, help="write the result as JSON, and as markdown")
    parser.add_argument("--chart", type=Path, help="draw the result as a PNG")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work, source = Path(temporary), args.folder
        if not source.exists():
            say("no photographs given: drawing the demo's images")
            generate(work / "images", seed=0, train=600, val=12)
            source = work / "images" / "train"
        policy = Policy(max_side=500, quality=90, reencode="always")
        prepare(source, work / "data", policy, ["beton", "tfrecord"])
        data = Data(open_store(work / "data" / "beton"), work / "data", cores())
        peers, notes = [], {}
        for make in PEERS:
            if args.only and not any(args.only in word for word in (make.stage, make.name)):
                continue
            try:
                peer = make(data)
                next(peer.batches())
                peers.append(peer)
                if peer.note:
                    notes[f"{peer.name} ({peer.stage})"] = peer.note
            except (ImportError, OSError) as error:
                say(f"left out: {make.name} ({error})")
        found = measure(peers, args.rounds, args.seconds)
        for peer in peers:
            peer.close()
        images, kilobytes = len(data.store), float(data.store.lengths.mean()) / 1e3
    table(HEADS, rows_of(found))
    for name, note in notes.items():
        say(f"{name}: {note}")
    kept = verdicts(medians(found))
    for line, good in kept:
        say(f"{'kept' if good else 'NOT KEPT'}: {line}")
    machine = describe(pick_device("cpu"))
    if args.out:
        content = {
            "images": images, "kilobytes": round(kilobytes, 1), "rounds": args.rounds,
            "seconds": args.seconds, "rates": found, "notes": notes,
            "promises": [{"line": line, "kept": good} for line, good in kept],
            "cores": cores(), "machine": machine, "platform": platform.platform(),
            **versions(), **installed(),
        }  # fmt: skip
        args.out.write_text(json.dumps(content, indent=1) + "\n")
        args.out.with_suffix(".md").write_text(markdown(found, notes))
    if args.chart:
        foot = (f"{images} photographs at 500 px, quality 90; {cores()} cores, {machine}; "
                f"medians of {args.rounds} interleaved rounds, least and most")
        draw(found, args.chart, foot)
    return 0 if all(good for _, good in kept) else 1


if __name__ == "__main__":
    finish(main)
