"""fastmoco verify: checks that a dataset is complete and undamaged."""

from __future__ import annotations

import contextlib
import dataclasses
from dataclasses import dataclass

from data_tools.errors import UserError
from data_tools.safe_reading.json_file import shown_json
from fastmoco.commands.datasets import index
from fastmoco.terminal.flags import positional
from fastmoco.terminal.parse import parse


@dataclass(frozen=True)
class Args:
    """Check that a dataset is complete and undamaged: every checksum and every image. PATH may also
    be a beton, TFRecord, RecordIO or WebDataset file that another program wrote."""

    path: positional("PATH")  # type: ignore[valid-type]
    """Prepared dataset or file."""
    quick: int = 0
    """Decode only this many images, evenly spread [default: all]."""
    workers: int = 0
    """Number of decoding threads [default: one per core]."""
    json: bool = False
    """Print the result as JSON."""


def run(argv: list[str]) -> None:
    """Run `fastmoco verify PATH`."""
    args = parse(Args, argv, "verify")
    if args.quick < 0 or args.workers < 0:
        raise UserError("--quick and --workers: give 0 or more")
    from data_tools.inspection.verify import verify
    from fastmoco.terminal import console

    with contextlib.suppress(UserError):  # the report then names the error
        index(args.path, args.json)
    with console.progress("verifying", "images") as tick:
        reports = verify(args.path, args.quick, args.workers, None if args.json else tick)
    if args.json:
        found = [dataclasses.asdict(r) | {"verdict": r.verdict} for r in reports]
        print(shown_json(found))
    else:
        for report in reports:
            console.say(f"{report.path}: {report.format}, {report.verdict}")
            for line in report.problems:
                console.say(f"  {line}")
            if report.found > len(report.problems):
                console.say(f"  and {report.found - len(report.problems):,} more")
            for line in report.warnings:
                console.say(f"  note: {line}")
    bad = [report for report in reports if report.found]
    if bad:
        raise UserError(f"{bad[0].path}: {bad[0].verdict} ({bad[0].problems[0]})")
