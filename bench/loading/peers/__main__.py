"""Compares fastmoco with other loaders on the same photographs: two views, and all of v2.

    python -m bench.loading.peers [FOLDER] [--rounds 7] [--seconds 3] [--out R.json] [--chart C.png]

FOLDER holds photographs; without it ../shared/data/photos-300.tar is used, or the demo's images are
drawn. They are prepared once at 500 pixels and quality 90. Every side decodes those JPEGs: from one
beton, from a TFRecord of the same bytes (DALI), or from memory (sides that read files otherwise).
Every side gets as many threads or workers as there are cores. Rounds are interleaved; medians
count, and the least and the most are shown. A peer that is not installed is left out and named.
--out also writes a markdown table beside the JSON. Exits with 1 if a promise is not kept.
"""

from __future__ import annotations

from pathlib import Path

from bench.shared.command import Flags, finish

with Flags(__name__, __doc__) as flags:
    flags.add_argument("folder", type=Path, nargs="?", help="a folder or tar of photographs")
    flags.add_rounds(7)
    flags.add_argument("--seconds", type=float, default=3.0,
                       help="length of one measurement [default: 3]")
    flags.add_argument("--only", default="", help="only stages or peers whose name contains this")
    flags.add_out("write the result as JSON to this file, and as markdown beside it")
    flags.add_argument("--chart", type=Path, help="draw the result as a PNG")

import statistics
import tempfile
import time
from functools import partial
from importlib.metadata import PackageNotFoundError, version

from bench.demo.photographs import POLICY, photographs
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
from bench.shared.charts import draw_bars
from bench.shared.promises import Promise, in_json, verdict
from bench.shared.results import environment, write_json
from bench.shared.rounds import alternate
from data_tools.machine import cores
from data_tools.open import open_store
from data_tools.prepare import prepare
from fastmoco.system.device import pick_device
from fastmoco.terminal.console import say, table

PEERS: list[type[Peer]] = [
    Decode, OursThreads, OursDali, OursFfcv, Dali, Ffcv, FfcvTwo, OursFull, TorchvisionPil,
    TorchvisionTensors, Lightly, KorniaFull, DaliFull, OursAugment, KorniaAlone,
]
STAGES = {
    "decode": "decode only (the bound)",
    "two views": "two 224-pixel views, uint8",
    "full v2": "JPEG to two augmented float views (MoCo v2)",
    "augmentation alone": "augmentation alone, from uint8 views",
}
"""Each stage in the table's order, and its title in the chart."""
# (stage, ours, theirs, the promised ratio of their rates)
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
    """Return the images/s of each peer in each interleaved round, by stage and name."""
    sides = {(peer.stage, peer.name): partial(timed, peer, seconds) for peer in peers}
    found: dict[str, dict[str, list[float]]] = {}
    for (stage, name), rates in alternate(sides, rounds, quiet=quiet).items():
        found.setdefault(stage, {})[name] = rates
    return found


def timed(peer: Peer, seconds: float) -> float:
    """Return the images/s of a peer's endless batches.

    Batches that the peer made before its turn are dropped first: a full queue is not speed.
    """
    batches = peer.batches()
    for _ in range(peer.ready + 1):
        next(batches)
    started, images = time.perf_counter(), 0
    for count in batches:
        images += count
        if time.perf_counter() - started >= seconds:
            break
    return images / (time.perf_counter() - started)


def medians(found: dict[str, dict[str, list[float]]]) -> dict[str, dict[str, float]]:
    """Return the median of every peer's rounds."""
    return {
        stage: {name: statistics.median(rates) for name, rates in peers.items()}
        for stage, peers in found.items()
    }


def verdicts(middle: dict[str, dict[str, float]]) -> list[Promise]:
    """Return the promises; those whose peer was not measured are left out."""
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
    """Return the table: stage, peer, images/s, least, most, and our rate divided by the peer's."""
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
    """Return the table as markdown, with the notes on the peers below it."""
    lines = ["| " + " | ".join(HEADS) + " |", "|" + "---|" * len(HEADS)]
    lines += ["| " + " | ".join(row) + " |" for row in rows_of(found)]
    return "\n".join([*lines, "", *(f"- {name}: {note}" for name, note in notes.items())]) + "\n"


def installed() -> dict[str, str]:
    """Return the versions of the peers' packages."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def ready(data: Data, only: str) -> tuple[list[Peer], dict[str, str]]:
    """Start the peers that are installed and wanted; return them with their notes by title."""
    peers: list[Peer] = []
    notes = {}
    for make in PEERS:
        if only and not any(only in word for word in (make.stage, make.name)):
            continue
        try:
            peer = make(data)
            next(peer.batches())
        except (ImportError, OSError) as error:
            say(f"left out: {make.name} ({error})")
            continue
        peers.append(peer)
        if peer.note:
            notes[f"{peer.name} ({peer.stage})"] = peer.note
    return peers, notes


def main() -> int:
    """Prepare, measure, print; return 1 if a promise is not kept."""
    args = flags.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        source = photographs(args.folder, work, train=600)
        prepare(source, work / "data", POLICY, ["beton", "tfrecord"])
        data = Data(open_store(work / "data" / "beton"), work / "data", cores())
        peers, notes = ready(data, args.only)
        found = measure(peers, args.rounds, args.seconds)
        for peer in peers:
            peer.close()
        images, kilobytes = len(data.store), float(data.store.lengths.mean()) / 1e3
    table(HEADS, rows_of(found))
    for name, note in notes.items():
        say(f"{name}: {note}")
    promises = verdicts(medians(found))
    code = verdict(promises)
    about = environment(pick_device("cpu"))
    if args.out:
        write_json(args.out, {
            "images": images, "kilobytes": round(kilobytes, 1), "rounds": args.rounds,
            "seconds": args.seconds, "rates": found, "notes": notes,
            "promises": in_json(promises), "cores": cores(), **about, **installed(),
        })  # fmt: skip
        args.out.with_suffix(".md").write_text(markdown(found, notes))
    if args.chart:
        foot = (f"{images} photographs at {POLICY.max_side} px, quality {POLICY.quality}; "
                f"{cores()} cores, {about['machine']}; "
                f"medians of {args.rounds} interleaved rounds, least and most")
        draw_bars({title: found[stage] for stage, title in STAGES.items() if stage in found},
                  args.chart, foot)
    return code


if __name__ == "__main__":
    finish(main)
