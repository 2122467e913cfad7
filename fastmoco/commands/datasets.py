"""Opens the datasets of commands, and prints findings about them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_tools.safe_reading.json_file import shown_json

if TYPE_CHECKING:
    from data_tools.progress import ShowProgress
    from data_tools.safe_reading.checksum import Say


def index(path: Path, quiet: bool) -> None:
    """Index a file that fastmoco did not write, and keep the index. This may take a minute."""
    from fastmoco.loading import open_dataset

    open_dataset.index(path, *reports(quiet))


def reports(quiet: bool) -> tuple[ShowProgress, Say]:
    """Return the functions that show progress and print a line, or silent ones."""
    from data_tools.progress import silent
    from data_tools.safe_reading.checksum import unsaid
    from fastmoco.terminal import console

    return (silent, unsaid) if quiet else (console.progress, console.say)


def print_found(found: Any, lines: list[str], as_json: bool) -> None:
    """Print a dataclass as JSON, or its lines for people."""
    from fastmoco.terminal import console

    if as_json:
        print(shown_json(dataclasses.asdict(found)))
        return
    for line in lines:
        console.say(line)


def prepared(path: Path, quiet: bool = False) -> Path:
    """Return the path of a dataset that opens at once. Images that are not prepared are prepared
    into the cache first. Unless `quiet`, progress and lines report it."""
    from fastmoco.loading.open_dataset import located

    return located(path, *reports(quiet))
