"""Types that the flags of several commands share."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from fastmoco.recipe import MOCO_V2, RECIPES, Augmentation, Recipe
from fastmoco.settings.rules import flag

NAMED = tyro.conf.arg(name="recipe", metavar="NAME")
FLAT = tyro.conf.arg(name="")  # the flags of a nested dataclass get no prefix

Groups = dict[str, tuple[str, ...]]
"""Flags without their dashes, by the title under which the help page prints them. The group
without a title follows the positions."""


def positional(name: str, kind: Any = Path) -> Any:
    """Return the type of an argument that is given by its position. Help and errors call it
    `name`."""
    return Annotated[kind, tyro.conf.Positional, tyro.conf.arg(metavar=name)]


@dataclass(frozen=True)
class RecipeFlags(Recipe):
    """A recipe whose name is the flag --recipe."""

    name: Annotated[Literal[tuple(RECIPES)], NAMED] = "moco-v2"  # type: ignore
    """Named recipe to start from. It sets the defaults of the other flags."""

    @classmethod
    def of(cls, recipe: Recipe = MOCO_V2) -> RecipeFlags:
        """Return the flags whose defaults are the values of a recipe."""
        return cls(**{f.name: getattr(recipe, f.name) for f in dataclasses.fields(Recipe)})

    def plain(self) -> Recipe:
        """Return the same values as a Recipe."""
        return Recipe(**{f.name: getattr(self, f.name) for f in dataclasses.fields(Recipe)})


# Groups of the recipe's flags, for every command that takes a recipe.
VIEWS = (
    "size", "progressive", "eval-size", "eval-crop", "order", "stats", "augmentation",
    *(f"augmentation.{flag(f.name)}" for f in dataclasses.fields(Augmentation)),
)
MODEL = (
    "arch", "stem", "head", "dim", "mechanism", "shared", "symmetric", "K", "m", "T",
    "bn-splits", "split",
)
SCHEDULE = (
    "epochs", "batch", "lr", "momentum", "weight-decay", "schedule", "schedule-by", "warmup",
    "seed",
)
