"""The flags of the commands that carry weights: export, selftest."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from fastmoco.commands.evaluation_flags import HowFlags
from fastmoco.terminal.parse import FLAT, positional

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


@dataclass(frozen=True)
class SelftestFlags(HowFlags):
    """As an evaluation has them."""

    json: bool = False
    """Print what was compared as JSON."""


@dataclass(frozen=True)
class SelftestArgs:
    """Does this installation compute what it should? A few seconds, with images drawn for it: the
    paper's Algorithm 1, the fast forms against the plain ones, every format read back, a run
    resumed to the bit. Exits with 1 and the failing line where one fails.

    With --checkpoint, --imagenet and --train: do the released MoCo checkpoints give their
    published kNN and linear figures here? Exits with 1 where one does not, or none was compared.
    """

    checkpoint: Path | None = None
    """Released file: moco_v1_200ep, moco_v2_200ep or moco_v2_800ep_pretrain.pth.tar."""
    imagenet: Path | None = None
    """ImageNet's validation set, labelled."""
    train: Path | None = None
    """ImageNet's training set: the bank of kNN, and what --linear learns from [default: `train`
    beside VAL, where there is one]."""
    linear: bool = False
    """Also the linear evaluation, 100 epochs of ImageNet."""
    how: Annotated[SelftestFlags, FLAT] = field(default_factory=SelftestFlags)
