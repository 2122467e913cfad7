"""Whether a run can go on where a checkpoint was written, and whether to the same bits."""

from __future__ import annotations

import torch

from data_tools.errors import UserError
from data_tools.store import Store
from fastmoco.loading.dataset_stats import normalised
from fastmoco.recipe import Recipe, fields_of
from fastmoco.runs.directory import RunDir
from fastmoco.system.ranks import Ranks
from fastmoco.weights import checkpoint as checkpoints
from fastmoco.weights.checkpoint import Checkpoint


def resumable(
    directory: RunDir, recipe: Recipe, store: Store, device: torch.device, ranks: Ranks
) -> Checkpoint:
    """The run's checkpoint; UserError where it belongs to another recipe or dataset."""
    saved = checkpoints.load(directory.checkpoint, device)
    if not saved.optimizer:
        raise UserError(
            f"{directory.checkpoint}: holds weights alone, which cannot be resumed from"
        )
    recipe, _ = normalised(recipe, store, saved.recipe)
    trained = fields_of(saved.recipe)
    for name, ours in fields_of(recipe).items():
        theirs = trained[name]
        if ours != theirs and not (name == "order" and "auto" in (ours, theirs)):
            raise UserError(
                f"{directory.checkpoint}: trained with {name} {theirs}, not {ours}; resume with "
                f"the same recipe, or start another run with --out"
            )
    if saved.dataset != store.fingerprint:
        raise UserError(
            f"{directory.checkpoint}: trained on another dataset than {store.path}; resume on the "
            f"same one, or start another run with --out"
        )
    if device.type == "cpu" and saved.versions.get("ranks") == str(ranks.size):
        torch.set_num_threads(saved.threads)
    return saved


def not_to_the_bit(before: dict[str, str], now: dict[str, str]) -> str | None:
    """A line where a resumed run cannot equal one that was never stopped."""
    differ = [
        f"{name} was {before.get(name)}, is {value}"
        for name, value in now.items() if before.get(name) != value
    ]
    return f"not to the same bits as before: {', '.join(differ)}" if differ else None
