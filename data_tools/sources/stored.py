"""Prepared datasets and beton, TFRecord or RecordIO files as sources: conversion between formats.

open_store reads them, so it also handles field names of other writers and samples without a label.
(A WebDataset that prep did not write is a tar, read by sources/webdataset.py.)
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from data_tools.errors import UserError
from data_tools.progress import Tick
from data_tools.sources.keys import RowKeys, StoreKeys
from data_tools.store import RAW

if TYPE_CHECKING:
    from data_tools.sources.location import Location
    from data_tools.store import MappedStore

FORMATS = {"beton": "beton", "tfrecord": "TFRecord", "recordio": "RecordIO"}


def recognises(location: Location) -> bool:
    """True for a dataset that prep wrote, and for a file whose bytes are those of a format."""
    from data_tools.formats.registry import format_of
    from data_tools.open import is_dataset

    try:
        if location.local is None:
            return False
        return is_dataset(location.local) or (
            location.is_file() and format_of(location.local) in FORMATS)
    except (OSError, UserError, ValueError):
        return False


def open(
    location: Location | Sequence[Location], progress: Tick | None = None
) -> StoredSource:
    """Opens one dataset or file, or several files one after another.

    progress(done, total) is called with the bytes that are indexed of a file that prep did not
    write. Raises UserError for a place that isn't local or can't be opened.
    """
    from data_tools.formats.registry import format_of
    from data_tools.open import open_store

    places = list(location) if isinstance(location, Sequence) else [location]
    stores, form = [], None
    for place in places:
        if place.local is None:
            raise UserError(f"{place}: is not on this machine, and these files are mapped to "
                            "memory; copy it to this machine first")
        stores.append(open_store(place.local, progress))
        form = format_of(place.local) if place.local.is_file() else None
    kind = f"{FORMATS.get(form, 'prepared')} file" if form else "prepared dataset"
    if len(places) > 1:
        return StoredSource(stores, places[0].parent.name, f"{kind}s, {len(places):,} of them",
                            [place.name for place in places])
    return StoredSource(stores, places[0].name, kind, [places[0].name])


class StoredSource:
    """The images of stores: encoded images as their bytes, raw images as uint8 [H, W, 3]."""

    ignored = 0

    def __init__(self, stores: list[MappedStore], name: str, kind: str, files: list[str]) -> None:
        self.name, self.kind = name, kind
        self._stores = stores
        self._rows = RowKeys(files, [len(store) for store in stores])
        named = len(stores) == 1 and stores[0].has_keys
        self.keys: Sequence[str] = StoreKeys(stores[0]) if named else self._rows
        self.classes, labels = shared_classes(stores)
        self.labels = np.concatenate(labels)
        if all(store.path.is_dir() for store in stores):
            # In prep's datasets -1 means no label. In files of other writers it may be a class.
            self.minus_ones = np.zeros(len(self.labels), np.bool_)
        self.notes = [] if (self.labels >= 0).any() else [why_no_labels(stores[0])]
        self.sizes = np.concatenate([store.lengths for store in stores])
        prints = [store.fingerprint for store in stores]
        self.fingerprint = hashlib.sha256(repr((prints, self.classes)).encode()).hexdigest()

    def read(self, i: int) -> bytes | np.ndarray:
        file, row = self._rows.locate(i)
        store = self._stores[file]
        data = store.encoded(row)
        if store.kinds[row] != RAW:
            return data.tobytes()
        height, width = store.sizes[row].tolist()
        if len(data) != height * width * 3:
            raise OSError(f"damaged: {len(data)} bytes for {width} x {height} pixels")
        return data.reshape(height, width, 3).copy()

    def close(self) -> None:
        pass


def why_no_labels(store: MappedStore) -> str:
    """The note on a store without labels."""
    from data_tools.formats import tfrecord

    is_file = store.path.is_file() and tfrecord.is_tfrecord(store.path)
    return tfrecord.why_no_labels(store.path) if is_file else "no labels in it"


def shared_classes(stores: list[MappedStore]) -> tuple[list[str], list[np.ndarray]]:
    """Return the classes of all stores together, and the labels of each store, numbered by them.

    A file that prep did not write numbers the names that occur in it, so two files of one dataset
    may number them differently.
    """
    first = stores[0].classes
    if all(store.classes == first for store in stores):
        return first, [store.labels for store in stores]
    if not all(store.classes for store in stores):
        raise UserError(f"{stores[0].path}: some of these files have names of classes, some only "
                        "numbers; give files of one dataset")
    classes = sorted(set().union(*(store.classes for store in stores)))
    place = {name: i for i, name in enumerate(classes)}
    tables = [np.array([*(place[name] for name in s.classes), -1], np.int64) for s in stores]
    return classes, [table[s.labels] for table, s in zip(tables, stores, strict=True)]
