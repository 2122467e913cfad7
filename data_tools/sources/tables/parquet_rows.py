"""Parquet and Arrow files as groups of rows, read on demand: never more than a piece in memory.

Apache Parquet's row groups; Arrow's IPC format, as a file or as a stream. pyarrow reads them; what
it raises on a damaged file becomes a UserError here, or an OSError once the source is open.
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

# Decoded at once: small beside the pictures' own cost, large beside a call's.
PIECE_BYTES = 16 << 20
# A piece may take this much if its rows differ in size.
MOST_PIECE = 64 << 20
# A file may have so many rows, and one more per byte: a row takes some 30 bytes of memory.
FREE_ROWS = 100_000
# Items of a list in Parquet's footer, as pyarrow allocates on its word: columns or row groups.
MOST_ITEMS = 200_000
# What a group may claim to unpack to, in files: it only guides how it is cut to pieces.
MOST_UNPACKED = 20
STREAM_MARK = b"\xff\xff\xff\xff"


class Group(NamedTuple):
    """Rows that are read together: a row group of Parquet, a record batch of Arrow."""

    rows: int
    bytes: int
    """About what its images take."""


def format_of(location: Location) -> str:
    """"parquet", "arrow file", "arrow stream", or "" by the first bytes."""
    head = location.pread(8, 0)
    if head.startswith(b"PAR1"):
        return "parquet"
    if head.startswith(b"ARROW1"):
        return "arrow file"
    # The mark alone is no proof: any file may begin with four bytes 255.
    return "arrow stream" if head[:4] == STREAM_MARK and location.name.endswith(".arrow") else ""


def open_rows(location: Location) -> ParquetRows | ArrowRows:
    """Raises UserError for what is neither, for a damaged file, and where pyarrow is missing."""
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
    """pyarrow's errors, and the machine's, as a UserError that names the file."""
    try:
        yield
    except (UserError, KeyboardInterrupt):
        raise
    except BadLabel as error:
        raise UserError(f"{location}: {error}") from None
    except FileNotFoundError:
        raise UserError(f"{location}: no such file") from None
    except Exception as error:  # ArrowException, and whatever its bindings trip over
        raise UserError(f"{location}: damaged, or not readable: {first_line(error)}; "
                        "copy or download it again") from None


def first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return (lines[0] if lines else type(error).__name__)[:200].rstrip(" .:;")


def arrow_file(location: Location) -> Any:
    """The location as pyarrow's own file: memory-mapped where it is local."""
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
        # What the chunks say of their names and types is not what pyarrow reads them by.
        self._leaves = [metadata.schema.column(i) for i in range(metadata.num_columns)]
        if any(len(chunks) != len(self._leaves) for chunks in self._chunks):
            raise ValueError("a row group without some of the columns")

    def _open(self, coded: Sequence[str] = ()) -> Any:
        """coded: columns of text to give as dictionary arrays, each value once."""
        import pyarrow.parquet as pq

        place = self.location
        source = str(place.local) if place.local is not None else place.open()
        # Without pre_buffer and with a buffer a row group is streamed: some are the whole file.
        return pq.ParquetFile(source, metadata=self._metadata, buffer_size=1 << 20,
                              pre_buffer=False, page_checksum_verification=True,
                              thrift_container_size_limit=MOST_ITEMS, read_dictionary=list(coded))

    def groups(self, column: str) -> list[Group]:
        # Of all columns: images outweigh the others. A column's own sizes are not asked for: where
        # they are damaged, pyarrow doesn't raise but ends the process.
        limit = MOST_UNPACKED * self.location.size()
        return [Group(g.num_rows, max(0, min(g.total_byte_size, limit))) for g in self._groups]

    def column(self, name: str) -> Iterator[pa.Array]:
        """All of a small column, in pieces; text as dictionary arrays."""
        kind = self.schema.field(name).type
        coded = [name] if is_text(kind) or is_binary(kind) else []
        for group in range(len(self._groups)):
            yield from self._pieces(name, group, 1 << 16, coded)

    def pieces(self, name: str, group: int) -> Iterator[pa.Array]:
        """A group's column, in pieces of about PIECE_BYTES."""
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
            # A cast text or binary column of more than 2 GB would be chunked: pieces never are.
            for batch in file.iter_batches(step, [group], [name], use_threads=False):
                yield checked(batch.column(0))
        finally:
            file.close(force=True)

    def _row_bytes(self, name: str, group: int, entries: bool) -> int:
        """About the most that a row of a column decodes to. Raises ValueError for false claims.

        entries: the rows get the entries of dictionaries, not their numbers.
        """
        kind = self.schema.field(name).type
        longest = width_of(kind)
        if longest > MOST_PIECE:
            raise ValueError(f"each row of {name} takes {longest} bytes")
        # Behind a URL each page would be a request of its own.
        if self.location.local is not None:
            for leaf, chunk in zip(self._leaves, self._chunks[group], strict=True):
                if leaf.path == name or leaf.path.startswith(f"{name}."):
                    longest = max(longest, longest_value(
                        self.location, chunk, is_bytes=leaf.physical_type == "BYTE_ARRAY",
                        repeated=leaf.max_repetition_level > 0, entries=entries))
        return longest


def check_rows(rows: Sequence[int], size: int) -> None:
    """Raises ValueError if a file of `size` bytes can't hold so many rows."""
    if min(rows, default=0) < 0 or sum(rows) > size + FREE_ROWS:
        raise ValueError(f"claims {sum(rows)} rows in {size} bytes")


class ArrowRows:
    """One Arrow IPC file or stream; a group is a record batch.

    A local file is memory-mapped. Of a remote one all is read once at opening.
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
                # Both ends are fine: the mark of the end, or (HF writers killed late) none.
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
    """The column, its offsets proven to lie in its buffers: IPC takes the file's word for them."""
    column.validate(full=True)
    return column
