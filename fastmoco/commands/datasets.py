"""The commands of the data: prep, verify, inspect. None of them needs torch."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_tools.safe_reading.json_file import shown_json

if TYPE_CHECKING:
    from data_tools.sources.source import Source


def index(path: Path, quiet: bool) -> None:
    """A file of others is read through once, which may take a minute; its index is kept."""
    from data_tools.open import open_store
    from fastmoco.terminal import console

    if path.is_file():
        with console.progress("indexing", "bytes") as tick:
            open_store(path) if quiet else open_store(path, tick, console.say)


def print_found(found: Any, lines: list[str], as_json: bool) -> None:
    """A dataclass as JSON, or its lines for people."""
    from fastmoco.terminal import console

    if as_json:
        print(shown_json(dataclasses.asdict(found)))
        return
    for line in lines:
        console.say(line)


def source_of(text: str) -> str | Source:
    """What prep is to read; torchvision's datasets are opened here, the rest by data_tools."""
    from fastmoco.loading import torchvision_source

    return torchvision_source.open(text) if torchvision_source.recognises(text) else text


def prepared(path: Path, quiet: bool = False) -> Path:
    """The dataset at a path; a folder of images is prepared into the cache, and that is said."""
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
