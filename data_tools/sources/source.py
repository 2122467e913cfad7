"""The protocol of a source of images, and the rule that refuses splits side by side."""

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
    """int64 [N]; -1 where unlabelled."""
    classes: list[str]
    """Names by label; empty where the source has none."""
    ignored: int
    """Hidden and system files that were passed over."""
    notes: list[str]
    """Lines for the user: why there are no labels, what was passed over."""
    fingerprint: str
    """Hex digest that changes when a file's key, size or modification time does."""

    @property
    def keys(self) -> Sequence[str]:
        """N names; paths inside the source, with '/'; not UTF-8: surrogate escapes (PEP 383)."""

    @property
    def sizes(self) -> Sequence[int] | np.ndarray:
        """About the bytes of each; of arrays, height x width x 3."""

    def read(self, i: int) -> bytes | np.ndarray:
        """An image file's bytes, or uint8 [H, W, 3] RGB or [H, W] grey; safe in threads.

        Raises OSError with the reason where it can't be read.
        """

    def close(self) -> None: ...


def common_prefix(keys: Sequence[str]) -> str:
    """The directories that all keys (sorted) share, with a '/' at the end; or ''."""
    # Of sorted strings, what the first and the last share all share.
    shared = os.path.commonprefix([keys[0], keys[-1]]) if keys else ""
    return shared[: shared.rfind("/") + 1]


def refuse_splits(keys: Sequence[str], path: str | os.PathLike[str]) -> None:
    """Raises UserError where train, validation and test lie side by side: they aren't classes."""
    start = len(common_prefix(keys))
    folders = {key[start:].split("/", 1)[0] for key in keys if "/" in key[start:]}
    splits = sorted(name for name in folders if name.lower() in SPLITS)
    if len(splits) >= 2:
        raise UserError(
            f"{path}: holds {' and '.join(splits)} side by side; prepare each by itself, "
            "from a folder or tar that holds only it"
        )
