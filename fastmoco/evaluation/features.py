"""Extracts features: one forward pass of the trunk on the centred view of each image."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from data_tools.errors import UserError
from data_tools.progress import Tick
from data_tools.store import Store
from fastmoco.augmentation.plain import centre_view
from fastmoco.loading.engines.engine import Engine
from fastmoco.loading.engines.registry import open_engine
from fastmoco.loading.engines.resident_gpu import LARGEST_SIDE
from fastmoco.loading.eval_loader import EvalLoader
from fastmoco.model.encoder import Encoder
from fastmoco.recipe import Recipe
from fastmoco.settings.extraction import EngineName
from fastmoco.system.device import autocast


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
    BatchNorm statistics); afterwards its mode is restored. tick(done, total) counts images.
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
            features[done : done + len(pooled)] = pooled  # waits for the device
            done += len(pooled)
            if tick is not None:
                tick(done, len(store))
        return features
    finally:
        engine.close()
        encoder.train(was_training)


def check_finite(features: torch.Tensor, name: str) -> None:
    """Raise UserError if features [N, D] of the dataset `name` hold an infinity or a NaN.

    Finite weights can overflow, and NaN features would all be scored as one arbitrary class.
    """
    for chunk in features.split(1 << 14):
        if not bool(torch.stack(chunk.aminmax()).isfinite().all()):  # both are NaN if one number is
            raise UserError(
                f"features of {name}: not finite: the checkpoint's weights overflow; it is "
                "damaged, or its training diverged: give another checkpoint"
            )


def open_pass(name: EngineName, store: Store, threads: int, device: torch.device) -> Engine:
    """Open an engine for a single pass. For small images, for which `auto` would decode the whole
    dataset onto the device first, take threads: that only pays off over many passes."""
    if name == "auto" and int(store.sizes.max()) <= LARGEST_SIDE:
        name = "threads"
    return open_engine(name, store, threads, device).engine
