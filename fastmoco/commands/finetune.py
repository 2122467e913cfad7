"""fastmoco finetune: trains the encoder and a classifier on labels."""

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
    print_classes,
    print_data,
)
from fastmoco.settings.classifiers import FinetuneSettings
from fastmoco.terminal.flags import FLAT, Groups, positional
from fastmoco.terminal.parse import parse


@dataclass(frozen=True)
class Args:
    """Fine-tune the trunk and a classifier on some or all labels, by SwAV's protocol.

    `fastmoco linear --quick --labels 1%` is a faster alternative. After a kill, the same command
    continues from the last epoch.
    """

    groups: ClassVar[Groups] = {
        "protocol": ("labels", "lr", "head-lr", "epochs", "batch", "seed", "companions"),
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
    settings: Annotated[FinetuneSettings, FLAT] = field(default_factory=FinetuneSettings)
    companions: bool = False
    """Also fine-tune the encoder as it was at step 0."""
    how: Annotated[ScoreFlags, FLAT] = field(default_factory=ScoreFlags)


def run(argv: list[str]) -> None:
    """Run `fastmoco finetune CHECKPOINT TRAIN VAL`."""
    args = parse(Args, argv, "finetune")
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
