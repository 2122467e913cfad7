"""fastmoco export: writes weights for other systems."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from data_tools.quantities import human
from data_tools.safe_reading.json_file import shown_json
from fastmoco.settings.verbs import To
from fastmoco.terminal.flags import positional
from fastmoco.terminal.parse import parse


@dataclass(frozen=True)
class Args:
    """Write the trunk of a checkpoint for another system, with a model card that explains its use.

    CHECKPOINT may also come from another system: the official MoCo, lightly, solo-learn, mmselfsup,
    VISSL, or a plain ResNet.
    """

    checkpoint: positional("CHECKPOINT")  # type: ignore[valid-type]
    """Checkpoint file or run directory."""
    to: Annotated[To, tyro.conf.arg(metavar="SYSTEM")]
    """System to write for. Its own loader reads the result."""
    out: Path | None = None
    """Directory to write [default: export-SYSTEM beside the checkpoint]."""
    with_config: bool = False
    """With --to detectron2: also write the papers' detection configs, for VOC07+12 and COCO."""
    json: bool = False
    """Print the names and sizes of the files as JSON."""


def run(argv: list[str]) -> None:
    """Run `fastmoco export CHECKPOINT --to SYSTEM`."""
    args = parse(Args, argv, "export")
    from fastmoco.terminal import console
    from fastmoco.weights.export.directory import export
    from fastmoco.weights.open import open_checkpoint

    saved = open_checkpoint(args.checkpoint)
    for line in (saved.origin, saved.note):
        if line and not args.json:
            console.say(f"{args.checkpoint}: {line}")
    beside = args.checkpoint if args.checkpoint.is_dir() else args.checkpoint.parent
    out = args.out or beside / f"export-{args.to}"
    files = export(saved, args.checkpoint, args.to, out, args.with_config)
    sizes = {str(path): path.stat().st_size for path in files}
    if args.json:
        print(shown_json({
            "checkpoint": str(args.checkpoint), "to": args.to, "out": str(out), "files": sizes,
        }))
        return
    for path, size in sizes.items():
        console.say(f"{path}  {human(size)}")
    console.say(f"{out / 'README.md'} says how to use it")
