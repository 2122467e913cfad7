"""fastmoco doctor: what this machine has, and what a run would choose."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from data_tools.errors import UserError
from data_tools.safe_reading.json_file import shown_json
from fastmoco.terminal.parse import parse


@dataclass(frozen=True)
class DoctorArgs:
    """Tell what this machine has, how fast it is, what a run would choose, what to install."""

    dir: Path = Path(".")
    """Folder on the disk that is to be tried: where datasets and runs will lie."""
    json: bool = False
    """Print the findings as JSON."""


def doctor(argv: list[str]) -> None:
    """fastmoco doctor"""
    args = parse(DoctorArgs, argv, "doctor")
    from fastmoco.checks.doctor import doctor, lines
    from fastmoco.terminal import console

    if not args.dir.is_dir():
        raise UserError(f"--dir {args.dir}: no such folder; give a folder on the disk to be tried")
    found = doctor(args.dir)
    if args.json:
        print(shown_json(dataclasses.asdict(found)))
        return
    for line in lines(found):
        console.say(line)
