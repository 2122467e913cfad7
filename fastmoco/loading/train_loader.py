"""Loads the batches of training: store + draws + engine -> Batch on the device, loaded ahead."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from data_tools.errors import UserError
from data_tools.store import Store
from fastmoco import draws
from fastmoco.draws import Colour
from fastmoco.loading import read_ahead
from fastmoco.loading.batch import Batch
from fastmoco.loading.engines.engine import Engine
from fastmoco.loading.ring import Ring
from fastmoco.recipe import Recipe
from fastmoco.system.ranks import ALONE, Ranks
from fastmoco.system.streams import Field

DRAWN = 1024  # samples drawn at a time: numpy calls for few samples cost as much as for many


class TrainLoader:
    """Two crops of every image, with the draws that augment them.

    The order depends only on (recipe.seed, epoch), the draws also on sample and view. The last
    incomplete batch of an epoch is left out. With several ranks, each loads its part of every
    batch; together the parts equal the batch of a single process. read_ahead.pick_order settles an
    order of `auto`; unsettled it counts as random. Raises UserError if the batch does not divide
    into the ranks.
    """

    def __init__(
        self, store: Store, recipe: Recipe, engine: Engine, device: torch.device,
        ranks: Ranks = ALONE,
    ) -> None:
        if recipe.batch % ranks.size:
            raise UserError(
                f"--batch {recipe.batch} does not divide into {ranks.size} ranks; choose a "
                f"multiple of {ranks.size}"
                + (", or fewer ranks" if recipe.batch < ranks.size else "")
            )
        self.store, self.recipe = store, recipe
        self._local, self._rank = recipe.batch // ranks.size, ranks.rank
        self.order = recipe.order
        self.steps_per_epoch = len(store) // recipe.batch
        self._engine, self._device = engine, device
        self._crop = engine.crop_on_device
        self._ring, self._size, self._waited = self._ring_of(recipe.size), recipe.size, 0.0

    def _ring_of(self, size: int) -> Ring:
        """A ring whose slots fit plans for views of this side."""
        plan = next(self._plans(0, 0, np.zeros(self.recipe.batch, np.int64), size))
        if self._crop is None:
            del plan["windows"]  # only the engine needs them, on the host
            plan["views"] = np.empty((self._local, 2, size, size, 3), np.uint8)
        layout = {k: Field(a.dtype, a.shape) for k, a in plan.items()}
        layout["blur_rows"] = Field(np.int64, (2 * self._local,))
        return Ring(None if self._crop else self._engine, layout, self._device)

    @property
    def data_wait(self) -> float:
        """Seconds that steps have waited for data so far."""
        return self._waited + self._ring.data_wait

    def epoch(
        self, epoch: int, first_step: int = 0, size: int | None = None
    ) -> Iterator[Batch]:
        """The batches of one epoch, from first_step on. size: side of the views in pixels [default:
        the recipe's]."""
        size = size or self.recipe.size
        if size != self._size:
            self._waited += self._ring.data_wait
            self._ring.end()
            self._ring, self._size = self._ring_of(size), size
        seed, colour = self.recipe.seed, Colour.__dataclass_fields__
        with contextlib.ExitStack() as stack:
            if self.order == "blocks":
                order = read_ahead.block_order(self.store, seed, epoch)
                ahead = read_ahead.ReadAhead(self.store, order, first_step * self.recipe.batch)
                reach = stack.enter_context(ahead).reach
            else:
                order = draws.permutation(seed, epoch, len(self.store))
                reach = None
            order = order[: self.steps_per_epoch * self.recipe.batch]
            for t in self._ring.batches(self._plans(epoch, first_step, order, size, reach)):
                views = (
                    t["views"] if self._crop is None
                    else self._crop(t["index"], t["windows"], size)
                )
                yield Batch(
                    views, Colour(**{k: t.get(k) for k in colour}), t["label"], t["index"],
                    t["shuffle"], t.get("drawn"),
                )

    def _plans(
        self, epoch: int, first_step: int, order: NDArray[np.int64], size: int,
        reach: Callable[[int], None] | None = None,
    ) -> Iterator[dict[str, NDArray]]:
        """Plan of each step from first_step on: the arrays of its part of the order [steps *
        batch]. reach(position) is called with the position in the order that is drawn next."""
        r, aug, batch = self.recipe, self.recipe.augmentation_at(size), self.recipe.batch
        steps = len(order) // batch
        together = max(1, DRAWN // batch)  # steps drawn at a time
        for begin in range(first_step, steps, together):
            end = min(begin + together, steps)
            ids = order[begin * batch : end * batch]
            drawn = {
                "index": ids,
                "label": self.store.labels[ids],
                "windows": draws.crop_windows(
                    r.seed, epoch, ids, self.store.sizes[ids], 2, aug.scale, aug.ratio
                ),
                **draws.colour(r.seed, epoch, ids, 2, aug).arrays(),
            }
            if reach is not None:
                reach(begin * batch)
            for step in range(begin, end):
                first = (step - begin) * batch + self._rank * self._local
                part = slice(first, first + self._local)
                whole_step = epoch * self.steps_per_epoch + step
                plan = {name: array[part] for name, array in drawn.items()}
                plan["shuffle"] = draws.key_shuffle(r.seed, whole_step, batch)
                if r.mechanism == "memory-bank":
                    plan["drawn"] = draws.bank_negatives(r.seed, whole_step, r.K, len(self.store))
                if aug.blur_p > 0:
                    plan["blur_rows"] = draws.blur_rows(plan["sigma"], aug.blur_p)
                yield plan
