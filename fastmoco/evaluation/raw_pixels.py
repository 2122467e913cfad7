"""Raw pixels as features: the baseline that an encoder must beat."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from data_tools.store import Store
from fastmoco.loading.engines.threads import ThreadsEngine
from fastmoco.loading.eval_loader import EvalLoader
from fastmoco.model.encoder import Encoder
from fastmoco.recipe import Recipe


def raw_pixels(
    store: Store, recipe: Recipe, centre: torch.Tensor | None = None, threads: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels of the 32 x 32 centred view of each image, minus their mean, normalised to length 1.

    Returns float32 [N, 3072] and the mean [3072]. For a validation set, pass the training set's
    mean as `centre`.
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
    """raw_pixels as a trunk: normalised views [B, 3, S, S] to pixels [B, 3072] of length 1."""

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
    """An encoder whose features are the pixels, minus a store's mean: the baseline if the views are
    random crops, which raw_pixels() cannot cache."""
    _, centre = raw_pixels(store, recipe, threads=threads)
    return Encoder(RawPixels(centre, recipe), len(centre), nn.Identity()).to(device).eval()
