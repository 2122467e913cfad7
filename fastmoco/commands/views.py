"""fastmoco views: draws a contact sheet of the views that the encoder will see."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar

from fastmoco.commands import datasets
from fastmoco.terminal.flags import (
    FLAT,
    MODEL,
    SCHEDULE,
    VIEWS,
    Groups,
    RecipeFlags,
    positional,
)
from fastmoco.terminal.parse import parse


@dataclass(frozen=True)
class Args:
    """Draw a contact sheet: each image with its two crops marked, and the two views q and k."""

    groups: ClassVar[Groups] = {
        "": ("recipe",),
        "output": ("out", "count", "epoch"),
        "data and views": VIEWS,
        "model and loss": MODEL,
        "schedule": SCHEDULE,
        "time and memory": ("precision",),
    }

    data: positional("DATA")  # type: ignore[valid-type]
    """Prepared dataset, image folder or beton (FFCV's file format)."""
    out: Path = Path("views.png")
    """Image file to write."""
    count: int = 24
    """Number of images on the sheet."""
    epoch: int = 0
    """Epoch whose random draws are shown."""
    recipe: Annotated[RecipeFlags, FLAT] = field(default_factory=RecipeFlags.of)


def run(argv: list[str]) -> None:
    """Run `fastmoco views DATA --out FILE`."""
    args = parse(Args, argv, "views")
    from fastmoco.reporting.views import views
    from fastmoco.terminal import console

    ids = views(
        datasets.prepared(args.data), args.out, args.recipe.plain(), args.count, args.epoch
    )
    console.say(f"{args.out}: {len(ids)} images with their two windows, and both views")
