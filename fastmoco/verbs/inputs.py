"""Opens the arguments that most verbs share: data, a checkpoint, a recipe."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_tools.errors import UserError
from data_tools.open import is_store, open_store
from data_tools.progress import ShowProgress, silent
from data_tools.safe_reading.checksum import Say, unsaid
from data_tools.store import MappedStore
from data_tools.subset import Subset
from fastmoco.evaluation.feature_cache import Extraction
from fastmoco.loading.open_dataset import located, prepared
from fastmoco.recipe import AUGMENTATIONS, RECIPES, Augmentation, Recipe
from fastmoco.settings.extraction import ExtractionSettings, ViewSettings
from fastmoco.system.device import pick_device
from fastmoco.system.process import several_ranks
from fastmoco.system.torchrun import join
from fastmoco.verbs.keywords import fields_in
from fastmoco.weights.checkpoint import Checkpoint
from fastmoco.weights.open import open_checkpoint

PathLike = str | os.PathLike[str]
Data = str | os.PathLike[str] | MappedStore | Subset
Weights = str | os.PathLike[str] | Checkpoint


@dataclass(frozen=True)
class How(ExtractionSettings):
    """The view of an image, and the way to extract its features."""

    keep: bool = True
    """Store features in the cache ($XDG_CACHE_HOME/fastmoco/features), so that the next evaluation
    reuses them."""


@dataclass(frozen=True)
class Opened:
    """Everything that an evaluation works on."""

    checkpoint: Checkpoint
    how: Extraction
    stores: list[Any]
    """One store per dataset, or None for a dataset that was not given."""


def open_inputs(
    checkpoint: Weights, data: tuple[Data | None, ...], how: How, shared: bool = True,
    show: ShowProgress = silent, say: Say = unsaid,
) -> Opened:
    """Open a checkpoint, the settings of feature extraction, and one store per dataset.

    shared: True if the processes that torchrun started can share the work. show and say report
    the progress, and a line about a checkpoint of another system.
    """
    if how.threads < 0:
        raise UserError(f"--threads {how.threads}: give 1 or more, or 0 for all cores")
    device = pick_device(how.device)
    saved = viewed(weights(checkpoint, str(device)), how)
    ranks = join()
    if ranks.size > 1 and not (shared and how.keep):
        raise UserError("torchrun: this evaluation works on one device; start it without torchrun")
    if ranks.rank > 0:
        show, say = silent, unsaid
    for line in (saved.origin, saved.note):
        if line:
            say(f"{named(checkpoint)}: {line}")
    if ranks.rank > 0:
        ranks.barrier()  # the first rank prepares a dataset that is not prepared yet
    stores = [None if path is None else store(path, show, say) for path in data]
    if ranks.rank == 0:
        ranks.barrier()
    extraction = Extraction(device, how.threads, how.engine, how.keep, ranks, show, say)
    return Opened(saved, extraction, stores)


def viewed(saved: Checkpoint, view: ViewSettings) -> Checkpoint:
    """Return a checkpoint with another view in its recipe. Raises UserError for wrong values."""
    if view.size < 0:
        raise UserError(f"--size {view.size}: give a side in pixels")
    recipe = dataclasses.replace(saved.recipe, eval_size=view.size or saved.recipe.eval_size)
    for name, values in (("mean", view.mean), ("std", view.std)):
        if not values:
            continue
        good = len(values) == 3 and all(0 <= v <= 1 for v in values)
        if not good or (name == "std" and 0 in values):
            shown = " ".join(map(str, values))
            raise UserError(f"--{name} {shown}: give three numbers, 0 to 1")
        changes: dict[str, Any] = {name: values}
        augmentation = dataclasses.replace(recipe.augmentation, **changes)
        recipe = dataclasses.replace(recipe, augmentation=augmentation)
    return dataclasses.replace(saved, recipe=recipe)


def weights(checkpoint: Weights, device: str = "cpu") -> Checkpoint:
    """Return a Checkpoint as it is, or read the one in a run directory or file."""
    if isinstance(checkpoint, Checkpoint):
        return checkpoint
    return open_checkpoint(checkpoint, device)


def named(checkpoint: Weights) -> str:
    """Return the name of a checkpoint for messages."""
    return "checkpoint" if isinstance(checkpoint, Checkpoint) else os.fspath(checkpoint)


def store(data: Data, show: ShowProgress = silent, say: Say = unsaid) -> MappedStore | Subset:
    """Open a dataset. Images that are not prepared are prepared into the cache first."""
    return data if isinstance(data, MappedStore | Subset) else open_store(located(data, show, say))


def dataset(data: Data) -> Path:
    """Return the path of a dataset for functions that open it themselves; prepares as `store`."""
    if isinstance(data, Subset):
        raise UserError("data: give a path or a whole dataset, not a Subset of one")
    if isinstance(data, MappedStore):
        return data.path
    if several_ranks() and os.path.isdir(data) and not is_store(data):  # they would all prepare it
        raise UserError(f"{os.fspath(data)} is not prepared: prepare it first, and give the result")
    return prepared(data, unsaid)


def recipe_of(recipe: Recipe | str, flags: Mapping[str, Any]) -> Recipe:
    """Return a recipe, or the one with a name, with the fields changed that `flags` holds. An
    augmentation may be a name, or None for no change."""
    if isinstance(recipe, str):
        if recipe not in RECIPES:
            raise UserError(f"--recipe {recipe}: there are {', '.join(RECIPES)}")
        recipe = RECIPES[recipe]
    changes = fields_in(Recipe, flags)
    augmentation: Augmentation | str | None = changes.pop("augmentation", None)
    if isinstance(augmentation, str):
        if augmentation not in AUGMENTATIONS:
            raise UserError(f"--augmentation {augmentation}: there are {', '.join(AUGMENTATIONS)}")
        augmentation = AUGMENTATIONS[augmentation]
    if augmentation is not None:
        changes["augmentation"] = augmentation
    return dataclasses.replace(recipe, **changes)
