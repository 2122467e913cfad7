"""Starts a model from the weights of another checkpoint."""

from __future__ import annotations

import torch

from data_tools.errors import UserError
from fastmoco.model.dictionaries import Queue
from fastmoco.model.moco import MoCo
from fastmoco.recipe import Recipe
from fastmoco.weights.checkpoint import Checkpoint


def start_from(moco: MoCo, saved: Checkpoint, recipe: Recipe, path: str) -> str:
    """Copy the weights of a checkpoint into a new run. Returns a line on the copied parts.

    The trunk is always copied, the head if it has the same shape, then also the key encoder, and
    the queue if it holds as many keys. Otherwise f_k starts as a copy of f_q, as in the paper.
    Raises UserError if the trunks differ.
    """
    for name in ("arch", "stem"):
        ours, theirs = getattr(recipe, name), getattr(saved.recipe, name)
        if ours != theirs:
            raise UserError(
                f"--init {path}: is of --{name} {theirs}, the recipe's is {ours}: add "
                f"--{name} {theirs}"
            )
    taken, left = ["trunk"], list[str]()  # names of parts, for the line
    state = dict(moco.state_dict())

    def take(prefix: str) -> bool:
        """Copy all tensors with a prefix, if the checkpoint has them all in the same shapes."""
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
            left.append("key encoder (starts as a copy of the query encoder)")
            moco.encoder_k.load_state_dict(moco.encoder_q.state_dict())
    if isinstance(moco.dictionary, Queue):
        # Keys of another encoder than f_k would be negatives of another space.
        fits = "key encoder" in taken and take("dictionary.")
        (taken if fits else left).append("queue")
    began = saved.origin or f"step {saved.step:,} of {saved.recipe.name}"
    line = f"weights from {path} ({began}): {', '.join(taken)}"
    return line + (f"; not {', '.join(left)}" if left else "")
