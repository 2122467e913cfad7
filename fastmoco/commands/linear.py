"""fastmoco linear: measures the accuracy of a linear classifier on a frozen encoder."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from data_tools.safe_reading.json_file import shown_json
from fastmoco.commands.evaluations import (
    OUTPUT,
    TIME,
    VIEW,
    ScoreFlags,
    about,
    begin,
    figures,
    percent,
    print_classes,
    print_data,
)
from fastmoco.settings.classifiers import LinearSettings
from fastmoco.terminal.flags import FLAT, Groups, positional
from fastmoco.terminal.parse import parse


@dataclass(frozen=True)
class Args:
    """Train a linear classifier on the frozen trunk, by MoCo's official protocol: learning rate 30,
    100 epochs of random crops. With --quick, train it on features that are extracted once.

    Several learning rates are trained at once, and a held-out part of TRAIN chooses the best. After
    a kill, the same command continues from the last epoch.
    """

    groups: ClassVar[Groups] = {
        "protocol": ("quick", "lr", "epochs", "batch", "labels", "seed", "companions"),
        "view": VIEW,
        "time and memory": TIME,
        "output": OUTPUT,
    }

    checkpoint: positional("CHECKPOINT")  # type: ignore[valid-type]
    """Checkpoint file or run directory, of fastmoco or another system."""
    train: positional("TRAIN")  # type: ignore[valid-type]
    """Labelled dataset for training."""
    val: positional("VAL")  # type: ignore[valid-type]
    """Labelled dataset for scoring."""
    quick: bool = False
    """Train on cached features of one centred view per image."""
    settings: Annotated[LinearSettings, FLAT] = field(default_factory=LinearSettings)
    companions: bool = False
    """Also evaluate the encoder as it was at step 0, and centred raw pixels."""
    how: Annotated[ScoreFlags, FLAT] = field(default_factory=ScoreFlags)


def run(argv: list[str]) -> None:
    """Run `fastmoco linear CHECKPOINT TRAIN VAL`."""
    args = parse(Args, argv, "linear")
    from fastmoco.evaluation.linear import linear
    from fastmoco.evaluation.linear_on_features import quick
    from fastmoco.terminal import console

    args.settings.check()
    checkpoint, how, (train, val) = begin(
        args.checkpoint, (args.train, args.val), args.how, ranks=args.quick
    )
    evaluate = quick if args.quick else linear
    found = evaluate(checkpoint, train, val, how, args.settings, args.companions)
    if how.ranks.rank:
        return
    if args.how.json:
        print(shown_json(about(args, checkpoint) | dataclasses.asdict(found)))
        return
    console.say(found.protocol)
    print_data(found.labelled, len(train), len(val), checkpoint.step, found.held_out)
    if found.trunk:
        console.say(found.trunk)
    console.table(
        ("features", "lr", "held out", "top-1", "95 %", "top-5"),
        [
            (r.features, f"{r.rate:g}", percent(r.held_out.get(r.rate)), *figures(r.score))
            for r in found.rows
        ],
    )
    for row in found.rows:
        if len(row.held_out) > 1:
            rates = ", ".join(
                f"{rate:g}: {'diverged' if share is None else percent(share)}"
                for rate, share in row.held_out.items()
            )
            console.say(f"held out, {row.features}, by lr: {rates}")
    if args.how.per_class:
        print_classes(found.rows[0].score)
