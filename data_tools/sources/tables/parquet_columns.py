"""Finds the meaning of a table's columns: Hugging Face's features, the label column, its values."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from data_tools.errors import UserError
from data_tools.label_values import (
    LABEL_NAMES,
    BadLabel,
    is_storable,
    text_labels,
    whole_number,
    whole_numbers,
)
from data_tools.sources.tables.cells import (
    holds_bytes,
    holds_paths,
    is_binary,
    is_text,
    stored_type,
)
from data_tools.sources.tables.splits import SPLIT_COLUMNS

if TYPE_CHECKING:
    import pyarrow as pa

    from data_tools.sources.tables.parquet_rows import ArrowRows, ParquetRows


def feature_type(features: dict[str, Any], name: str) -> str:
    """The type of a column by Hugging Face's features, such as "Image"; empty if there is none."""
    feature = features.get(name)
    return str(feature.get("_type", "")) if isinstance(feature, dict) else ""


def features_of(schema: pa.Schema) -> dict[str, Any]:
    """Hugging Face's features, by column, from a schema's metadata; empty if it has none."""
    try:
        info = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]
        return info["features"] if isinstance(info["features"], dict) else {}
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}


def class_names(feature: Any) -> list[str]:
    """The names of a ClassLabel, which are a list, or an object whose keys are the numbers."""
    names = feature.get("names") if isinstance(feature, dict) else None
    if isinstance(names, dict):
        names = [names.get(str(i)) for i in range(len(names))]
    good = isinstance(names, list) and all(
        isinstance(name, str) and is_storable(name) for name in names)
    return list(names) if good and names else []


def find_label(schema: pa.Schema, features: dict[str, Any], image: str) -> tuple[str, str]:
    """Return (the name of the label column, ""), or ("", the reason why there is none)."""
    others = [field for field in schema if field.name != image]
    able = [field.name for field in others if is_label(field.type)]
    declared = [name for name in able if feature_type(features, name) == "ClassLabel"]
    for names in (declared, able):
        lower = {name.lower(): name for name in reversed(names)}
        for name in LABEL_NAMES:
            if name in lower:
                return lower[name], ""
    if declared:
        return declared[0], ""
    for field in others:
        if field.name.lower() in LABEL_NAMES:
            return "", (f"the column {field.name} is {str(field.type)[:80]}, neither numbers nor "
                        "names")
    return "", "no column is named label"


def find_split(schema: pa.Schema, taken: Sequence[str]) -> str:
    """The name of the column of splits; empty if there is none."""
    able = {field.name.lower(): field.name for field in schema
            if field.name not in taken and is_label(field.type)}
    return next((able[name] for name in SPLIT_COLUMNS if name in able), "")


def check_columns(files: Sequence[ParquetRows | ArrowRows], image: str, label: str) -> None:
    """Raises UserError for files that are not of one dataset, or with two columns of one name."""
    for file in files:
        for name in filter(None, (image, label)):
            if file.schema.names.count(name) > 1:
                raise UserError(f"{file.location}: two columns are called {name}; keep one of them")
            first = role_of(files[0].schema.field(name).type)
            index = file.schema.get_field_index(name)
            role = role_of(file.schema.field(index).type) if index >= 0 else "missing"
            # A file may have only empty labels, and then its column has the type null.
            if role != first and (name == image or "null" not in (role, first)):
                raise UserError(f"{file.location}: its column {name} is not as in "
                                f"{files[0].location}; give files of one dataset")


def role_of(kind: pa.DataType) -> str:
    """The use of a column's type. Files of one dataset may differ in int32 and int64, but not in
    this."""
    import pyarrow as pa

    if pa.types.is_null(stored_type(kind)):
        return "null"
    if is_text(stored_type(kind)):
        return "text"
    if holds_bytes(kind):
        return "bytes"
    return "paths" if holds_paths(kind) else "numbers"


class Names:
    """Label names, numbered in the order they come. A million labels must not be a million strings.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._number: dict[str, int] = {}

    def number(self, name: object) -> int:
        """The number of a name; -1 for None and an empty one. Raises BadLabel if it isn't UTF-8."""
        if isinstance(name, bytes):
            try:
                name = name.rstrip(b"\0").decode()
            except UnicodeDecodeError:
                raise BadLabel(f"the label {name[:40]!r} is not UTF-8; correct it") from None
        return self._number.setdefault(str(name), len(self._number)) if name else -1

    def count(self, codes: np.ndarray) -> np.ndarray:
        """Counts the codes, and returns them."""
        found = np.bincount(codes + 1, minlength=len(self._number) + 1)[1:].tolist()
        self.counts.update(dict(zip(self._number, found, strict=True)))
        return codes

    def labels(self, codes: np.ndarray) -> tuple[np.ndarray, list[str], list[str]]:
        """Labels int64, classes and notes, from codes, by the rule for text (label_values)."""
        names = list(self._number)
        table, classes, notes = text_labels(names, [self.counts[name] for name in names])
        return np.append(table, -1)[codes], classes, notes

    def __len__(self) -> int:
        return len(self._number)


def label_values(piece: pa.Array, names: Names) -> np.ndarray:
    """A piece of a label column as int64: numbers as they are, text as codes in `names`.

    Null and NaN become -1. Raises BadLabel for values that are no labels.
    """
    import pyarrow as pa

    if isinstance(piece, pa.ExtensionArray):
        piece = piece.storage
    kind = piece.type
    if pa.types.is_dictionary(kind):
        return numbered(piece, label_values(piece.dictionary, names))
    if pa.types.is_null(kind):
        return np.full(len(piece), -1, np.int64)
    if pa.types.is_floating(kind):
        return whole_numbers(piece.fill_null(float("nan")).to_numpy(zero_copy_only=False))
    if is_text(kind) or is_binary(kind) or pa.types.is_decimal(kind) or pa.types.is_uint64(kind):
        if is_text(kind):
            piece = piece.cast(pa.large_string())  # old pyarrow can't dictionary-encode views
        elif is_binary(kind) and not pa.types.is_fixed_size_binary(kind):
            piece = piece.cast(pa.large_binary())
        coded = piece.dictionary_encode()
        number = names.number if is_text(kind) or is_binary(kind) else whole_number
        return numbered(coded, np.array([*map(number, coded.dictionary.to_pylist())], np.int64))
    return piece.cast(pa.int64()).fill_null(-1).to_numpy(zero_copy_only=False)


def is_missing(piece: pa.Array) -> np.ndarray:
    """bool [N]: True if a label column's piece of numbers holds null or NaN."""
    import pyarrow as pa

    if isinstance(piece, pa.ExtensionArray):
        piece = piece.storage
    if pa.types.is_dictionary(piece.type):
        table = np.append(is_missing(piece.dictionary), True)
        return table[piece.indices.fill_null(len(table) - 1).to_numpy(zero_copy_only=False)]
    nan = pa.types.is_floating(piece.type)
    return piece.is_null(nan_is_null=nan).to_numpy(zero_copy_only=False)


def numbered(coded: pa.DictionaryArray, table: np.ndarray) -> np.ndarray:
    """The number of each row of a dictionary array, from the numbers of its entries; -1 for null.
    """
    codes = coded.indices.fill_null(0).to_numpy(zero_copy_only=False)
    known = coded.indices.is_valid().to_numpy(zero_copy_only=False)
    return np.where(known, np.append(table, -1)[codes], -1).astype(np.int64)


def is_label(kind: pa.DataType) -> bool:
    """True for types that can hold labels."""
    import pyarrow as pa

    kind = stored_type(kind)
    numeric = pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_floating(kind)
    return (numeric or pa.types.is_decimal(kind) or pa.types.is_null(kind) or is_text(kind)
            or is_binary(kind))
