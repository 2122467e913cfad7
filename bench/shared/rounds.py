"""Alternating rounds: every side is measured once per round, so that all meet the same machine."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TypeVar

from fastmoco.terminal.console import progress, say

Name = TypeVar("Name", bound=Hashable)
Found = TypeVar("Found")


def alternate(
    sides: Mapping[Name, Callable[[], Found]], rounds: int, *, end: float = float("inf"),
    quiet: bool = False,
) -> dict[Name, list[Found]]:
    """Return what each side gave in each round.

    No round after the first starts if it would finish after `end`, a time of time.monotonic().
    A `quiet` call shows no progress; inside another progress display it must be quiet.
    """
    found: dict[Name, list[Found]] = {name: [] for name in sides}
    shown = contextlib.nullcontext() if quiet else progress("measuring", "runs")
    with shown as tick:
        for number in range(rounds):
            started = time.monotonic()
            for i, (name, side) in enumerate(sides.items()):
                found[name].append(side())
                if tick:
                    tick(number * len(sides) + i + 1, rounds * len(sides))
            now = time.monotonic()
            if number + 1 < rounds and now + (now - started) > end:
                say(f"stopped after {number + 1} of {rounds} rounds: another takes too long")
                break
    return found


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the median, the least and the most."""
    return statistics.median(values), min(values), max(values)


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the median of the rounds' ratios, in which a slow hour cancels."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
