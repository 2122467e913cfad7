"""Any checkpoint, ours or another system's, as ours: what every command reads weights through."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch

from data_tools.errors import UserError
from fastmoco.model.dictionaries import Queue
from fastmoco.model.moco import MoCo
from fastmoco.recipe import Recipe
from fastmoco.weights import checkpoint as checkpoints
from fastmoco.weights.checkpoint import Checkpoint
from fastmoco.weights.foreign import check_encoder, from_foreign
from fastmoco.weights.read import read_weights

NAMES = ("checkpoint.pt", "checkpoint.pth.tar", "model.safetensors")


def open_checkpoint(
    path: str | os.PathLike[str], device: torch.device | str = "cpu"
) -> Checkpoint:
    """A checkpoint file, run directory or directory of exported weights, with its tensors on the
    device. Its `origin` is a line where it is another system's: what was found there, and what was
    not (see fastmoco.weights.foreign).

    Nothing in the file is run. Raises UserError, in one line, for what is no checkpoint, is cut
    short, or has missing or misshapen tensors.
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


def start_from(moco: MoCo, saved: Checkpoint, recipe: Recipe, path: str) -> str:
    """Give a new run the weights of a checkpoint; returns the line that says which were taken.

    The trunk always; the head where it has the same shape; with it the key encoder, and the queue
    where it holds as many keys. Without a key encoder of its own, f_k begins as f_q, as the paper's
    does. Raises UserError where the trunks differ.
    """
    for name in ("arch", "stem"):
        ours, theirs = getattr(recipe, name), getattr(saved.recipe, name)
        if ours != theirs:
            raise UserError(
                f"--init {path}: is of --{name} {theirs}, the recipe's is {ours}: add "
                f"--{name} {theirs}"
            )
    taken, left = ["trunk"], list[str]()
    state = dict(moco.state_dict())

    def take(prefix: str) -> bool:
        """Copy what lies under a prefix, if all of it is there with the same shapes."""
        wanted = [k for k in state if k.startswith(prefix)]
        for k in wanted:
            if k not in saved.moco and not k.endswith("num_batches_tracked"):
                return False
            if k in saved.moco and saved.moco[k].shape != state[k].shape:
                return False
        with torch.no_grad():
            for k in wanted:
                if k in saved.moco:
                    state[k].copy_(saved.moco[k])
        return bool(wanted)

    if not take("encoder_q.trunk."):
        raise UserError(f"--init {path}: its trunk is not that of {recipe.arch}")
    with_head = take("encoder_q.head.")
    (taken if with_head else left).append("head")
    if moco.encoder_k is not None:
        if with_head and take("encoder_k."):
            taken.append("key encoder")
        else:
            left.append("key encoder (begins as a copy of the query encoder)")
            moco.encoder_k.load_state_dict(moco.encoder_q.state_dict())
    if isinstance(moco.dictionary, Queue):
        fits = "key encoder" in taken and take("dictionary.")
        (taken if fits else left).append("queue")
    began = saved.origin or f"step {saved.step:,} of {saved.recipe.name}"
    line = f"weights from {path} ({began}): {', '.join(taken)}"
    return line + (f"; not {', '.join(left)}" if left else "")
