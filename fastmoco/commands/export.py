"""fastmoco export: weights for other systems."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from data_tools.quantities import human
from data_tools.safe_reading.json_file import shown_json
from fastmoco.terminal.flags import positional
from fastmoco.terminal.parse import parse

To = Literal[
    "torchvision", "timm", "huggingface", "detectron2", "mmpretrain", "onnx", "official",
    "safetensors",
]


@dataclass(frozen=True)
class ExportArgs:
    """Write a checkpoint's trunk for another system, with a model card that says how to use it.

    CHECKPOINT may itself be another system's: the official MoCo's, lightly's, solo-learn's,
    mmselfsup's, VISSL's, or a bare ResNet.
    """

    checkpoint: positional("CHECKPOINT")  # type: ignore[valid-type]
    """Checkpoint file or run directory."""
    to: To
    """Format: a file that the system's own loader takes, or a directory of them."""
    out: Path | None = None
    """Directory to write [default: beside the checkpoint, export-FORMAT]."""
    with_config: bool = False
    """With --to detectron2: the papers' detection transfer too, for VOC07+12 and COCO."""
    json: bool = False
    """Print the files as JSON."""


def export(argv: list[str]) -> None:
    """fastmoco export CHECKPOINT --to FORMAT"""
    args = parse(ExportArgs, argv, "export")
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
