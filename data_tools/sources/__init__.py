"""Where images come from: a source is a sorted list of files, whose keys spell the labels.

A folder and a tar of it are the same source: same keys, same order, same bytes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from data_tools.errors import UserError

if TYPE_CHECKING:
    import numpy as np

SPLITS = frozenset({"train", "training", "val", "valid", "validation", "test", "testing"})
# Only a hint, for refusing a wrong folder before the work: content decides what is an image.
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
CLUTTER = frozenset({"__MACOSX", "Thumbs.db", "desktop.ini"})


class Source(Protocol):
    """A random-access sequence of N images, in one fixed order."""

    name: str
    """The last part of its path, for the manifest and messages."""
    kind: str
    """What it is, in words for the screen: "image folder", "WebDataset, 12 shards"."""
    keys: Sequence[str]
    """N names; paths inside the source, with '/'; not UTF-8: surrogate escapes (PEP 383)."""
    sizes: Sequence[int]
    """About the bytes of each; of arrays, height x width x 3."""
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

    def read(self, i: int) -> bytes | np.ndarray:
        """An image file's bytes, or uint8 [H, W, 3] RGB or [H, W] grey; safe in threads.

        Raises OSError with the reason where it can't be read.
        """

    def close(self) -> None: ...


def open_source(
    path: str | os.PathLike[str], labels: str | os.PathLike[str] | None = None
) -> Source:
    """The source at `path`, whatever lies there. Raises UserError for what nobody recognises.

    labels: a file that labels a flat set (ImageNet's ground truth, synset lists).
    """
    from data_tools.sources.folder import FolderSource
    from data_tools.sources.tar import TarSource

    import numpy as np

    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    source = FolderSource(path) if path.is_dir() else TarSource(path)
    if not source.keys:
        raise UserError(f"{path}: holds no files; give a folder or a tar of images")
    images = [key for key in source.keys if key.lower().endswith(IMAGE_SUFFIXES)]
    refuse_splits(images or source.keys, path)
    numbers, source.classes, stray = labels_of(images)
    known = dict(zip(images, numbers, strict=True))
    source.labels = np.array([known.get(key, -1) for key in source.keys], np.int64)
    beside = f"no labels, because {stray} lies beside the folders of the others"
    source.notes = [beside] if stray else []
    source.kind = "image folder"
    return source


def is_ignored(name: str) -> bool:
    """True for one path component that is hidden or an operating system's clutter."""
    return name.startswith(".") or name in CLUTTER


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


def labels_of(keys: Sequence[str]) -> tuple[np.ndarray, list[str], str]:
    """The labels (int64 [N]) and classes that sorted image keys spell.

    Behind the directories that all share, the first folder is the class, numbered by name. If an
    image lies at the top there, the set is flat: labels -1, no classes. If others lie in folders
    all the same, the last value names the first at the top; else it is empty.
    """
    import numpy as np

    start = len(common_prefix(keys))
    folders = [key[start:].partition("/") for key in keys]
    if not all(slash for _, slash, _ in folders):
        top = next(key for key, (_, slash, _) in zip(keys, folders, strict=True) if not slash)
        mixed = any(slash for _, slash, _ in folders)
        return np.full(len(keys), -1, np.int64), [], top if mixed else ""
    classes = sorted({folder for folder, _, _ in folders})
    number = {folder: i for i, folder in enumerate(classes)}
    return np.array([number[folder] for folder, _, _ in folders], np.int64), classes, ""
