"""The files of a folder with a Hugging Face dataset, in order, and the JSON files beside them."""

from __future__ import annotations

import json
import re
from typing import Any

from data_tools.errors import UserError
from data_tools.sources.location import Location
from data_tools.sources.source import SPLITS

SUFFIXES = (".parquet", ".arrow")


def files_of(folder: Location) -> list[Location]:
    """The data files of a folder: in the order of save_to_disk's state.json, or else sorted."""
    names = folder.names()
    if "state.json" in names:
        state = read_json(folder.child("state.json"))
        found = state.get("_data_files")
        listed = [str(row.get("filename")) for row in (found if isinstance(found, list) else [])
                  if isinstance(row, dict)]
        if state.get("_indices_data_files"):
            raise UserError(f"{folder}: was saved with an order of its own; "
                            "save it again after flatten_indices()")
        if listed and set(listed) <= set(names):
            return [folder.child(name) for name in listed]
    # metadata.parquet only lists the images of an image folder.
    files = [n for n in names if n.endswith(SUFFIXES) and not n.startswith((".", "metadata."))]
    if not files and "data" in names and folder.child("data").is_dir():
        return files_of(folder.child("data"))
    return [folder.child(name) for name in sorted(files)]


def read_json(location: Location) -> dict[str, Any]:
    """The object in a small JSON file; empty if there is none."""
    try:
        found = json.loads(location.pread(1 << 24, 0))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def refuse_splits(names: list[str], folder: Location) -> None:
    """Raises UserError if files of train and test are side by side."""
    words = [set(re.split(r"[-_.]", name.lower())) & SPLITS for name in names]
    found = sorted(set().union(*words))
    if len(found) > 1:
        name = names[next(i for i, word in enumerate(words) if word)]
        raise UserError(f"{folder}: holds {' and '.join(found)} side by side; give one by a "
                        f"pattern, like '{folder}/train-*.{name.rpartition('.')[2]}'")


def features_of_folder(folder: Location) -> dict[str, Any]:
    """Hugging Face's features from dataset_info.json; empty if there are none."""
    features = read_json(folder.child("dataset_info.json")).get("features")
    return features if isinstance(features, dict) else {}


def distinct_names(files: list[Location]) -> list[str]:
    """The files' names, each with as many folders before it as make all of them distinct."""
    paths = [str(file).split("/") for file in files]
    for depth in range(1, max(map(len, paths)) + 1):
        names = ["/".join(path[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [f"{i}/{file.name}" for i, file in enumerate(files)]
