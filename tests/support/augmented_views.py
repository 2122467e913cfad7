"""Crops and colour draws for the tests of the augmentation."""

import numpy as np
import torch

from fastmoco import draws
from fastmoco.draws import Colour
from tests.support.made_files.sample_images import smooth_image


def some_views(count=12, size=40, seed=0):
    """uint8 [count, 2, size, size, 3]: two crops per sample."""
    rng = np.random.default_rng(seed)
    images = np.stack([smooth_image(rng, size, size) for _ in range(2 * count)])
    return torch.from_numpy(images.reshape(count, 2, size, size, 3))


def some_draws(aug, count=12, seed=0):
    """The colour draws of `count` samples with two views each, as tensors."""
    arrays = draws.colour(seed, 0, np.arange(count), 2, aug).arrays()
    return Colour(**{k: torch.from_numpy(v) for k, v in arrays.items()})
