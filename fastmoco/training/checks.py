"""Refuses recipes that these ranks and pieces cannot share out."""

from __future__ import annotations

from data_tools.errors import UserError
from fastmoco.recipe import Recipe
from fastmoco.system.ranks import Ranks


def check_parts(recipe: Recipe, ranks: Ranks, pieces: int) -> None:
    """Raise UserError if ranks and pieces do not divide the batch and BatchNorm's parts."""
    if pieces > 1 and recipe.mechanism == "end-to-end":
        raise UserError(
            "--accumulate: end-to-end needs all keys of a batch at once; use a smaller --batch"
        )
    if ranks.size > 1 and recipe.split == "keys":
        raise UserError("--split keys works on one device: use --split both with several ranks")
    count = ranks.size * pieces
    shares = f"{ranks.size} ranks" if ranks.size > 1 else ""
    shares += " times " if ranks.size > 1 and pieces > 1 else ""
    shares += f"--accumulate {pieces}" if pieces > 1 else ""
    for name, value in (("--batch", recipe.batch), ("--bn-splits", recipe.bn_splits)):
        if value % count:
            raise UserError(
                f"{name} {value} does not divide into {shares}: use {-(-value // count) * count}, "
                f"or another multiple of {count}"
            )
