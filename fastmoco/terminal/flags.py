"""Types that the flags of several commands share."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from fastmoco.recipe import RECIPES, Recipe

FLAT = tyro.conf.arg(name="")


def positional(name: str) -> Any:
    """A path that stands by its place; `name` is what help and errors call it."""
    return Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar=name)]


@dataclass(frozen=True)
class RecipeFlags(Recipe):
    """A recipe whose name is the flag --recipe."""

    name: Annotated[Literal[tuple(RECIPES)], tyro.conf.arg(name="recipe")] = "moco-v2"  # type: ignore
    """Named recipe to begin from; the other flags change it. Also: --augmentation v1|v2|cifar."""

    def plain(self) -> Recipe:
        """The same values as a Recipe."""
        return Recipe(**{f.name: getattr(self, f.name) for f in dataclasses.fields(Recipe)})
