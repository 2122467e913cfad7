"""fastmoco knn: k-nearest-neighbour accuracy of an encoder."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from data_tools.safe_reading.json_file import shown_json
from fastmoco.commands.evaluations import ScoreFlags, about, begin, between, brief, print_classes
from fastmoco.terminal.flags import FLAT, positional
from fastmoco.terminal.parse import parse


@dataclass(frozen=True)
class KnnArgs:
    """Weighted kNN: the bank is TRAIN, the queries are VAL, the features the pooled trunk's.
    Without VAL every image of TRAIN is classified by all the others (leave one out)."""

    checkpoint: positional("CHECKPOINT")  # type: ignore[valid-type]
    """Checkpoint file or run directory, ours or another system's."""
    train: positional("TRAIN")  # type: ignore[valid-type]
    """Labelled dataset: the bank."""
    val: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="VAL")] = None
    """Labelled dataset: the queries."""
    k: tuple[int, ...] = ()
    """Neighbours that vote, instead of the two protocols'."""
    T: tuple[float, ...] = ()
    """Temperatures, each with every k."""
    companions: bool = True
    """Also the same encoder at step 0, and centred raw pixels."""
    how: Annotated[ScoreFlags, FLAT] = field(default_factory=ScoreFlags)


def knn(argv: list[str]) -> None:
    """fastmoco knn CHECKPOINT TRAIN [VAL]"""
    args = parse(KnnArgs, argv, "knn")
    from fastmoco.evaluation.knn import PROTOCOLS, grid, knn
    from fastmoco.terminal import console

    protocols = grid(args.k, args.T) if args.k or args.T else PROTOCOLS
    checkpoint, how, (train, val) = begin(args.checkpoint, (args.train, args.val), args.how)
    voters = len(train) - (val is None)
    rows = knn(
        checkpoint, train, val, how.device, how.threads, args.companions, protocols, how
    )
    if how.ranks.rank:
        return
    queries, asked = (train, "leave one out") if val is None else (val, f"bank of {len(train):,}")
    # DINO's k = 20, the published one, stands for the rest
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
