"""Reads an image from a cell of a table: its bytes, in one of many types, or the path of a file.

Types: arrow.apache.org/docs/format/Columnar.html. The struct of bytes and path is Hugging Face's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

# Fields of a struct that name a file.
PATH_FIELDS = ("path", "url", "uri", "file_name")
Reader = Callable[[Any], "bytes | str | None"]
"""Takes a pyarrow scalar, gives an image's bytes, the path or URL of its file, or None if empty.

Raises OSError for a cell that holds several images.
"""


def is_text(kind: pa.DataType) -> bool:
    """True for text, of any of Arrow's types for it."""
    import pyarrow as pa

    views = getattr(pa.types, "is_string_view", lambda _: False)
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or views(kind)


def is_binary(kind: pa.DataType) -> bool:
    """True for byte strings, of any of Arrow's types for them."""
    import pyarrow as pa

    views = getattr(pa.types, "is_binary_view", lambda _: False)
    return (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
            or pa.types.is_fixed_size_binary(kind) or views(kind))


def is_list(kind: pa.DataType) -> bool:
    """True for lists, of any of Arrow's types for them."""
    import pyarrow as pa

    views = (getattr(pa.types, f"is_{name}list_view", lambda _: False) for name in ("", "large_"))
    return (pa.types.is_list(kind) or pa.types.is_large_list(kind)
            or pa.types.is_fixed_size_list(kind) or any(view(kind) for view in views))


def stored_type(kind: pa.DataType) -> pa.DataType:
    """The type of the values, without dictionaries and extension types around them."""
    import pyarrow as pa

    while True:
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
        elif isinstance(kind, pa.BaseExtensionType):
            kind = kind.storage_type
        else:
            return kind


def holds_bytes(kind: pa.DataType) -> bool:
    """True for bytes, for a struct with a field "bytes" of them, and for lists of these."""
    import pyarrow as pa

    kind = stored_type(kind)
    if pa.types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return index >= 0 and holds_bytes(kind.field(index).type)
    if is_list(kind):
        inner = stored_type(kind.value_type)
        return is_byte(inner) or (not is_list(inner) and holds_bytes(inner))
    return is_binary(kind)


def holds_paths(kind: pa.DataType) -> bool:
    """True for text, and for a struct with a field of text that names a file."""
    import pyarrow as pa

    kind = stored_type(kind)
    if pa.types.is_struct(kind):
        return path_field(kind) != ""
    return is_text(kind)


def is_byte(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return pa.types.is_uint8(kind) or pa.types.is_int8(kind)


def path_field(kind: pa.StructType) -> str:
    """The name of a struct's field that names a file; empty if it has none."""
    for name in PATH_FIELDS:
        index = kind.get_field_index(name)
        if index >= 0 and is_text(stored_type(kind.field(index).type)):
            return name
    return ""


def width_of(kind: pa.DataType) -> int:
    """Bytes of a row of a fixed-size type, even if it is empty; 1 for other types."""
    import pyarrow as pa

    kind = stored_type(kind)
    if pa.types.is_fixed_size_binary(kind):
        return max(1, int(kind.byte_width))
    if pa.types.is_fixed_size_list(kind):
        return max(1, int(kind.list_size)) * width_of(kind.value_type)
    if pa.types.is_struct(kind):
        return sum(width_of(kind.field(i).type) for i in range(kind.num_fields)) or 1
    return 1


def reader_of(kind: pa.DataType) -> Reader:
    """The Reader for cells of a type, for which holds_bytes or holds_paths must be true."""
    import pyarrow as pa

    if pa.types.is_dictionary(kind) or isinstance(kind, pa.BaseExtensionType):
        below = kind.value_type if pa.types.is_dictionary(kind) else kind.storage_type
        read = reader_of(below)
        return lambda cell: read(cell.value) if cell.is_valid else None
    if pa.types.is_struct(kind):
        return struct_reader(kind)
    if is_list(kind):
        if is_byte(kind.value_type):
            return bytes_of_list
        one = reader_of(kind.value_type)
        return lambda cell: one(only(cell)) if cell.is_valid and len(cell.values) else None
    return lambda cell: cell.as_py()


def struct_reader(kind: pa.StructType) -> Reader:
    """The Reader for a struct. It prefers the bytes to the path, which often only names the file
    that they came from."""
    index, path = kind.get_field_index("bytes"), path_field(kind)
    of_bytes = reader_of(kind.field(index).type) if index >= 0 else None
    if index >= 0 and is_binary(kind.field(index).type) and kind.num_fields <= 2:

        def read_whole(cell: Any) -> bytes | str | None:
            # Hugging Face's struct, the common case: one call is faster than one per field.
            value = cell.as_py() or {}
            return value.get("bytes") or value.get(path) or value.get("bytes")

        return read_whole

    def read(cell: Any) -> bytes | str | None:
        if not cell.is_valid:
            return None
        data = of_bytes(cell["bytes"]) if of_bytes is not None else None
        if data or not path:
            return data
        name: str | None = cell[path].as_py()
        return name or data

    return read


def bytes_of_list(cell: Any) -> bytes | None:
    if not cell.is_valid:
        return None
    if cell.values.null_count:
        raise OSError("its bytes have gaps")
    data: bytes = cell.values.to_numpy(zero_copy_only=False).tobytes()
    return data


def only(cell: Any) -> Any:
    """The single value of a list. Raises OSError if it holds several."""
    if len(cell.values) > 1:
        raise OSError(f"the row holds {len(cell.values)} images; only rows of one are read")
    return cell.values[0]
