"""Builds the encoder of a checkpoint, and the untrained one that its training started from."""

from __future__ import annotations

import torch

from fastmoco.model.encoder import Encoder, build_encoder
from fastmoco.recipe import Recipe
from fastmoco.weights.checkpoint import Checkpoint


def load_encoder(
    checkpoint: Checkpoint, device: torch.device, splits: int | None = None
) -> Encoder:
    """Return the query encoder of a checkpoint, in evaluation mode.

    Its head is untrained if the checkpoint has none, as some of other systems
    (fastmoco.weights.open). splits: as in build_encoder.
    """
    encoder = build_encoder(checkpoint.recipe, splits)
    prefix = "encoder_q."
    state = {k[len(prefix) :]: v for k, v in checkpoint.moco.items() if k.startswith(prefix)}
    encoder.load_state_dict(dict(encoder.state_dict()) | state)
    return encoder.to(device).eval()


def beginning(checkpoint: Checkpoint) -> str:
    """Return the name of initial_encoder in tables of results. Weights that came from another
    checkpoint (--init, or another system's) never were that encoder."""
    return "untrained" if checkpoint.origin else "at step 0"


def initial_encoder(
    recipe: Recipe, device: torch.device, splits: int | None = None
) -> Encoder:
    """Return the query encoder of a recipe as it is before its first step. Seeds torch's global
    generator."""
    torch.manual_seed(recipe.seed)
    return build_encoder(recipe, splits).to(device)
