"""The options of a run that do not change its result: where it writes, how fast, on which device.

This file imports neither numpy nor torch, as recipe.py.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from data_tools.errors import UserError
from fastmoco.recipe import Recipe
from fastmoco.settings.extraction import EngineName
from fastmoco.settings.rules import refuse


@dataclass(frozen=True)
class RunOptions:
    """Options of a run beside its recipe, such as its directory and device. None of them changes
    the random draws."""

    out: str = ""
    """Run directory for checkpoints, metrics and the recipe [default: runs/DATA-RECIPE]."""
    resume: bool = False
    """Continue from the checkpoint in the run directory. The result is the same, bit for bit, as
    without the interruption."""
    init: str = ""
    """Start with the weights of this checkpoint, of fastmoco or another system."""
    val: str = ""
    """Labelled dataset for kNN measurements during training."""
    val_every: int = 0
    """Epochs between kNN measurements [default: about ten measurements per run]."""
    checkpoint_minutes: float = 10.0
    """Minutes between checkpoints. One is also written at SIGTERM and at the end."""
    keep: int = 0
    """Number of last epochs of which a checkpoint is kept, in addition to the newest one."""
    log_every: int = 20
    """Steps between log lines. Only a log line makes the loop wait for the GPU."""
    budget: str = ""
    """Fit the epochs and the schedule into this time, such as 90s, 45m or 2h30m. It includes
    everything, from the start of the command to the last checkpoint."""
    until: str = ""
    """Like --budget, but until a point in time, such as 2026-12-01T08:00."""
    wandb: str = ""
    """Also send the curves to this Weights & Biases project (pip install 'fastmoco[wandb]')."""
    force: bool = False
    """Train even if K is larger than the dataset."""
    accumulate: int = 1
    """Number of pieces in which each batch is computed, to save memory. The step stays the same:
    the parts of --bn-splits are distributed over the pieces."""
    activation_checkpointing: bool = False
    """Recompute each residual block in the backward pass. Saves memory, takes a third more time."""
    threads: int = 0
    """Number of decoding threads [default: one per core]."""
    engine: EngineName = "auto"
    """Decoder: threads of this program, resident (all images decoded in memory), dali, or ffcv for
    betons. auto picks the fastest that works."""
    device: str = "auto"
    """Device: auto, cuda, cuda:N or cpu. auto takes a GPU if there is one."""
    augment: Literal["auto", "torch", "kornia"] = "auto"
    """Augmentation code: torch, kornia, or auto, which takes torch on a GPU and compiled loops on a
    CPU."""
    compile: bool = False
    """Compile the encoders and the augmentation with torch.compile. On a CPU this needs a C++
    compiler."""
    cuda_graphs: bool = False
    """With --compile: run the encoders as CUDA graphs. Not yet measured on a GPU."""

    def check(self) -> None:
        """Raise UserError for a value out of range, or for options that exclude each other."""
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
            "keep": "a number of epochs, or 0 to keep only the newest checkpoint",
            "log_every": "1 or more",
            "threads": "1 or more, or 0 for all cores",
        }
        refuse(self, rules, allowed)
        if self.cuda_graphs and not self.compile:
            raise UserError("--cuda-graphs needs compiled encoders: add --compile")
        if self.cuda_graphs and self.accumulate > 1:
            raise UserError(
                "--cuda-graphs does not work with --accumulate: the graph of each piece would "
                "overwrite the gradients of the piece before"
            )


def default_out(data: str | os.PathLike[str], recipe: Recipe) -> str:
    """Return the run directory if --out is not given: runs/DATA-RECIPE."""
    path = Path(data).resolve()
    return f"runs/{path.name if path.is_dir() else path.stem}-{recipe.name}"
