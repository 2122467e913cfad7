"""Where images come from: a source is N images in one fixed order, with their labels.

A folder and a tar of it are the same source: same keys, same order, same bytes.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from data_tools.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from data_tools.location import Location

SPLITS = frozenset({"train", "training", "val", "valid", "validation", "test", "testing"})


class Source(Protocol):
    """A random-access sequence of N images, in one fixed order."""

    name: str
    """The last part of its path, for the manifest and messages."""
    kind: str
    """What it is, in words for the screen: "image folder", "WebDataset, 12 shards"."""
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


# Who is asked what lies there, in this order; the first that recognises it opens it. Those that
# know a layout by its own files come first: a tar or a folder is also a source by itself.
DETECTORS = (
    "stored", "cifar", "idx", "parquet", "table", "ilsvrc", "webdataset", "tar", "folder",
)
TAKE_LABELS = frozenset({"ilsvrc", "tar", "folder"})
TAKE_A_SPLIT = frozenset({"cifar", "idx", "parquet", "table"})
TAKE_SEVERAL = frozenset({"parquet", "webdataset", "stored"})
ACCEPTED = (
    "a folder or a tar of images, WebDataset shards, Parquet or Arrow files, a csv, tsv or jsonl "
    "list, a CIFAR or IDX archive, or a prepared dataset"
)


def open_source(
    path: str | os.PathLike[str] | Source, labels: str | os.PathLike[str] | None = None
) -> Source:
    """The source at `path`, whatever lies there; an open source is returned as it is.

    path: a file, a folder, a URL, or a pattern of several ({000..123}, {a,b}, *); "#test" behind
    it takes that split of CIFAR, of MNIST, or of a table with a column of splits. labels: a file
    that labels a flat set (ImageNet's ground truth, synset lists). Raises UserError for what nobody
    recognises.
    """
    from data_tools.location import Location
    from data_tools.patterns import expand
    from data_tools.sources.splits import split_fragment

    if not isinstance(path, str | os.PathLike):
        return path
    text = os.fspath(path)
    if text.startswith("torchvision:"):
        raise UserError(f"{text}: torchvision's datasets are opened by `fastmoco prep`; "
                        "give a path to data_tools")
    list_ = None if labels is None else Location(labels)
    if list_ is not None and not list_.is_file():
        raise UserError(f"{list_}: no such file of labels")
    plain, split = (text, "") if os.path.exists(text) else split_fragment(text)
    places = expand(plain)
    name = next((name for name in DETECTORS if module_of(name).recognises(places[0])), "")
    if len(places) > 1:
        # A plain tar of several is a shard, whatever it begins with.
        name = {"tar": "webdataset", "ilsvrc": "webdataset"}.get(name, name)
        if name not in TAKE_SEVERAL:
            raise UserError(f"{text}: is {len(places):,} files or folders; several may only be "
                            "shards of WebDataset, TFRecord or RecordIO, Parquet or Arrow files")
    if not name:
        what = explain(places[0])
        raise UserError(f"{places[0]}: {what or 'not recognised'}; give {ACCEPTED}")
    for given, takers, flag in ((split, TAKE_A_SPLIT, f"#{split}"),
                                (labels, TAKE_LABELS, "--labels")):
        if given and name not in takers:
            raise UserError(f"{plain}: {flag} doesn't go with this ({name}); leave it out")
    options = {"labels": list_} if list_ is not None else {"split": split} if split else {}
    source: Source = module_of(name).open(places if len(places) > 1 else places[0], **options)
    if not len(source.keys):
        source.close()
        raise UserError(f"{text}: holds no images; give {ACCEPTED}")
    return source


def module_of(name: str) -> Any:
    return importlib.import_module(f"data_tools.sources.{name}")


def explain(place: Location) -> str:
    """Why nobody may have recognised a file, as far as its first bytes tell."""
    from data_tools.sources.inflate import NoReader, compression_of, zstd_reader

    try:
        head = place.pread(8, 0)
    except OSError as error:
        return f"can't be opened: {error.strerror or error}"
    if not head:
        return "an empty file"
    packed = compression_of(head)
    if packed == "zstd":
        try:
            zstd_reader()
        except NoReader as error:
            return str(error)
    if packed:
        return "compressed, and no tar in it that can be read"
    return "a zip, unpack it to a folder first" if head.startswith(b"PK\3\4") else ""


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
