"""Starts a model from the weights of another checkpoint."""

from __future__ import annotations

import torch

from data_tools.errors import UserError
from fastmoco.model.dictionaries import Queue
from fastmoco.model.moco import MoCo
from fastmoco.recipe import Recipe
from fastmoco.weights.checkpoint import Checkpoint


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
