"""fastmoco linear: accuracy of a linear classifier on a frozen encoder."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Annotated

from data_tools.safe_reading.json_file import shown_json
from fastmoco.commands.evaluations import (
    ScoreFlags,
    about,
    begin,
    figures,
    percent,
    print_classes,
    print_data,
)
from fastmoco.settings.classifiers import LinearSettings
from fastmoco.terminal.flags import FLAT, positional
from fastmoco.terminal.parse import parse


@dataclass(frozen=True)
class LinearArgs:
    """Linear evaluation of the frozen trunk, by MoCo's official protocol: learning rate 30, 100
    epochs of random crops; or --quick, on features that are extracted once.

    Several rates are trained at once, and a held-out part of TRAIN chooses among them. A killed
    evaluation goes on when it is run again.
    """

    checkpoint: positional("CHECKPOINT")  # type: ignore[valid-type]
    """Checkpoint file or run directory, ours or another system's."""
    train: positional("TRAIN")  # type: ignore[valid-type]
    """Labelled dataset to learn from."""
    val: positional("VAL")  # type: ignore[valid-type]
    """Labelled dataset to score on."""
    quick: bool = False
    """Learn from cached features of one centred view an image."""
    settings: Annotated[LinearSettings, FLAT] = field(default_factory=LinearSettings)
    companions: bool = False
    """Also the same encoder at step 0, and centred raw pixels."""
    how: Annotated[ScoreFlags, FLAT] = field(default_factory=ScoreFlags)


def linear(argv: list[str]) -> None:
    """fastmoco linear CHECKPOINT TRAIN VAL"""
    args = parse(LinearArgs, argv, "linear")
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
