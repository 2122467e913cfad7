"""Promises: statements that a measurement checks, and the exit code that follows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fastmoco.terminal.console import say

Promise = tuple[str, bool]
"""The statement with its measured figure, and whether it was kept."""


def verdict(promises: Iterable[Promise]) -> int:
    """Print each promise as kept or NOT KEPT; return 1 if one was not, else 0."""
    code = 0
    for text, kept in promises:
        say(f"{'kept' if kept else 'NOT KEPT'}: {text}")
        code |= not kept
    return int(code)


def not_met(lines: Iterable[str]) -> int:
    """Print the failed goals; return 1 if there are any, else 0."""
    code = 0
    for line in lines:
        say(f"not met: {line}")
        code = 1
    return code


def in_json(promises: Iterable[Promise]) -> list[dict[str, Any]]:
    """Return the promises as a result file holds them."""
    return [{"line": text, "kept": kept} for text, kept in promises]
