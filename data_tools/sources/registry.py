"""The sources that prep reads, one row each, and open_source, which finds the row for a path."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from data_tools.errors import UserError
from data_tools.safe_reading.inflate import NoReader, compression_of, zstd_reader
from data_tools.safe_reading.regular import special_kind
from data_tools.sources import cifar, folder, idx, ilsvrc, stored, tar, webdataset
from data_tools.sources.location import Location
from data_tools.sources.patterns import expand
from data_tools.sources.source import Source
from data_tools.sources.tables import parquet, table  # fmt: skip
from data_tools.sources.tables.splits import split_fragment


@dataclass(frozen=True)
class Layout:
    """One kind of source: the functions that recognise and open it, and the options it takes."""

    recognises: Callable[[Location], bool]
    open: Callable[..., Source]
    """Called with one place, or with several if `takes_several`; and with `labels` or `split`, if
    given."""
    takes_labels: bool = False
    takes_a_split: bool = False
    takes_several: bool = False


# The first kind that recognises a place opens it. Kinds with files or names of their own come
# first, because any tar or folder is a source too.
TABLE = {
    "stored": Layout(stored.recognises, stored.open, takes_several=True),
    "cifar": Layout(cifar.recognises, cifar.open, takes_a_split=True),
    "idx": Layout(idx.recognises, idx.open, takes_a_split=True),
    "parquet": Layout(parquet.recognises, parquet.open, takes_a_split=True, takes_several=True),
    "table": Layout(table.recognises, table.open, takes_a_split=True),
    "ilsvrc": Layout(ilsvrc.recognises, ilsvrc.open, takes_labels=True),
    "webdataset": Layout(webdataset.recognises, webdataset.open, takes_several=True),
    "tar": Layout(tar.recognises, tar.open, takes_labels=True),
    "folder": Layout(folder.recognises, folder.open, takes_labels=True),
}
ACCEPTED = (
    "a folder or a tar of images, WebDataset shards, Parquet or Arrow files, a csv, tsv or jsonl "
    "list, a CIFAR or IDX archive, or a prepared dataset"
)


def open_source(
    path: str | os.PathLike[str] | Source, labels: str | os.PathLike[str] | None = None
) -> Source:
    """Opens the source at `path`, of whatever kind it is. An open source is returned as it is.

    path: a file, a folder, a URL, or a pattern of several ({000..123}, {a,b}, *). "#test" after it
    chooses that split of CIFAR, of MNIST, or of a table with a column of splits. labels: a file
    that labels a flat set (ImageNet's ground truth, lists of synsets). Raises UserError if no kind
    recognises the path.
    """
    if not isinstance(path, str | os.PathLike):
        return path
    text = os.fspath(path)
    if text.startswith("torchvision:"):
        raise UserError(f"{text}: torchvision's datasets are opened by `fastmoco prep`; "
                        "give a path to data_tools")
    list_ = None if labels is None else Location(labels)
    if list_ is not None and not list_.is_file():
        raise UserError(f"{list_}: {special_kind(labels or '') or 'no such file of labels'}")
    plain, split = (text, "") if os.path.exists(text) else split_fragment(text)
    places = expand(plain)
    name = next((name for name, row in TABLE.items() if row.recognises(places[0])), "")
    if len(places) > 1:
        # Each of several tars is a shard, however it begins.
        name = {"tar": "webdataset", "ilsvrc": "webdataset"}.get(name, name)
        if not name or not TABLE[name].takes_several:
            raise UserError(f"{text}: is {len(places):,} files or folders; several may only be "
                            "shards of WebDataset, TFRecord or RecordIO, Parquet or Arrow files")
    if not name:
        what = explain(places[0])
        raise UserError(f"{places[0]}: {what or 'not recognised'}; give {ACCEPTED}")
    layout = TABLE[name]
    for given, taken, flag in ((split, layout.takes_a_split, f"#{split}"),
                               (labels, layout.takes_labels, "--labels")):
        if given and not taken:
            raise UserError(f"{plain}: {flag} doesn't go with this ({name}); leave it out")
    options = {"labels": list_} if list_ is not None else {"split": split} if split else {}
    source = layout.open(places if len(places) > 1 else places[0], **options)
    if not len(source.keys):
        source.close()
        raise UserError(f"{text}: holds no images; give {ACCEPTED}")
    return source


def explain(place: Location) -> str:
    """A likely reason why no kind recognises a file, from its first bytes; empty if unknown."""
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
