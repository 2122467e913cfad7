"""How and where a run works: training's other flags, beside the recipe's.

No numpy and no torch here, as in recipe.py.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from data_tools.errors import UserError
from fastmoco.recipe import Recipe
from fastmoco.settings.rules import refuse

EngineName = Literal["auto", "threads", "resident", "dali", "ffcv"]


@dataclass(frozen=True)
class RunOptions:
    """How and where a run works; none of it is drawn from, so a recipe stays the same recipe."""

    out: str = ""
    """Run directory: checkpoints, metrics.jsonl, resolved recipe [default: runs/DATA-RECIPE]."""
    resume: bool = False
    """Go on from the run directory's checkpoint, to the same bits."""
    init: str = ""
    """Begin with the weights of this checkpoint: ours, the official MoCo's, or another system's."""
    val: str = ""
    """A labelled prepared dataset: kNN on it is shown while training."""
    val_every: int = 0
    """Epochs between kNN measurements [default: about ten a run]."""
    checkpoint_minutes: float = 10.0
    """Minutes between checkpoints; one is also written at SIGTERM and at the end."""
    keep: int = 0
    """Also keep a checkpoint of each of the last so many epochs."""
    log_every: int = 20
    """Steps between log lines; the only place where the loop waits for the device."""
    budget: str = ""
    """Fit epochs and schedule into this time (90s, 45m, 2h30m), all included."""
    until: str = ""
    """The same, up to a time (2026-12-01T08:00)."""
    wandb: str = ""
    """Also send the curves to this Weights & Biases project [needs fastmoco[wandb]]."""
    force: bool = False
    """Train with a K larger than the dataset."""
    accumulate: int = 1
    """Take each batch in so many pieces, for less memory; the same step, BatchNorm's parts shared
    out over the pieces."""
    activation_checkpointing: bool = False
    """Recompute each residual block in the backward pass: less memory, a third more time."""
    threads: int = 0
    """Decoding threads [default: all cores]."""
    engine: EngineName = "auto"
    """Decodes and crops: our threads, all images resident on the device, DALI, FFCV (betons)."""
    device: str = "auto"
    """cuda, cuda:N or cpu [default: cuda where there is one]."""
    augment: Literal["auto", "torch", "kornia"] = "auto"
    """Backend: our torch form on the GPU and compiled loops on the CPU, or one of them for all."""
    compile: bool = False
    """Compile encoders and augmentation with torch.compile (needs a C++ compiler on the CPU)."""
    cuda_graphs: bool = False
    """With --compile, the encoders as CUDA graphs (not yet measured on a GPU)."""

    def check(self) -> None:
        """Raise UserError, in one line, for a value that no run can have."""
        rules = {
            "val_every": self.val_every >= 0,
            "checkpoint_minutes": 0 <= self.checkpoint_minutes < math.inf,
            "keep": self.keep >= 0,
            "log_every": self.log_every >= 1,
            "threads": self.threads >= 0,
            "accumulate": self.accumulate >= 1,
        }
        allowed = {
            "accumulate": "1 or more pieces",
            "val_every": "epochs, or 0 for about ten measurements a run",
            "checkpoint_minutes": "minutes from 0",
            "keep": "so many epochs, or 0 for the last checkpoint alone",
            "log_every": "1 or more",
            "threads": "1 or more, or 0 for all cores",
        }
        refuse(self, rules, allowed)
        if self.cuda_graphs and not self.compile:
            raise UserError("--cuda-graphs are of compiled encoders: add --compile")
        if self.cuda_graphs and self.accumulate > 1:
            raise UserError(
                "--cuda-graphs goes without --accumulate: each piece's graph would write over the "
                "gradients of the piece before"
            )


def default_out(data: str | os.PathLike[str], recipe: Recipe) -> str:
    """The directory of a run that names none: runs/DATA-RECIPE."""
    path = Path(data).resolve()
    return f"runs/{path.name if path.is_dir() else path.stem}-{recipe.name}"
