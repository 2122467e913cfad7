"""fastmoco doctor: reports this machine's hardware and speed, and the choices of a run on it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from data_tools.safe_reading.json_file import shown_json
from fastmoco.terminal.parse import parse


@dataclass(frozen=True)
class Args:
    """Report this machine's hardware, its speed, the choices that a run would make on it, and the
    packages that would help."""

    dir: Path = Path(".")
    """Folder on the disk to measure, where datasets and runs will be stored."""
    json: bool = False
    """Print the findings as JSON."""


def run(argv: list[str]) -> None:
    """Run `fastmoco doctor`."""
    args = parse(Args, argv, "doctor")
    from fastmoco.checks.doctor import lines
    from fastmoco.terminal import console
    from fastmoco.verbs.checks import doctor

    found = doctor(args.dir)
    if args.json:
        print(shown_json(dataclasses.asdict(found)))
        return
    for line in lines(found):
        console.say(line)
