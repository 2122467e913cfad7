"""fastmoco finetune: trains the encoder and a classifier on labels."""

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
    print_classes,
    print_data,
)
from fastmoco.terminal.flags import FLAT, positional
from fastmoco.terminal.parse import parse


@dataclass(frozen=True)
class FinetuneArgs:
    """Fine-tune trunk and classifier on few labels or all, by SwAV's semi-supervised protocol.
    `linear --quick --labels 1%` is the quick way. A killed one goes on when it is run again."""

    checkpoint: positional("CHECKPOINT")  # type: ignore[valid-type]
    """Checkpoint file or run directory, ours or another system's."""
    train: positional("TRAIN")  # type: ignore[valid-type]
    """Labelled dataset to learn from."""
    val: positional("VAL")  # type: ignore[valid-type]
    """Labelled dataset to score on."""
    labels: str = "all"
    """Labels to read, class by class the same share: 1%, 10%, 5/class, all."""
    lr: float = 0.0
    """Of the trunk, for a batch of 256 [default: 0.01; 0.02 for less than 2% of the labels]."""
    head_lr: float = 0.0
    """Of the classifier, for a batch of 256 [default: 0.2; 5 for less than 2% of the labels]."""
    epochs: int = 0
    """Passes over the labelled images [default: 20, or 1,000 steps if that is more]."""
    batch: int = 0
    """Images a step [default: 256, or an eighth of the labelled images if that is less]."""
    seed: int = 0
    """Decides the order, the crops and the few labels."""
    companions: bool = False
    """Also from the encoder at step 0."""
    how: Annotated[ScoreFlags, FLAT] = field(default_factory=ScoreFlags)


def finetune(argv: list[str]) -> None:
    """fastmoco finetune CHECKPOINT TRAIN VAL"""
    args = parse(FinetuneArgs, argv, "finetune")
    from fastmoco.evaluation.finetune import Settings, finetune
    from fastmoco.terminal import console

    settings = Settings(args.labels, args.lr, args.head_lr, args.epochs, args.batch, args.seed)
    settings.check()
    checkpoint, how, (train, val) = begin(
        args.checkpoint, (args.train, args.val), args.how, ranks=False
    )
    found = finetune(checkpoint, train, val, how, settings, args.companions)
    if args.how.json:
        print(shown_json(about(args, checkpoint) | dataclasses.asdict(found)))
        return
    console.say(found.protocol)
    print_data(found.labelled, len(train), len(val), checkpoint.step)
    console.table(
        ("encoder", "top-1", "95 %", "top-5"),
        [(name, *figures(score)) for name, score in found.rows.items()],
    )
    if args.how.per_class:
        print_classes(next(iter(found.rows.values())))
