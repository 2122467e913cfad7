"""Refusals of recipes that cannot train on this data or with these ranks."""

from __future__ import annotations

from data_tools.errors import UserError
from data_tools.quantities import human
from fastmoco.recipe import Recipe, most_keys
from fastmoco.run_options import RunOptions
from fastmoco.system.ranks import Ranks


def check_parts(recipe: Recipe, ranks: Ranks, pieces: int) -> None:
    """UserError where ranks or pieces do not divide the batch and BatchNorm's parts."""
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


def refuse_large_queue(recipe: Recipe, samples: int, options: RunOptions) -> None:
    """UserError where the negatives would be older keys of the same images."""
    if recipe.mechanism == "queue" and recipe.K > samples and not options.force:
        raise UserError(
            f"--K {recipe.K} is larger than the dataset ({samples} images): the negatives would "
            f"hold older keys of the same images; use --K {most_keys(samples, recipe.batch)} or "
            f"less, or --force"
        )


MOST_ROOM = 10**12  # bytes


def refuse_vast_keys(recipe: Recipe, room: int | None) -> None:
    """Raise UserError if the queue's keys, float32 [K, dim], take more than `room` bytes [default:
    more than any device has]. A walk takes time in proportion to K, and would not end."""
    keys, room = recipe.K * recipe.dim * 4, MOST_ROOM if room is None else room
    if recipe.mechanism == "queue" and keys > room:
        raise UserError(
            f"out of memory: the queue's keys alone take {human(keys)} (--K {recipe.K}, "
            f"--dim {recipe.dim}), and there are {human(room)}; use a smaller --K or --dim"
        )
