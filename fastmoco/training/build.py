"""Builds the trained parts of a run: the model, its optimizer and its gradient scaler."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from fastmoco.model.activation_checkpointing import recompute_blocks
from fastmoco.model.build import build_moco, compile_parts, make_optimizer
from fastmoco.model.moco import MoCo
from fastmoco.recipe import Recipe
from fastmoco.run_options import RunOptions
from fastmoco.system.compiler import lacks_compiler
from fastmoco.system.device import grad_scaler
from fastmoco.training.machine import Machine
from fastmoco.training.warm_start import start_from
from fastmoco.weights.checkpoint import Checkpoint
from fastmoco.weights.open import open_checkpoint


@dataclass(frozen=True)
class Trained:
    """The parts of a run that its steps change."""

    moco: MoCo
    optimizer: torch.optim.SGD
    scaler: torch.amp.GradScaler
    origin: str
    """One line on the checkpoint that the first weights came from, or empty."""

    def tensors(self) -> Iterator[torch.Tensor]:
        """The tensors of the run's checkpoints: the model's and the optimizer's momentum."""
        yield from self.moco.state_dict().values()
        for group in self.optimizer.param_groups:
            yield from group["params"]  # the momentum of a parameter has its size


def build_trained(
    recipe: Recipe, samples: int, machine: Machine, options: RunOptions, saved: Checkpoint | None
) -> tuple[Trained, str | None]:
    """Build the model on its device, with the weights of --init if this is a new run.

    Returns also a line on these weights, or None. The state of a run to resume is loaded later
    (training.resume.take_up).
    """
    device, ranks = machine.device, machine.ranks
    # The initial weights and the queue come from torch's global generator: nothing may draw from
    # it between these two lines.
    torch.manual_seed(recipe.seed)
    moco = build_moco(recipe, samples, device, ranks, options.accumulate)
    origin, note = "" if saved is None else saved.origin, None
    if options.init and saved is None:
        weights = open_checkpoint(options.init, device)
        origin = note = start_from(moco, weights, recipe, options.init)
        note += f"; {weights.note}" if weights.note else ""
    optimizer = make_optimizer(moco, recipe)
    # These replace and compile modules, and distribute() wraps the encoders as they then are.
    if options.activation_checkpointing:
        recompute_blocks(moco)
    if options.compile and lacks_compiler(device) is None:
        compile_parts(moco, options.cuda_graphs)
    moco.distribute()
    return Trained(moco, optimizer, grad_scaler(device, recipe.precision), origin), note
