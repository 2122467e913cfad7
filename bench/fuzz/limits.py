"""The limits of one file's reading."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """The limits for one file."""

    seconds: float = 5
    """Processor time, so that other programs on the machine don't look like a hang."""
    bytes: int = 300 << 20
    """Memory above the process's own base."""
