"""prepare, open_store, verify and inspect: everything about datasets."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, overload

from data_tools import open as stores
from data_tools import prepare as preparation
from data_tools.errors import UserError
from data_tools.inspection import survey as surveys
from data_tools.inspection import verify as verification
from data_tools.inspection.contact_sheet import contact_sheet
from data_tools.inspection.sheets import check_picture
from data_tools.manifest import Manifest
from data_tools.planning.plan import Plan, Target
from data_tools.policy import Policy
from data_tools.progress import Tick
from data_tools.quantities import parse_size
from data_tools.sources.registry import open_source
from data_tools.sources.source import Source
from data_tools.store import MappedStore
from fastmoco.settings.verbs import Format, PrepSettings
from fastmoco.verbs.keywords import fields_in, takes

PathLike = str | os.PathLike[str]


@overload
def prepare(source: PathLike, out: PathLike | None = None, *, plan: Literal[True],
            **flags: Any) -> Plan: ...
@overload
def prepare(source: PathLike, out: PathLike | None = None, *, shard: str,
            **flags: Any) -> tuple[int, int]: ...
@overload
def prepare(source: PathLike, out: PathLike | None = None, **flags: Any) -> Manifest: ...


@takes(PrepSettings, Policy)
def prepare(
    source: PathLike,
    out: PathLike | None = None,
    format: Format | Sequence[Format] = ("beton",),
    *,
    labels: PathLike | None = None,
    against: Sequence[PathLike] = (),
    plan: bool = False,
    say: Callable[[str], None] | None = None,
    **flags: Any,
) -> Manifest | Plan | tuple[int, int]:
    """Convert the images of `source` into a dataset for training in `out`.

    Arguments:
        source: path, pattern (train-*.parquet, {000..99}.tar), URL or torchvision:NAME. Image
            folders (with one folder per class, or flat), tars of them, ImageNet's tars, WebDataset
            shards, Parquet or Arrow files, CSV, TSV or JSONL lists of paths, CIFAR and MNIST
            archives ("ARCHIVE#test" is the other split), prepared datasets and their files.
        out: directory of the prepared dataset, new or empty. Only `plan` works without it. After a
            kill, the same call continues there.
        format: format of the files, or several. Several are written in one pass, each into its own
            directory.
        labels: file with the labels of a flat folder: ImageNet's ground truth, a list of synsets,
            or lines of `name label`.
        against: prepared datasets to search for images of this one, such as a training set for
            images of its validation set.
        plan: prepare nothing. Predict bytes, time and loading rates for several sizes and
            qualities.
        say: called with each line that the command line prints, for example print.
        **flags: fields of PrepSettings and data_tools.policy.Policy.

    Returns the manifest of the first format. With `shard`: the number of parts that are done, and
    of all parts. With `plan`: the predictions.

    Raises UserError, and then leaves nothing behind; its subclass Interrupted if a disk or network
    failed: then the same call continues.

    Example:
        fastmoco.prepare("photos/train", "prepared/train", max_side=500)
    """
    policy = Policy(**fields_in(Policy, flags))
    work = PrepSettings(**fields_in(PrepSettings, flags))
    work.check(policy, plan, against)
    formats = (format,) if isinstance(format, str) else tuple(format)
    if not formats:
        raise UserError("format is empty: give one or more")
    if plan:
        return planned(opened(source), out, policy, formats[:1], labels, work)
    if out is None:
        raise UserError("out is missing: give the directory to write")
    if work.shard:
        return preparation.prepare_shard(
            opened(source), out, work.part, policy, formats, labels=labels, say=say
        )
    return preparation.prepare(
        opened(source), out, policy, formats, labels=labels, against=against, say=say
    )


def opened(source: PathLike) -> PathLike | Source:
    """Return a source that data_tools opens; datasets of torchvision are opened here."""
    from fastmoco.loading import torchvision_source

    text = os.fspath(source)
    return torchvision_source.open(text) if torchvision_source.recognises(text) else source


def planned(
    source: PathLike | Source, out: PathLike | None, policy: Policy, formats: Sequence[str],
    labels: PathLike | None, work: PrepSettings, progress: Tick | None = None,
) -> Plan:
    """Return the predictions of prepare(..., plan=True). progress(done, total) counts trials."""
    from data_tools.planning.plan import plan
    from fastmoco.measuring.load_rate import load_rate

    disk = parse_size(work.disk) if work.disk else None
    return plan(
        open_source(source, labels), policy, *formats, load=load_rate,
        target=Target(work.target_rate, disk), out=out, progress=progress,
    )


def open_store(path: PathLike) -> MappedStore:
    """Open a prepared dataset, or a beton, TFRecord, RecordIO or WebDataset file.

    Arguments:
        path: directory that `prepare` wrote, or a file.

    Returns a random-access sequence: len(store), store.encoded(i) (the bytes of image i, uint8),
    store.labels (int64 [N], -1 without a label), store.classes, store.sizes (int32 [N, 2], height
    and width), store.key(i).

    Raises UserError if nothing is there, or if it is damaged or not a dataset.

    Example:
        store = fastmoco.open_store("prepared/train")
    """
    return stores.open_store(path)


def verify(path: PathLike, quick: int = 0, workers: int = 0) -> list[verification.Report]:
    """Check that a dataset is whole: every checksum and every image.

    Arguments:
        path: prepared dataset, or a beton, TFRecord, RecordIO or WebDataset file of any system.
        quick: decode only this many images, evenly spread; 0 decodes all.
        workers: number of decoding threads; 0: one per core.

    Returns one report per format: `verdict` in words, `found` (the number of problems), `problems`
    and `warnings` as lines. Damage is no error; it is in the report.

    Raises UserError if there is no dataset at `path`.

    Example:
        assert not any(report.found for report in fastmoco.verify("prepared/train"))
    """
    if quick < 0 or workers < 0:
        raise UserError("--quick and --workers: give 0 or more")
    return verification.verify(path, quick, workers)


def inspect(path: PathLike, sheet: PathLike | None = None, sample: int = 500) -> surveys.Survey:
    """Measure a dataset: counts, classes, sizes, bytes, colours, duplicates.

    Arguments:
        path: prepared dataset, or a beton, TFRecord, RecordIO or WebDataset file.
        sheet: image file (.png, .jpg or .webp) for a contact sheet by class.
        sample: number of images to decode for colours, evenly spread.

    Returns the figures; dataclasses.asdict turns them into plain values.

    Raises UserError if there is no dataset at `path`, or `sheet` cannot be written.

    Example:
        print(fastmoco.inspect("prepared/train").classes)
    """
    if sample < 1:
        raise UserError(f"--sample {sample}: give 1 or more")
    if sheet is not None:
        check_picture(Path(sheet), "sheet")
    found = surveys.survey(path, sample)
    if sheet is not None:
        contact_sheet(stores.open_store(path), Path(sheet))
    return found
