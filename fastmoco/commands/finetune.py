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
from fastmoco.settings.classifiers import FinetuneSettings
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
    settings: Annotated[FinetuneSettings, FLAT] = field(default_factory=FinetuneSettings)
    companions: bool = False
    """Also from the encoder at step 0."""
    how: Annotated[ScoreFlags, FLAT] = field(default_factory=ScoreFlags)


def finetune(argv: list[str]) -> None:
    """fastmoco finetune CHECKPOINT TRAIN VAL"""
    args = parse(FinetuneArgs, argv, "finetune")
    from fastmoco.evaluation.finetune import finetune
    from fastmoco.terminal import console

    args.settings.check()
    checkpoint, how, (train, val) = begin(
        args.checkpoint, (args.train, args.val), args.how, ranks=False
    )
    found = finetune(checkpoint, train, val, how, args.settings, args.companions)
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
