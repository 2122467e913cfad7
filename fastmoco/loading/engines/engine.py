"""The protocol of an engine: it decodes samples and cuts windows from them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

# (index int64 [B], windows int32 [B, V, 4], side S), on the device: views uint8 [B, V, S, S, 3]
CropOnDevice = Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor]


class Pending(Protocol):
    """A batch that an engine is working on."""

    def result(self) -> Any:
        """Wait until the batch is filled. Raises UserError, which names the sample, if one
        fails."""


class Engine(Protocol):
    """Cuts given windows from the images of a store. An engine draws no random numbers."""

    threads: int
    """Number of threads that decode."""
    crop_on_device: CropOnDevice | None
    """Cuts views from images that are already on the device; None if they are not, and submit()
    must fill host memory."""

    def submit(
        self, ids: NDArray[np.int64], windows: NDArray, out: NDArray[np.uint8]
    ) -> Pending:
        """Start to fill out, uint8 [B, V, S, S, 3], with windows [B, V, 4] (top, left, height,
        width in pixels) of the samples ids [B]. Windows are integers, or floats for evaluation's
        boxes."""

    def close(self) -> None:
        """Stop all threads; drop batches that were not started."""
