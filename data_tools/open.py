"""open_store(path): a prepared dataset by its manifest, a foreign file by its bytes."""

from __future__ import annotations

import os
from pathlib import Path

from data_tools.errors import UserError
from data_tools.formats import beton
from data_tools.manifest import MANIFEST, UNFINISHED, check_files, read_manifest
from data_tools.store import INDEX, KEYS, MappedStore, Store, read_index


def is_dataset(path: str | os.PathLike[str]) -> bool:
    """True for a directory that prep finished."""
    return (Path(path) / MANIFEST).is_file()


def open_store(path: str | os.PathLike[str]) -> Store:
    """The images at `path`: a directory that prep wrote, or an FFCV beton.

    Raises UserError, naming the file and what to do, for anything else, and for what is truncated.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such dataset; run prep first")
    if path.is_file():
        if not beton.is_beton(path):
            raise UserError(f"{path}: neither a prepared dataset nor a beton; run prep on it first")
        return beton.open_beton(path)
    if not is_dataset(path):
        if (path / UNFINISHED).exists():
            raise UserError(f"{path}: preparation did not finish; run prep again")
        raise UserError(f"{path}: not a prepared dataset (no {MANIFEST}); run prep on it first")
    manifest = read_manifest(path)
    if manifest.format != "beton":
        raise UserError(f"{path}: format {manifest.format} is not known; run prep again")
    check_files(path, manifest)
    index = read_index(path / INDEX, manifest.samples)
    data = path / manifest.data
    return MappedStore(path, data, index, manifest.classes, manifest.fingerprint, path / KEYS)
