"""What a loader hands to a step, and what an engine promises to a loader."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fastmoco.draws import Colour


@dataclass(frozen=True)
class Batch:
    """One batch on the device. The tensors lie in a ring slot: they hold until the next batch is
    asked for, so copy what must live longer."""

    views: torch.Tensor
    """uint8 [B, V, S, S, 3], RGB: the crops of each image."""
    colour: Colour | None
    """The factors of each view as tensors [B, V]; None for evaluation."""
    label: torch.Tensor
    """int64 [B], -1 where unlabelled."""
    index: torch.Tensor
    """int64 [B]: sample ids in the store."""
    shuffle: torch.Tensor | None
    """int64 [whole batch]: how the keys are dealt to the parts of split BatchNorm; None for
    evaluation."""
    drawn: torch.Tensor | None = None
    """int64 [K]: the negatives drawn from a memory bank; None for the other mechanisms."""

    def prepared(self, images: torch.Tensor) -> Prepared:
        """This batch with its augmented images; on a GPU it no longer needs the ring slot."""

        def keep(x: torch.Tensor | None) -> torch.Tensor | None:
            return x.clone() if x is not None and x.device.type != "cpu" else x

        index = keep(self.index)
        assert index is not None
        return Prepared(images, index, keep(self.shuffle), keep(self.drawn))


@dataclass(frozen=True)
class Prepared:
    """A batch that is ready for a step: images, and what else the step reads."""

    images: torch.Tensor
    """[2, B, 3, S, S], channels last, normalised: queries' and keys' views."""
    index: torch.Tensor
    shuffle: torch.Tensor | None
    drawn: torch.Tensor | None

    def tensors(self) -> list[torch.Tensor]:
        """All of them."""
        return [t for t in vars(self).values() if t is not None]
