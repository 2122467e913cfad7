"""fastmoco views: a contact sheet of what the encoder will see."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from fastmoco.commands import datasets
from fastmoco.terminal.flags import FLAT, RecipeFlags, positional
from fastmoco.terminal.parse import parse


@dataclass(frozen=True)
class ViewsArgs:
    """Draw a contact sheet: each source with its two windows, and the views q and k."""

    data: positional("DATA")  # type: ignore[valid-type]
    """Prepared dataset, image folder or beton."""
    out: Path = Path("views.png")
    """Image file to write."""
    count: int = 24
    """Images on the sheet."""
    epoch: int = 0
    """Epoch whose draws are shown."""
    recipe: Annotated[RecipeFlags, FLAT] = field(default_factory=RecipeFlags)


def views(argv: list[str]) -> None:
    """fastmoco views DATA --out FILE"""
    args = parse(ViewsArgs, argv, "views")
    from fastmoco.reporting.views import views
    from fastmoco.terminal import console

    ids = views(
        datasets.prepared(args.data), args.out, args.recipe.plain(), args.count, args.epoch
    )
    console.say(f"{args.out}: {len(ids)} images with their two windows, and both views")
