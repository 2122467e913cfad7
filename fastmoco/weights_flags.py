"""The flags of the commands that carry weights: export, selftest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fastmoco.flags import positional

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
