"""Opens any checkpoint, ours or another system's. Every command reads weights through this file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch

from data_tools.errors import UserError
from fastmoco.weights import checkpoint as checkpoints
from fastmoco.weights.checkpoint import Checkpoint
from fastmoco.weights.foreign import check_encoder, from_foreign
from fastmoco.weights.read import read_weights

NAMES = ("checkpoint.pt", "checkpoint.pth.tar", "model.safetensors")


def open_checkpoint(
    path: str | os.PathLike[str], device: torch.device | str = "cpu"
) -> Checkpoint:
    """Open a checkpoint file, a run directory or a directory of exported weights, with its tensors
    on the device.

    For another system's file, `origin` is a line on the parts that were found and those that were
    not (see fastmoco.weights.foreign). Nothing in the file is run. Raises UserError, in one line,
    if it is no checkpoint, is cut short, or has missing or misshapen tensors.
    """
    path = Path(path)
    if path.is_dir():
        found = next((path / n for n in NAMES if (path / n).is_file()), None)
        if found is None and not (path / NAMES[0]).exists():
            folder = "the current folder" if path == Path() else str(path)
            raise UserError(f"{folder}: no such checkpoint: none of {', '.join(NAMES)} is there")
        path = found or path / NAMES[0]
    file = read_weights(path, device)
    if checkpoints.is_ours(file.content):
        saved = checkpoints.from_file(file, path)
        check_encoder(saved.recipe, saved.moco, "encoder_q.", str(path))
        return saved
    saved = from_foreign(file.content, str(path))
    exported = isinstance(file.content, Mapping) and "fastmoco" in file.content  # by us
    if exported:
        saved.note = checkpoints.digests_note(file)
    return saved
