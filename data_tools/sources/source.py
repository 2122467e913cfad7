"""The protocol of a source of images, and the rule against splits side by side."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from data_tools.errors import UserError

if TYPE_CHECKING:
    import numpy as np

SPLITS = frozenset({"train", "training", "val", "valid", "validation", "test", "testing"})


class Source(Protocol):
    """A random-access sequence of N images, in one fixed order."""

    name: str
    """The last part of its path, for the manifest and messages."""
    kind: str
    """The kind of source, in words for the screen: "image folder", "WebDataset, 12 shards"."""
    labels: np.ndarray
    """int64 [N]; -1 for images without a label."""
    classes: list[str]
    """Names of the classes, by label; empty if the source has none."""
    ignored: int
    """Number of hidden and system files that were skipped."""
    notes: list[str]
    """Lines for the user: the reason why there are no labels, files that were skipped."""
    fingerprint: str
    """Hex digest that changes when a file's key, size or modification time does."""

    @property
    def keys(self) -> Sequence[str]:
        """N names: paths inside the source, with '/'. Bytes that are not UTF-8 are surrogate
        escapes (PEP 383)."""

    @property
    def sizes(self) -> Sequence[int] | np.ndarray:
        """Approximate bytes of each image; height x width x 3 for arrays."""

    def read(self, i: int) -> bytes | np.ndarray:
        """The bytes of image file i, or its pixels: uint8 [H, W, 3] RGB or [H, W] grey.

        Safe in threads. Raises OSError with the reason if the image can't be read.
        """

    def close(self) -> None: ...


def common_prefix(keys: Sequence[str]) -> str:
    """The directories that all keys (sorted) share, with a '/' at the end; or ''."""
    # The keys are sorted, so all share the prefix that the first and the last one share.
    shared = os.path.commonprefix([keys[0], keys[-1]]) if keys else ""
    return shared[: shared.rfind("/") + 1]


def refuse_splits(keys: Sequence[str], path: str | os.PathLike[str]) -> None:
    """Raises UserError if train, validation and test are side by side: they are not classes."""
    start = len(common_prefix(keys))
    folders = {key[start:].split("/", 1)[0] for key in keys if "/" in key[start:]}
    splits = sorted(name for name in folders if name.lower() in SPLITS)
    if len(splits) >= 2:
        raise UserError(
            f"{path}: holds {' and '.join(splits)} side by side; prepare each by itself, "
            "from a folder or tar that holds only it"
        )
