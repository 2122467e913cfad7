"""The protocol of an engine: encoded bytes and windows in, uint8 views out."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class Pending(Protocol):
    """Work under way in an engine."""

    def result(self) -> Any:
        """Wait until the slot is filled; raise what went wrong, naming the sample."""


class Engine(Protocol):
    """Encoded bytes and windows to pixels. An engine draws nothing."""

    threads: int
    """How many decode."""

    def submit(
        self, ids: NDArray[np.int64], windows: NDArray, out: NDArray[np.uint8]
    ) -> Pending:
        """Begin to fill out, uint8 [B, V, S, S, 3], from windows [B, V, 4] (top, left, height,
        width): integers, or floats for evaluation's boxes."""

    def close(self) -> None:
        """Stop all threads; what has not begun is dropped."""
