"""Parquet and Arrow files as groups of rows, read on demand, a piece at a time.

A group is a row group of Parquet, or a record batch of Arrow's IPC format (a file or a stream).
pyarrow reads them. Its errors on a damaged file become UserErrors here, or OSErrors once the source
is open.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from data_tools.errors import UserError
from data_tools.label_values import BadLabel
from data_tools.sources.tables.cells import is_binary, is_text, width_of
from data_tools.sources.tables.ipc_layout import blocks_of, check_message
from data_tools.sources.tables.parquet_layout import longest_value, read_chunks

if TYPE_CHECKING:
    import pyarrow as pa

    from data_tools.sources.location import Location

# Bytes that are decoded at once: few beside the memory of the images, many beside a call's cost.
PIECE_BYTES = 16 << 20
# Most bytes of a piece whose rows differ in size.
MOST_PIECE = 64 << 20
# A file may claim this many rows, and one more per byte: a row takes some 30 bytes of memory.
FREE_ROWS = 100_000
# Most items of a list in Parquet's footer (columns, row groups), for which pyarrow allocates memory
# without a check.
MOST_ITEMS = 200_000
# A group's claimed size is capped at this many times the file's: it only decides how the group is
# cut into pieces.
MOST_UNPACKED = 20
STREAM_MARK = b"\xff\xff\xff\xff"


class Group(NamedTuple):
    """Rows that are read together: a row group of Parquet, a record batch of Arrow."""

    rows: int
    bytes: int
    """Approximate bytes of its images."""


def format_of(location: Location) -> str:
    """"parquet", "arrow file", "arrow stream", or "" by the first bytes."""
    head = location.pread(8, 0)
    if head.startswith(b"PAR1"):
        return "parquet"
    if head.startswith(b"ARROW1"):
        return "arrow file"
    # The mark alone is no proof, because any file may start with four bytes of 255.
    return "arrow stream" if head[:4] == STREAM_MARK and location.name.endswith(".arrow") else ""


def open_rows(location: Location) -> ParquetRows | ArrowRows:
    """Opens a Parquet or Arrow file. Raises UserError for another file, for a damaged one, and if
    pyarrow is missing."""
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise UserError(f"{location}: reading Parquet and Arrow needs pyarrow: "
                        "pip install 'fastmoco[parquet]'") from None
    with damaged(location):
        form = format_of(location)
        if not form:
            raise UserError(f"{location}: neither a Parquet nor an Arrow file")
        return ParquetRows(location) if form == "parquet" else ArrowRows(location, form)


@contextmanager
def damaged(location: Location) -> Iterator[None]:
    """Turns the errors of pyarrow and of the machine into a UserError that names the file."""
    try:
        yield
    except (UserError, KeyboardInterrupt):
        raise
    except BadLabel as error:
        raise UserError(f"{location}: {error}") from None
    except FileNotFoundError:
        raise UserError(f"{location}: no such file") from None
    except Exception as error:  # ArrowException, and other types from its bindings
        raise UserError(f"{location}: damaged, or not readable: {first_line(error)}; "
                        "copy or download it again") from None


def first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return (lines[0] if lines else type(error).__name__)[:200].rstrip(" .:;")


def arrow_file(location: Location) -> Any:
    """The location as a file of pyarrow, memory-mapped if it is local."""
    import pyarrow as pa

    if location.local is not None:
        return pa.memory_map(str(location.local))
    return pa.PythonFile(location.open(), "r")


class ParquetRows:
    """One Parquet file. Only its footer is read at opening."""

    def __init__(self, location: Location) -> None:
        import pyarrow.parquet as pq

        self.location = location
        self._metadata = None
        self._chunks = read_chunks(location)
        file = self._open()
        try:
            self._metadata = metadata = file.metadata
            self.schema: pa.Schema = file.schema_arrow
        finally:
            file.close(force=True)
        if not isinstance(metadata, pq.FileMetaData):
            raise ValueError("no footer")
        self._groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
        check_rows([group.num_rows for group in self._groups], location.size())
        # Names and types come from the schema, since pyarrow ignores those in the chunks.
        self._leaves = [metadata.schema.column(i) for i in range(metadata.num_columns)]
        if any(len(chunks) != len(self._leaves) for chunks in self._chunks):
            raise ValueError("a row group without some of the columns")

    def _open(self, coded: Sequence[str] = ()) -> Any:
        """The file, opened by pyarrow. coded: columns of text to read as dictionary arrays."""
        import pyarrow.parquet as pq

        place = self.location
        source = str(place.local) if place.local is not None else place.open()
        # Without pre_buffer, and with a buffer, a row group is streamed and not read whole: some
        # files are one single row group.
        return pq.ParquetFile(source, metadata=self._metadata, buffer_size=1 << 20,
                              pre_buffer=False, page_checksum_verification=True,
                              thrift_container_size_limit=MOST_ITEMS, read_dictionary=list(coded))

    def groups(self, column: str) -> list[Group]:
        # The size of all columns together serves, since images outweigh the others. A column's own
        # size must not be asked for: if it is damaged, pyarrow ends the process.
        limit = MOST_UNPACKED * self.location.size()
        return [Group(g.num_rows, max(0, min(g.total_byte_size, limit))) for g in self._groups]

    def column(self, name: str) -> Iterator[pa.Array]:
        """A whole small column, in pieces; text comes as dictionary arrays."""
        kind = self.schema.field(name).type
        coded = [name] if is_text(kind) or is_binary(kind) else []
        for group in range(len(self._groups)):
            yield from self._pieces(name, group, 1 << 16, coded)

    def pieces(self, name: str, group: int) -> Iterator[pa.Array]:
        """The column of a group, in pieces of about PIECE_BYTES."""
        rows, size = self.groups(name)[group]
        step = max(1, rows * PIECE_BYTES // max(size, 1))
        yield from self._pieces(name, group, min(step, max(rows, 1)))

    def _pieces(
        self, name: str, group: int, step: int, coded: Sequence[str] = ()
    ) -> Iterator[pa.Array]:
        longest = self._row_bytes(name, group, entries=not coded)
        step = max(1, min(step, MOST_PIECE // longest))
        file = self._open(coded)
        try:
            # A batch's column is one array: no piece comes near the 2 GB at which Arrow chunks it.
            for batch in file.iter_batches(step, [group], [name], use_threads=False):
                yield checked(batch.column(0))
        finally:
            file.close(force=True)

    def _row_bytes(self, name: str, group: int, entries: bool) -> int:
        """Approximate bytes of the largest row of a column. Raises ValueError for false claims.

        entries: rows are read as values, not as codes of a dictionary.
        """
        kind = self.schema.field(name).type
        longest = width_of(kind)
        if longest > MOST_PIECE:
            raise ValueError(f"each row of {name} takes {longest} bytes")
        # Only for a local file: behind a URL each page would be one request.
        if self.location.local is not None:
            for leaf, chunk in zip(self._leaves, self._chunks[group], strict=True):
                if leaf.path == name or leaf.path.startswith(f"{name}."):
                    longest = max(longest, longest_value(
                        self.location, chunk, is_bytes=leaf.physical_type == "BYTE_ARRAY",
                        repeated=leaf.max_repetition_level > 0, entries=entries))
        return longest


def check_rows(rows: Sequence[int], size: int) -> None:
    """Raises ValueError if a file of `size` bytes can't hold this many rows."""
    if min(rows, default=0) < 0 or sum(rows) > size + FREE_ROWS:
        raise ValueError(f"claims {sum(rows)} rows in {size} bytes")


class ArrowRows:
    """One Arrow IPC file or stream; a group is a record batch.

    A local file is memory-mapped. A remote one is read once, as a whole, at opening.
    """

    def __init__(self, location: Location, form: str) -> None:
        import pyarrow as pa

        self.location = location
        self._file = arrow_file(location)
        self._offsets: list[int] = []
        self._reader = pa.ipc.open_file(self._file) if form == "arrow file" else None
        if self._reader is not None:
            for offset in blocks_of(self._file):
                self._file.seek(offset)
                check_message(pa.ipc.read_message(self._file))
            self.schema: pa.Schema = self._reader.schema
            self._count = self._reader.num_record_batches
        else:
            self.schema = pa.ipc.read_schema(self._file)
            if any(pa.types.is_dictionary(field.type) for field in self.schema):
                raise UserError(f"{location}: has dictionary columns, which can't be read out of "
                                "order in a stream; save it as Parquet")
            self._walk()
            self._count = len(self._offsets)

    def _walk(self) -> None:
        import pyarrow as pa

        size = self.location.size()
        while True:
            at = self._file.tell()
            try:
                message = pa.ipc.read_message(self._file)
            except EOFError:
                # A missing end mark is fine too: Hugging Face's writers omit it if killed late.
                if self._file.tell() < size - 8:
                    raise ValueError(f"no message at byte {at}") from None
                return
            check_message(message)
            if message.type == "record batch":
                self._offsets.append(at)

    def _batch(self, group: int) -> pa.RecordBatch:
        import pyarrow as pa

        if self._reader is not None:
            return self._reader.get_batch(group)
        self._file.seek(self._offsets[group])
        return pa.ipc.read_record_batch(pa.ipc.read_message(self._file), self.schema)

    def groups(self, column: str) -> list[Group]:
        place = self.schema.get_field_index(column)
        found = []
        for group in range(self._count):
            piece = checked(self._batch(group).column(place))
            found.append(Group(len(piece), piece.nbytes))
        check_rows([group.rows for group in found], self.location.size())
        return found

    def column(self, name: str) -> Iterator[pa.Array]:
        for group in range(self._count):
            yield from self.pieces(name, group)

    def pieces(self, name: str, group: int) -> Iterator[pa.Array]:
        yield checked(self._batch(group).column(self.schema.get_field_index(name)))


def checked(column: pa.Array) -> pa.Array:
    """The column, after a check that its offsets are inside its buffers, which IPC leaves out."""
    column.validate(full=True)
    return column
