"""The source behind CIFAR and IDX files: images that are rows of one uint8 array."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

BLOCK = 1 << 24


class ArraySource:
    """Images uint8 [N, H, W, 3] or [N, H, W], with their labels int64 [N]."""

    ignored = 0

    def __init__(
        self,
        name: str,
        kind: str,
        images: np.ndarray,
        labels: np.ndarray,
        classes: list[str],
        keys: Sequence[str],
        notes: list[str],
    ) -> None:
        self.name, self.kind, self.keys, self.notes = name, kind, keys, notes
        self.labels, self.classes = labels, classes
        # A file of labels has one per image, so -1 there is a value; without the file there are
        # no classes, and -1 means no label.
        self.minus_ones = (labels < 0) & bool(classes)
        self._images = images
        height, width = images.shape[1:3]
        self.sizes = np.full(len(images), height * width * 3)
        digest = hashlib.sha256(repr((images.shape, classes)).encode())
        step = max(1, BLOCK // max(height * width * 3, 1))
        for start in range(0, len(images), step):
            digest.update(images[start : start + step].tobytes())
        digest.update(labels.tobytes())
        self.fingerprint = digest.hexdigest()

    def read(self, i: int) -> np.ndarray:
        return np.ascontiguousarray(self._images[i])

    def close(self) -> None:
        pass
