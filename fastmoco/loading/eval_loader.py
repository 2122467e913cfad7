"""Loads the centred view of each image, in the store's order, for evaluations."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from data_tools.store import Store
from fastmoco import draws
from fastmoco.loading.batch import Batch
from fastmoco.loading.engines.engine import Engine
from fastmoco.loading.ring import Ring
from fastmoco.recipe import Recipe
from fastmoco.system.streams import Field


class EvalLoader:
    """One centred view per image, in the store's order; the last batch may be smaller."""

    def __init__(
        self, store: Store, recipe: Recipe, engine: Engine, device: torch.device, batch: int = 256
    ) -> None:
        self.store, self.recipe, self.batch = store, recipe, batch
        size = recipe.eval_size or recipe.size
        self._ring = Ring(
            engine,
            {
                "index": Field(np.int64, (batch,)),
                "label": Field(np.int64, (batch,)),
                "views": Field(np.uint8, (batch, 1, size, size, 3)),
            },
            device,
        )

    def __iter__(self) -> Iterator[Batch]:
        def plans() -> Iterator[dict[str, NDArray]]:
            for start in range(0, len(self.store), self.batch):
                ids = np.arange(start, min(start + self.batch, len(self.store)))
                boxes = draws.eval_boxes(self.store.sizes[ids], self.recipe.eval_crop)
                yield {"index": ids, "label": self.store.labels[ids], "windows": boxes}

        for t in self._ring.batches(plans()):
            yield Batch(t["views"], None, t["label"], t["index"], None)
