"""Features of a store's images: one forward pass of the trunk on the centred view of each."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from data_tools.errors import UserError
from data_tools.progress import Tick
from data_tools.store import Store
from fastmoco.augmentation.plain import centre_view
from fastmoco.loading.engines.registry import open_engine
from fastmoco.loading.engines.resident_gpu import LARGEST_SIDE
from fastmoco.loading.engines.threads import ThreadsEngine
from fastmoco.loading.train_loader import EvalLoader
from fastmoco.model.encoder import Encoder, build_encoder
from fastmoco.recipe import Recipe
from fastmoco.run_options import EngineName
from fastmoco.system.device import autocast
from fastmoco.weights.checkpoint import Checkpoint


@torch.no_grad()
def extract(
    encoder: Encoder,
    store: Store,
    recipe: Recipe,
    device: torch.device,
    threads: int = 0,
    tick: Tick | None = None,
    engine_name: EngineName = "auto",
    out: NDArray[np.float32] | None = None,
) -> torch.Tensor:
    """Pooled trunk outputs, float32 [N, width] in the store's order, in host memory or in `out`.

    The device holds one batch of them at a time. The trunk runs in evaluation mode (running
    BatchNorm statistics) and is left as it was.
    """
    was_training = encoder.training
    encoder.eval()
    engine = open_pass(engine_name, store, threads, device)
    try:
        if out is None:
            out = np.empty((len(store), encoder.width), np.float32)
        features = torch.from_numpy(out)
        done = 0
        for batch in EvalLoader(store, recipe, engine, device):
            images = centre_view(batch.views, recipe.augmentation, torch.float32)
            with autocast(device, recipe.precision):
                pooled = encoder.trunk(images)
            features[done : done + len(pooled)] = pooled  # the wait for the device
            done += len(pooled)
            if tick is not None:
                tick(done, len(store))
        return features
    finally:
        engine.close()
        encoder.train(was_training)


def check_finite(features: torch.Tensor, name: str) -> None:
    """Raises UserError if features [N, D] of the dataset `name` hold an infinity or a NaN: weights
    that are finite can overflow, and NaN features would be scored as one arbitrary class."""
    for chunk in features.split(1 << 14):
        if not bool(torch.stack(chunk.aminmax()).isfinite().all()):  # both are NaN if one number is
            raise UserError(
                f"features of {name}: not finite: the checkpoint's weights overflow; it is "
                "damaged, or its training diverged: give another checkpoint"
            )


def open_pass(name: EngineName, store: Store, threads: int, device: torch.device):
    """An engine for a single pass: threads where `auto` would first lay all images on the device,
    which pays for many passes alone."""
    if name == "auto" and int(store.sizes.max()) <= LARGEST_SIDE:
        name = "threads"
    return open_engine(name, store, threads, device).engine


def raw_pixels(
    store: Store, recipe: Recipe, centre: torch.Tensor | None = None, threads: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """What an encoder must beat: pixels of the 32 x 32 centred view, less their mean, of length 1.

    Returns float32 [N, 3072] and the mean [3072]; give the training set's mean for the other set.
    """
    small = Recipe(size=32, eval_crop=recipe.eval_crop, augmentation=recipe.augmentation)
    engine = ThreadsEngine(store, threads)
    try:
        pixels = torch.empty(len(store), 32 * 32 * 3)
        for batch in EvalLoader(store, small, engine, torch.device("cpu")):
            first = int(batch.index[0])
            pixels[first : first + len(batch.index)] = batch.views[:, 0].flatten(1) / 255
    finally:
        engine.close()
    centre = pixels.mean(dim=0) if centre is None else centre
    pixels -= centre
    return F.normalize(pixels, dim=1, out=pixels), centre


class RawPixels(nn.Module):
    """raw_pixels as a trunk: normalised views [B, 3, S, S] to [B, 3072], of length 1."""

    centre: torch.Tensor
    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, centre: torch.Tensor, recipe: Recipe) -> None:
        super().__init__()
        aug = recipe.augmentation
        self.register_buffer("centre", centre.clone())
        self.register_buffer("mean", torch.tensor(aug.mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(aug.std).view(3, 1, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        pixels = images.float() * self.std + self.mean
        if pixels.shape[-1] != 32:
            pixels = F.interpolate(pixels, (32, 32), mode="bilinear", antialias=True)
        return F.normalize(pixels.permute(0, 2, 3, 1).flatten(1) - self.centre, dim=1)


def pixel_encoder(
    store: Store, recipe: Recipe, device: torch.device, threads: int = 0
) -> Encoder:
    """What an encoder must beat where views are cropped anew: pixels, centred by a store's mean."""
    _, centre = raw_pixels(store, recipe, threads=threads)
    return Encoder(RawPixels(centre, recipe), len(centre), nn.Identity()).to(device).eval()


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
