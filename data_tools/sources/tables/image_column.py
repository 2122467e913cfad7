"""Finds the column of a table that holds the images: as bytes, or as paths or URLs of files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from data_tools.errors import UserError
from data_tools.images.file_names import IMAGE_SUFFIXES
from data_tools.images.magic import HEAD, is_picture
from data_tools.sources.tables.cells import holds_bytes, holds_paths, reader_of
from data_tools.sources.tables.list_rows import PATH_NAMES
from data_tools.sources.tables.parquet_columns import feature_type

if TYPE_CHECKING:
    from data_tools.sources.tables.parquet_rows import ArrowRows, ParquetRows

IMAGE_NAMES = (
    "image", "img", "jpg", "jpeg", "png", "webp", "picture", "photo", "image_bytes", "images",
)
LOOKS = 16


class ImageColumn(NamedTuple):
    """The column of images."""

    name: str
    path: str
    """The first path or URL, if the column names files; empty if it holds bytes."""
    note: str
    """A line for the user, or empty."""


def find_image(file: ParquetRows | ArrowRows, features: dict[str, Any]) -> ImageColumn:
    """The column that holds images. Raises UserError if there is none, or two of one name.

    Hugging Face's features decide first. Then come columns of bytes, by their names and then by
    their first values, and last columns of text, in the same way.
    """
    fields = {field.name: field.type for field in file.schema}
    of_bytes = [name for name, kind in fields.items() if holds_bytes(kind)]
    of_paths = [name for name, kind in fields.items() if holds_paths(kind) and name not in of_bytes]
    declared = [name for name in features if feature_type(features, name) == "Image"]
    declared = [name for name in declared if name in of_bytes + of_paths]
    note = ""
    if len(declared) > 1:
        note = f"several image columns ({', '.join(declared)}): the first one is used"
    found = (declared or named(of_bytes, IMAGE_NAMES) or by_content(file, of_bytes)
             or named(of_paths, IMAGE_NAMES + PATH_NAMES) or by_content(file, of_paths))
    if not found:
        columns = ", ".join(f"{name} ({str(kind)[:60]})" for name, kind in fields.items())
        raise UserError(f"{file.location}: no column holds images, encoded or as the names of "
                        f"files; its columns are {columns[:300] or 'none'}")
    name = found[0]
    if file.schema.names.count(name) > 1:
        raise UserError(f"{file.location}: two columns are called {name}; keep one of them")
    first = next((value for value in first_values(file, name) if value), b"")
    return ImageColumn(name, first if isinstance(first, str) else "", note)


def named(columns: list[str], wanted: tuple[str, ...]) -> list[str]:
    """The columns with one of the wanted names, in the order of these names."""
    lower = {name.lower(): name for name in reversed(columns)}
    return [lower[name] for name in wanted if name in lower]


def by_content(file: ParquetRows | ArrowRows, columns: list[str]) -> list[str]:
    """The columns whose first value is an image, or the name of one."""
    found = []
    for name in columns:
        if file.schema.names.count(name) > 1:
            continue
        value = next((value for value in first_values(file, name) if value), b"")
        if isinstance(value, str):
            is_image = value.split("?", 1)[0].lower().endswith(IMAGE_SUFFIXES)
        else:
            is_image = is_picture(value[:HEAD])
        if is_image:
            found.append(name)
    return found


def first_values(file: ParquetRows | ArrowRows, column: str) -> list[bytes | str | None]:
    """The first cells of a column, at most LOOKS."""
    read = reader_of(file.schema.field(column).type)
    for group in range(len(file.groups(column))):
        for piece in file.pieces(column, group):
            return [read_or_none(read, cell) for cell in piece[:LOOKS]]
    return []


def read_or_none(read: Any, cell: Any) -> bytes | str | None:
    """The value of a cell; None if it can't be read."""
    try:
        value: bytes | str | None = read(cell)
    except (OSError, ValueError):
        return None
    return value
