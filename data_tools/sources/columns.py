"""What a table's columns mean: Hugging Face's features, which column is the label, its values."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from data_tools.sources.rows import LABEL_NAMES

if TYPE_CHECKING:
    import pyarrow as pa


def feature_type(features: dict[str, Any], name: str) -> str:
    feature = features.get(name)
    return str(feature.get("_type", "")) if isinstance(feature, dict) else ""


def features_of(schema: pa.Schema) -> dict[str, Any]:
    """What Hugging Face's metadata says of the columns; empty where there is none."""
    try:
        info = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]
        return info["features"] if isinstance(info["features"], dict) else {}
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}


def class_names(feature: Any) -> list[str]:
    """A ClassLabel's names: a list, or an object with the numbers as its keys."""
    names = feature.get("names") if isinstance(feature, dict) else None
    if isinstance(names, dict):
        names = [names.get(str(i)) for i in range(len(names))]
    good = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return list(names) if good and names else []


def find_label(schema: pa.Schema, features: dict[str, Any], image: str) -> str:
    """The label column's name; empty where there is none."""
    able = [f.name for f in schema if f.name != image and is_label(f.type)]
    declared = [n for n in able if feature_type(features, n) == "ClassLabel"]
    for names in (declared, able):
        for name in LABEL_NAMES:
            if name in names:
                return name
    return declared[0] if declared else ""


class Names:
    """Label names, numbered as they come: a million labels must not be a million strings."""

    def __init__(self) -> None:
        self.found: dict[str, int] = {}

    def number(self, name: object) -> int:
        return self.found.setdefault(str(name), len(self.found)) if name else -1

    def sorted(self, codes: np.ndarray) -> tuple[np.ndarray, list[str]]:
        """The codes by the sorted names, and these."""
        classes = sorted(self.found)
        place = {name: i for i, name in enumerate(classes)}
        table = np.array([*(place[name] for name in self.found), -1], np.int64)
        return table[codes], classes


def label_values(piece: pa.Array, names: Names) -> np.ndarray:
    """A label column's piece as int64; -1 for null. Text goes through `names`."""
    import pyarrow as pa

    kind = piece.type
    if pa.types.is_dictionary(kind):
        piece, kind = piece.cast(kind.value_type), kind.value_type
    if is_text(kind):
        coded = piece.dictionary_encode()
        table = np.array([*map(names.number, coded.dictionary.to_pylist()), -1], np.int64)
        return table[coded.indices.fill_null(-1).to_numpy(zero_copy_only=False)]
    return piece.cast(pa.int64()).fill_null(-1).to_numpy(zero_copy_only=False)


def is_text(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def is_label(kind: pa.DataType) -> bool:
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    numeric = pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_floating(kind)
    return numeric or is_text(kind)


def holds_bytes(kind: pa.DataType) -> bool:
    """True for bytes, and for a struct with a field "bytes" of them."""
    import pyarrow as pa

    if pa.types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return index >= 0 and holds_bytes(kind.field(index).type)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
