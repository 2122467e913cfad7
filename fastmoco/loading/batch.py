"""The batches that loaders return: as loaded, and with augmented images."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fastmoco.draws import Colour


@dataclass(frozen=True)
class Batch:
    """One batch on the device. Its tensors are in a ring slot: they are valid until the next batch
    is requested, so copy those that must live longer."""

    views: torch.Tensor
    """uint8 [B, V, S, S, 3], RGB: the crops of each image."""
    colour: Colour | None
    """The factors of each view as tensors [B, V]; None for evaluation."""
    label: torch.Tensor
    """int64 [B]: classes, -1 for unlabelled images."""
    index: torch.Tensor
    """int64 [B]: sample ids in the store."""
    shuffle: torch.Tensor | None
    """int64 [whole batch]: the permutation that assigns keys to the parts of split BatchNorm; None
    for evaluation."""
    drawn: torch.Tensor | None = None
    """int64 [K]: sample ids of the negatives drawn from the memory bank; None for other
    mechanisms."""

    def prepared(self, images: torch.Tensor) -> Prepared:
        """Join this batch with its augmented images. On a GPU the result does not use the ring
        slot."""

        def keep(x: torch.Tensor | None) -> torch.Tensor | None:
            return x.clone() if x is not None and x.device.type != "cpu" else x

        index = keep(self.index)
        assert index is not None
        return Prepared(images, index, keep(self.shuffle), keep(self.drawn))


@dataclass(frozen=True)
class Prepared:
    """A batch that is ready for a training step: augmented images and the tensors of Batch that the
    step reads."""

    images: torch.Tensor
    """[2, B, 3, S, S], channels last, normalised: the views of the queries and of the keys."""
    index: torch.Tensor
    shuffle: torch.Tensor | None
    drawn: torch.Tensor | None

    def tensors(self) -> list[torch.Tensor]:
        """Its tensors, all of them."""
        return [t for t in vars(self).values() if t is not None]
