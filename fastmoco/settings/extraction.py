"""Settings of reading images: the view of an evaluation, and the decoder and device of the work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

EngineName = Literal["auto", "threads", "resident", "dali", "ffcv"]


@dataclass(frozen=True)
class ViewSettings:
    """The view of an image that an encoder sees in an evaluation."""

    size: int = 0
    """Side of the views in pixels [default: that of the recipe; for checkpoints of other systems,
    which do not record it, 224, or 32 with a CIFAR stem]."""
    mean: tuple[float, ...] = ()
    """Mean of each of the three channels for normalisation, 0 to 1 [default: that of the recipe;
    for checkpoints of other systems ImageNet's, or CIFAR-10's with a CIFAR stem]."""
    std: tuple[float, ...] = ()
    """Standard deviation of each of the three channels, 0 to 1 [default: like --mean]."""


@dataclass(frozen=True)
class DecodingSettings:
    """The device, and the decoder of the images."""

    device: str = "auto"
    """Device: auto, cuda, cuda:N or cpu. auto takes a GPU if there is one."""
    threads: int = 0
    """Number of decoding threads [default: one per core]."""
    engine: EngineName = "auto"
    """Decoder: threads of this program, resident (all images decoded in memory), dali, or ffcv for
    betons. auto picks the fastest that works."""


@dataclass(frozen=True)
class ExtractionSettings(ViewSettings, DecodingSettings):
    """The view of an image, and the way to extract its features."""
