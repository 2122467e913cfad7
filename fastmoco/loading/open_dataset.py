"""Finds any dataset: images that are not prepared are prepared once, into the user's cache."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from data_tools.files import cache_dir
from data_tools.manifest import UNFINISHED, summary
from data_tools.open import is_dataset, is_store, open_store
from data_tools.prepare import prepare
from data_tools.progress import ShowProgress, Tick, silent
from data_tools.safe_reading.checksum import Say, unsaid
from data_tools.sources.registry import open_source


def located(
    data: str | os.PathLike[str], show: ShowProgress = silent, say: Say = unsaid
) -> Path:
    """Return the path of a dataset that opens at once: prepared images, or a file with an index.

    Images that are not prepared (a folder, a list, an archive) are prepared into the cache.
    """
    if is_store(data):
        index(data, show, say)
        return Path(data)
    with show("preparing", "images") as tick:
        return prepared(data, say, tick)


def index(data: str | os.PathLike[str], show: ShowProgress, say: Say) -> None:
    """Read a file of another program once for its index, which is kept. This may take a minute."""
    if os.path.isfile(data):
        with show("indexing", "bytes") as tick:
            open_store(data, tick, say)


def prepared(
    data: str | os.PathLike[str],
    say: Callable[[str], None],
    progress: Tick | None = None,
) -> Path:
    """Return the path of the prepared dataset for `data`.

    A dataset that is prepared (or a beton) is returned as it is. Any other source is prepared into
    the cache, unless it is there already. The cache is keyed by the source's fingerprint, so a
    folder that changed is prepared again. say(line) reports each step.
    """
    path = Path(data)
    if not path.exists() or is_store(path):
        return path
    if (path / UNFINISHED).exists():  # a prep of this folder was killed: open_store says so
        return path
    source = open_source(path)
    try:
        out = cache_dir() / f"{source.name}-{source.fingerprint[:12]}"
    finally:
        source.close()
    if is_dataset(out):
        say(f"{path}: already prepared, in {out}")
        return out
    say(f"{path} is not prepared yet: preparing it into {out}")
    for line in summary(prepare(path, out, progress=progress)):
        say(line)
    return out
