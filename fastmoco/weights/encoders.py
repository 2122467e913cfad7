"""The encoder of a checkpoint as a module, and the untrained one that it started as."""

from __future__ import annotations

import torch

from fastmoco.model.encoder import Encoder, build_encoder
from fastmoco.recipe import Recipe
from fastmoco.weights.checkpoint import Checkpoint


def load_encoder(
    checkpoint: Checkpoint, device: torch.device, splits: int | None = None
) -> Encoder:
    """The query encoder of a checkpoint, ready for extract; where other systems' checkpoints have
    no head (fastmoco.weights.open), its head is an untrained one. `splits`: as in build_encoder."""
    encoder = build_encoder(checkpoint.recipe, splits)
    prefix = "encoder_q."
    state = {k[len(prefix) :]: v for k, v in checkpoint.moco.items() if k.startswith(prefix)}
    encoder.load_state_dict(dict(encoder.state_dict()) | state)
    return encoder.to(device).eval()


def beginning(checkpoint: Checkpoint) -> str:
    """What results call initial_encoder: where the weights are from another checkpoint (--init, or
    another system's), they never were that."""
    return "untrained" if checkpoint.origin else "at step 0"


def initial_encoder(
    recipe: Recipe, device: torch.device, splits: int | None = None
) -> Encoder:
    """The query encoder of a recipe before its first step."""
    torch.manual_seed(recipe.seed)
    return build_encoder(recipe, splits).to(device)
