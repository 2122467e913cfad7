"""Patterns that name many files: {000..123}, {a,b}, *, ? and [..], local or behind a URL."""

from __future__ import annotations

import glob
import itertools
import re
from collections.abc import Iterator

from data_tools.errors import UserError
from data_tools.sources.location import LOCAL_URL, Location

BRACES = re.compile(r"\{([^{}]*,[^{}]*|(\d+)\.\.(\d+))\}")
MOST_PATHS = 1_000_000


def is_pattern(text: str) -> bool:
    """True for a text that `expand` would replace by other paths."""
    wild = glob.has_magic(text.split("?", 1)[0] if text.startswith("http") else text)
    return wild or BRACES.search(text) is not None


def expand(pattern: str) -> list[Location]:
    """The places that a pattern names: {000..123} and {a,b} in their order; *, ? and [..] sorted.

    If a local file or folder has this very name, it alone is meant. Raises UserError if nothing
    matches, or if a place that braces name is missing.
    """
    if not pattern or LOCAL_URL.fullmatch(pattern):  # as a path it would be the current directory
        raise UserError(f'"{pattern}": an empty path; "." is the current directory')
    whole = Location(pattern)
    if not is_pattern(pattern) or (whole.local is not None and whole.exists()):
        if not whole.exists():
            raise UserError(f"{pattern}: no such file or folder")
        return [whole]
    places: dict[Location, None] = {}
    for text in braces(pattern):
        place = Location(text)
        if place.local is not None and glob.has_magic(text):
            prefix = "file://" if text.startswith("file://") else ""
            found = glob.glob(text.removeprefix(prefix), recursive=True)
            matches = [Location(prefix + path) for path in sorted(found)]
        elif is_pattern(text):
            with place.errors() as (driver, path):
                matches = [Location(driver.unstrip_protocol(p)) for p in sorted(driver.glob(path))]
        elif place.exists():
            matches = [place]
        else:
            raise UserError(f"{text}: no such file; {pattern} names it")
        places |= dict.fromkeys(matches)
    if not places:
        raise UserError(f"{pattern}: nothing matches this pattern")
    return list(places)


def braces(pattern: str) -> Iterator[str]:
    """All texts that a pattern with braces stands for. Raises UserError for too many."""
    done = [pattern]
    while any(BRACES.search(text) for text in done):
        grown = itertools.chain.from_iterable(map(unfold, done))
        done = list(itertools.islice(grown, MOST_PATHS + 1))
        if len(done) > MOST_PATHS:
            raise UserError(f"{pattern}: stands for more than {MOST_PATHS:,} paths")
    return iter(done)


def unfold(text: str) -> Iterator[str]:
    """The texts that the first pair of innermost braces makes of one."""
    match = BRACES.search(text)
    if match is None:
        yield text
        return
    head, tail = text[: match.start()], text[match.end() :]
    if match[2]:
        width = len(match[2]) if match[2].startswith("0") else 0
        parts: Iterator[str] = (f"{n:0{width}d}" for n in range(int(match[2]), int(match[3]) + 1))
    else:
        parts = iter(match[1].split(","))
    for part in parts:
        yield head + part + tail
