"""fastmoco inspect: reports figures about a dataset."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from data_tools.errors import UserError
from fastmoco.commands.datasets import index, print_found
from fastmoco.terminal.flags import positional
from fastmoco.terminal.parse import parse


@dataclass(frozen=True)
class Args:
    """Report the counts, classes, sizes, bytes, colours and duplicates of a dataset."""

    path: positional("PATH")  # type: ignore[valid-type]
    """Prepared dataset, or a beton, TFRecord, RecordIO or WebDataset file."""
    sheet: Path | None = None
    """Also draw a contact sheet by class into this .png or .jpg file."""
    sample: int = 500
    """Number of images, evenly spread, to decode for the colours."""
    json: bool = False
    """Print the figures as JSON."""


def run(argv: list[str]) -> None:
    """Run `fastmoco inspect PATH`."""
    args = parse(Args, argv, "inspect")
    if args.sample < 1:
        raise UserError(f"--sample {args.sample}: give 1 or more")
    from data_tools.inspection.contact_sheet import contact_sheet
    from data_tools.inspection.sheets import check_picture
    from data_tools.inspection.survey import survey
    from data_tools.inspection.survey_text import lines
    from data_tools.open import open_store
    from fastmoco.terminal import console

    if args.sheet is not None:
        check_picture(args.sheet, "--sheet")
    index(args.path, args.json)
    with console.progress("reading", "images") as tick:
        found = survey(args.path, args.sample, progress=None if args.json else tick)
    print_found(found, lines(found), args.json)
    if args.sheet is not None:
        shown = contact_sheet(open_store(args.path), args.sheet)
        if not args.json:
            console.say(f"{args.sheet}: {shown:,} images")
