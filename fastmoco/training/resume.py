"""Continues a run from its checkpoint, and says if the result cannot be the same to the bit."""

from __future__ import annotations

from pathlib import Path

import torch

from data_tools.errors import UserError
from data_tools.store import Store
from fastmoco.loading.dataset_stats import normalised
from fastmoco.recipe import Recipe, fields_of
from fastmoco.training.build import Trained
from fastmoco.training.machine import Machine
from fastmoco.training.metrics import Window
from fastmoco.weights import checkpoint as checkpoints
from fastmoco.weights.checkpoint import Checkpoint


def find_checkpoint(path: Path, recipe: Recipe, store: Store, device: torch.device) -> Checkpoint:
    """Load the checkpoint of a run. Raises UserError if it belongs to another recipe or dataset."""
    saved = checkpoints.load(path, device)
    if not saved.optimizer:
        raise UserError(f"{path}: holds weights alone, which cannot be resumed from")
    recipe, _ = normalised(recipe, store, saved.recipe)
    trained = fields_of(saved.recipe)
    for name, ours in fields_of(recipe).items():
        theirs = trained[name]
        if ours != theirs and not (name == "order" and "auto" in (ours, theirs)):
            raise UserError(
                f"{path}: trained with {name} {theirs}, not {ours}; resume with "
                f"the same recipe, or start another run with --out"
            )
    if saved.dataset != store.fingerprint:
        raise UserError(
            f"{path}: trained on another dataset than {store.path}; resume on the "
            f"same one, or start another run with --out"
        )
    return saved


def use_threads_of(saved: Checkpoint, machine: Machine) -> None:
    """Give torch the number of threads of the checkpoint: a CPU's sums depend on how many there
    are. With another number of ranks the bits differ anyway."""
    if machine.device.type == "cpu" and saved.versions.get("ranks") == str(machine.ranks.size):
        torch.set_num_threads(saved.threads)


def take_up(saved: Checkpoint, trained: Trained, window: Window, path: Path) -> None:
    """Load the state of a checkpoint. Raises UserError if it is not complete."""
    try:
        trained.moco.load_state_dict(saved.moco)
        trained.optimizer.load_state_dict(saved.optimizer)
        trained.scaler.load_state_dict(saved.scaler)
        window.load(saved.window)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        said = " ".join(str(error).split())
        raise UserError(
            f"{path}: holds a state that its own recipe does not fit "
            f"({said[:160]}): --init starts a new run with its weights"
        ) from None


def not_to_the_bit(before: dict[str, str], now: dict[str, str]) -> str | None:
    """Return a line if a resumed run cannot equal one that was never stopped, else None."""
    differ = [
        f"{name} was {before.get(name)}, is {value}"
        for name, value in now.items() if before.get(name) != value
    ]
    return f"not to the same bits as before: {', '.join(differ)}" if differ else None
