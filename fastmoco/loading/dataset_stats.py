"""The mean and deviation that a run normalises images by: its recipe's, or its dataset's."""

from __future__ import annotations

import dataclasses

from data_tools.errors import UserError
from data_tools.inspection.survey import mean_and_std
from data_tools.store import Store
from fastmoco.recipe import Recipe


def normalised(recipe: Recipe, store: Store, saved: Recipe | None) -> tuple[Recipe, str | None]:
    """Return the recipe with the mean and deviation that --stats selects, and a line on them (None
    if nothing was measured).

    A new run measures them. A resumed run takes them from its checkpoint's recipe, `saved`, so that
    evaluation, export and all parts of a run use the same. Raises UserError if no image decodes, or
    if a channel has standard deviation 0.
    """
    if recipe.stats == "recipe":
        return recipe, None
    if saved is not None and saved.stats == "data":
        return with_stats(recipe, saved.augmentation.mean, saved.augmentation.std), None
    means, deviations, images = mean_and_std(store)
    mean, std = tuple(means), tuple(deviations)
    if min(std) == 0:
        raise UserError(
            f"--stats data: a channel of {store.path} has the same value in all pixels (standard "
            f"deviation 0); use --stats recipe"
        )
    shown = " ".join(map(str, mean)), " ".join(map(str, std))
    line = f"normalised by the data's mean {shown[0]} and deviation {shown[1]} ({images:,} images)"
    return with_stats(recipe, mean, std), line


def with_stats(recipe: Recipe, mean: tuple, std: tuple) -> Recipe:
    """The recipe with this mean and deviation, 3 numbers each."""
    changed = dataclasses.replace(recipe.augmentation, mean=mean, std=std)
    return dataclasses.replace(recipe, augmentation=changed)
