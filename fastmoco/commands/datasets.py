"""Opens the datasets of commands, and prints findings about them. Needs no torch."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from data_tools.safe_reading.json_file import shown_json


def index(path: Path, quiet: bool) -> None:
    """Index a file that fastmoco did not write, and keep the index. This may take a minute."""
    from data_tools.open import open_store
    from fastmoco.terminal import console

    if path.is_file():
        with console.progress("indexing", "bytes") as tick:
            open_store(path) if quiet else open_store(path, tick, console.say)


def print_found(found: Any, lines: list[str], as_json: bool) -> None:
    """Print a dataclass as JSON, or its lines for people."""
    from fastmoco.terminal import console

    if as_json:
        print(shown_json(dataclasses.asdict(found)))
        return
    for line in lines:
        console.say(line)


def prepared(path: Path, quiet: bool = False) -> Path:
    """Return the path of a prepared dataset. An image folder is prepared into the cache first, and
    unless `quiet` a line says so."""
    from data_tools.open import is_store
    from fastmoco.loading.open_dataset import prepared
    from fastmoco.terminal import console

    if is_store(path):
        index(path, quiet)
        return path
    if quiet:
        return prepared(path, lambda _: None)
    with console.progress("preparing", "images") as tick:
        return prepared(path, console.say, tick)
