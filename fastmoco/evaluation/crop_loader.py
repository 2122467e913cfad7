"""Random crops for training classifiers: one per image and epoch, flipped half the time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from data_tools.store import Store
from fastmoco import draws
from fastmoco.augmentation.plain import centre_view
from fastmoco.loading.engines.engine import Engine
from fastmoco.loading.ring import Ring
from fastmoco.recipe import Augmentation, Recipe, replace
from fastmoco.system.streams import Field

# torchvision's RandomResizedCrop with its defaults, and RandomHorizontalFlip (main_lincls.py of
# facebookresearch/moco; eval_semisup.py of facebookresearch/swav)
CROP_AND_FLIP = Augmentation(scale=(0.08, 1.0), jitter_p=0.0, gray_p=0.0, flip_p=0.5)


class CropLoader:
    """Images and labels of a store, every image once per epoch; the last batch may be smaller.

    Order and crops depend only on (seed, epoch, sample). The views have the side that evaluations
    use, and are normalised by the recipe's mean and deviation.
    """

    def __init__(
        self, store: Store, recipe: Recipe, engine: Engine, device: torch.device, batch: int,
        seed: int,
    ) -> None:
        self.store, self.seed = store, seed
        self.batch = min(batch, len(store))
        self._aug = replace(
            CROP_AND_FLIP, mean=recipe.augmentation.mean, std=recipe.augmentation.std
        )
        self._size = recipe.eval_size or recipe.size
        self._crop = engine.crop_on_device
        layout = {
            "index": Field(np.int64, (self.batch,)),
            "label": Field(np.int64, (self.batch,)),
            "flip": Field(np.bool_, (self.batch,)),
        }
        if self._crop is None:
            layout["views"] = Field(np.uint8, (self.batch, 1, self._size, self._size, 3))
        else:
            layout["windows"] = Field(np.int32, (self.batch, 1, 4))
        self._ring = Ring(None if self._crop else engine, layout, device)

    def epoch(self, epoch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Batches of one epoch: (images [B, 3, S, S] float32, channels last, normalised; labels
        int64 [B]). They are valid until the next batch is requested."""
        for t in self._ring.batches(self._plans(epoch)):
            views = t.get("views")
            if self._crop is not None:
                views = self._crop(t["index"], t["windows"], self._size)
            assert views is not None
            flipped = torch.where(t["flip"][:, None, None, None, None], views.flip(3), views)
            yield centre_view(flipped, self._aug, torch.float32), t["label"]

    def _plans(self, epoch: int) -> Iterator[dict[str, NDArray]]:
        order = draws.permutation(self.seed, epoch, len(self.store))
        for begin in range(0, len(order), self.batch):
            ids = order[begin : begin + self.batch]
            sizes = self.store.sizes[ids]
            yield {
                "index": ids,
                "label": self.store.labels[ids],
                "flip": draws.colour(self.seed, epoch, ids, 1, self._aug).flip[:, 0],
                "windows": draws.crop_windows(
                    self.seed, epoch, ids, sizes, 1, self._aug.scale, self._aug.ratio
                ),
            }
