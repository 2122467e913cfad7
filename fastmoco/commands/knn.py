"""fastmoco knn: measures the k-nearest-neighbour accuracy of an encoder."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar

from data_tools.safe_reading.json_file import shown_json
from fastmoco.commands.evaluations import (
    OUTPUT,
    TIME,
    VIEW,
    ScoreFlags,
    about,
    begin,
    between,
    brief,
    print_classes,
)
from fastmoco.terminal.flags import FLAT, Groups, positional
from fastmoco.terminal.parse import parse


@dataclass(frozen=True)
class Args:
    """Classify each image of VAL by its nearest neighbours in TRAIN (weighted kNN on the pooled
    features of the trunk). Without VAL, classify each image of TRAIN by all others (leave one
    out)."""

    groups: ClassVar[Groups] = {
        "protocol": ("k", "T", "no-companions"),
        "view": VIEW,
        "time and memory": TIME,
        "output": OUTPUT,
    }

    checkpoint: positional("CHECKPOINT")  # type: ignore[valid-type]
    """Checkpoint file or run directory, of fastmoco or another system."""
    train: positional("TRAIN")  # type: ignore[valid-type]
    """Labelled dataset whose images vote."""
    val: positional("VAL", Path | None) = None  # type: ignore[valid-type]
    """Labelled dataset whose images are classified."""
    k: tuple[int, ...] = ()
    """Numbers of neighbours that vote [default: those of MoCo's CIFAR demo and of DINO]."""
    T: tuple[float, ...] = ()
    """Temperatures of the votes, each combined with every k [default: those of the protocols]."""
    no_companions: bool = False
    """Evaluate only the checkpoint. Without this flag the encoder as it was at step 0 and centred
    raw pixels are evaluated too."""
    how: Annotated[ScoreFlags, FLAT] = field(default_factory=ScoreFlags)


def run(argv: list[str]) -> None:
    """Run `fastmoco knn CHECKPOINT TRAIN [VAL]`."""
    args = parse(Args, argv, "knn")
    from fastmoco.evaluation.knn import PROTOCOLS, grid, knn
    from fastmoco.terminal import console

    protocols = grid(args.k, args.T) if args.k or args.T else PROTOCOLS
    checkpoint, how, (train, val) = begin(args.checkpoint, (args.train, args.val), args.how)
    voters = len(train) - (val is None)
    rows = knn(
        checkpoint, train, val, how.device, how.threads, not args.no_companions, protocols, how
    )
    if how.ranks.rank:
        return
    queries, asked = (train, "leave one out") if val is None else (val, f"bank of {len(train):,}")
    # --per-class and --json detail one row: DINO's published k = 20
    shown = next((r for r in rows if (r.protocol, r.k) == ("DINO", 20)), rows[0])
    if args.how.json:
        print(shown_json({
            **about(args, checkpoint), "bank": len(train),
            "queries": len(queries), "leave_one_out": val is None,
            "rows": [
                {"features": r.features, "protocol": r.protocol, "k": r.k, "T": r.T,
                 **brief(r.score)}
                for r in rows
            ],
            "detail": {"features": shown.features, "protocol": shown.protocol, "k": shown.k,
                       "T": shown.T, **dataclasses.asdict(shown.score)},
        }))
        return
    console.say(
        f"{len(queries):,} queries, {asked}; features: pooled trunk, step {checkpoint.step:,}"
    )
    sets = list(dict.fromkeys(r.features for r in rows))
    by = {(r.features, r.protocol, r.k, r.T): r.score for r in rows}
    console.table(
        ("protocol", "k", "T", *sets, f"95 % of {sets[0]}"),
        [
            (r.protocol, str(r.k) if r.k <= voters else f"{r.k} (all {voters})", f"{r.T:g}",
             *(f"{by[s, r.protocol, r.k, r.T].top1:.1%}" for s in sets), between(r.score))
            for r in rows if r.features == sets[0]
        ],
    )
    if args.how.per_class:
        console.say(f"{shown.protocol}, k {shown.k}, T {shown.T:g}:")
        print_classes(shown.score)
