"""Damaged and hostile Parquet and Arrow files: one line, and no memory beyond their size."""

import ast
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_tools.errors import UserError
from data_tools.sources.location import Location
from data_tools.sources.tables import parquet
from data_tools.sources.tables.parquet_layout import read_chunks
from data_tools.sources.tables.thrift import Compact
from tests.support.made_files.parquet_tables import check_reads_or_refuses, table
from tests.support.made_files.sample_images import jpeg

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

ROOT = Path(__file__).parents[3]
IMAGE = jpeg()
# More than any page of images unpacks to, in bytes that pack to nothing.
EMPTY = IMAGE + bytes(66 << 20)
EXTREMES = [0, 1, 2, 127, 128, 1 << 14, 1 << 20, 1 << 27, (1 << 31) - 1, 1 << 31, (1 << 32) - 2,
            (1 << 32) - 1, 1 << 40, (1 << 63) - 1, (1 << 64) - 1]


def peak() -> int:
    """The most memory that this process ever took, in bytes."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) << 10


@pytest.fixture
def little_memory() -> Iterator[None]:
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("the peak of memory is read from /proc")
    Path("/proc/self/clear_refs").write_text("5")  # this resets the peak
    before = peak()
    yield
    assert peak() - before < 300 << 20


def rewrite(data: bytes, new: bytes, at: int, old: int) -> bytes:
    return data[:at] + new + data[at + old :]


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


class Places(Compact):
    """Notes where the numbers are."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.found: list[tuple[int, int]] = []

    def varint(self) -> int:
        start = self.at
        value = super().varint()
        self.found.append((start, self.at))
        return value


def footer(data: bytes) -> tuple[int, bytes]:
    """(where it starts, the footer) of a Parquet file."""
    size = struct.unpack("<I", data[-8:-4])[0]
    return len(data) - 8 - size, data[-8 - size : -8]


def page_heads(path: Path) -> list[tuple[int, Places]]:
    data, heads = path.read_bytes(), []
    for group in read_chunks(Location(path)):
        for chunk in group:
            at = chunk.start
            while at < chunk.start + chunk.size:
                head = Places(data[at : chunk.start + chunk.size])
                heads.append((at, head))
                at += head.integers({})[3,] + head.at
    return heads


def bombs(folder: Path) -> dict[str, Path]:
    one, zero = pa.array([IMAGE]), pa.array([0])
    many = np.zeros(2_000_000, np.int8)
    tables = {
        "page": (pa.table({"image": pa.array([EMPTY])}), {"use_dictionary": False}),
        "label": (pa.table({"image": one, "label": ["x" * (66 << 20)]}), {"use_dictionary": False}),
        "dictionary": (pa.table({"image": [EMPTY]}), {"dictionary_pagesize_limit": 1 << 30}),
        "rows": (pa.table({"image": pa.DictionaryArray.from_arrays(pa.array(many), one)}), {}),
        "labels": (pa.table({"image": pa.nulls(2_000_000, pa.binary()), "label": many}), {}),
        "values": (pa.table({"image": pa.array([np.zeros(2 << 20, np.uint8)],
                                               pa.list_(pa.uint8()))}), {}),
        "lists": (pa.table({"image": one, "label": zero}), {}),
    }
    paths = {}
    for name, (rows, options) in tables.items():
        paths[name] = folder / f"{name}.parquet"
        pq.write_table(rows, paths[name], compression="zstd", **options)
    # pyarrow doesn't read a column by the name that its place in the footer gives.
    data = paths["page"].read_bytes()
    start, foot = footer(data)
    assert foot.count(b"\x05image") == 2
    first = foot.index(b"\x05image") + 6
    paths["name"] = folder / "name.parquet"
    paths["name"].write_bytes(data[: start + first] + data[start + first :].replace(
        b"\x05image", b"\x05imago"))
    # A list in the footer that claims 2^31 row groups.
    data = paths["lists"].read_bytes()
    start, foot = footer(data)
    reader = Compact(foot)
    for field, kind in reader.fields():
        if field == 4:
            foot = rewrite(foot, b"\xfc" + varint((1 << 31) - 1), reader.at, 1)
            break
        reader.skip(kind)
    paths["lists"].write_bytes(data[:start] + foot + struct.pack("<I", len(foot)) + b"PAR1")
    for form, make in (("stream", pa.ipc.new_stream), ("file", pa.ipc.new_file)):
        rows = pa.table({"image": pa.array([EMPTY])})
        paths[form] = folder / f"{form}.arrow"
        options = pa.ipc.IpcWriteOptions(compression="zstd")
        with pa.OSFile(str(paths[form]), "wb") as file, make(
                file, rows.schema, options=options) as out:
            out.write_table(rows)
    return paths


def test_what_unpacks_out_of_proportion_is_refused(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    paths = bombs(tmp_path)
    request.getfixturevalue("little_memory")
    for name, path in paths.items():
        assert path.stat().st_size < 300_000, name
        with pytest.raises(UserError, match="damaged, or not readable: .*(claim|values)") as caught:
            parquet.open(Location(path))
        assert str(path) in str(caught.value)


def test_one_large_image_for_many_rows_is_read_in_small_pieces(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    large = IMAGE + np.random.default_rng(0).bytes(4 << 20)
    codes = pa.array(np.zeros(50_000, np.int8))
    pq.write_table(pa.table({
        "image": pa.DictionaryArray.from_arrays(codes, pa.array([large])),
        "label": pa.DictionaryArray.from_arrays(codes, pa.array(["n" * (1 << 20)])),
    }), tmp_path / "x.parquet", dictionary_pagesize_limit=1 << 30, store_schema=False)
    del codes
    request.getfixturevalue("little_memory")
    source = parquet.open(Location(tmp_path / "x.parquet"))
    assert source.read(0) == source.read(200) == large
    assert len(source.keys) == 50_000 and source.classes == ["n" * (1 << 20)]
    source.close()


# A process of its own: in one that runs many tests, other memory moves in and out meanwhile.
READ_FOUR = """
import sys, zlib
from data_tools.sources.location import Location
from data_tools.sources.tables import parquet
def peak():
    with open("/proc/self/status") as status:  # ru_maxrss would count the parent's memory
        return int(status.read().partition("VmHWM:")[2].split()[0]) << 10
source = parquet.open(Location(sys.argv[1]))
before = peak()
print([zlib.crc32(source.read(i)) for i in (0, 100, 107, 19_999)])
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of memory is read from /proc")
def test_a_group_of_images_of_many_sizes_is_read_in_pieces(tmp_path: Path) -> None:
    """A row group may be the whole file, and its large images may be side by side."""
    rng = np.random.default_rng(0)
    images = [IMAGE + rng.bytes(100) for _ in range(20_000)]
    images[100:112] = [IMAGE + rng.bytes(30 << 20)] * 12
    pq.write_table(pa.table({"image": images}), tmp_path / "x.parquet", use_dictionary=False)
    command = [sys.executable, "-c", READ_FOUR, str(tmp_path / "x.parquet")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    read, grown = done.stdout.splitlines()
    assert ast.literal_eval(read) == [zlib.crc32(images[i]) for i in (0, 100, 107, 19_999)]
    assert int(grown) < 300 << 20


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("originals")
    options: list[dict] = [
        {}, {"compression": "zstd", "data_page_version": "2.0"},
        {"compression": "none", "use_dictionary": False},
        {"use_dictionary": False, "column_encoding": {"label": "DELTA_BINARY_PACKED"}},
    ]
    paths = []
    for i, option in enumerate(options):
        paths.append(folder / f"{i}.parquet")
        pq.write_table(table(), paths[-1], row_group_size=9, **option)
    return paths


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_numbers_of_footer_and_pages_may_be_any(
    originals: list[Path], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = data.draw(st.sampled_from(originals))
    value = data.draw(st.sampled_from(EXTREMES) | st.integers(0, (1 << 64) - 1))
    content = path.read_bytes()
    if data.draw(st.booleans()):
        start, foot = footer(content)
        reader = Places(foot)
        reader.skip(12)
        first, last = data.draw(st.sampled_from(reader.found))
        foot = rewrite(foot, varint(value), first, last - first)
        content = content[:start] + foot + struct.pack("<I", len(foot)) + b"PAR1"
    else:
        at, head = data.draw(st.sampled_from(page_heads(path)))
        first, last = data.draw(st.sampled_from(head.found))
        # The pages after it move, as they do where bytes are lost.
        content = rewrite(content, varint(value), at + first, last - first)
    changed = tmp_path_factory.getbasetemp() / "numbers.parquet"
    changed.write_bytes(content)
    before = peak()
    check_reads_or_refuses(Location(changed), parquet.open)
    assert peak() - before < 200 << 20


def test_encrypted_and_cut_files_are_named(tmp_path: Path) -> None:
    pq.write_table(table(), tmp_path / "x.parquet")
    data = (tmp_path / "x.parquet").read_bytes()
    for end, message in ((data[:-4] + b"PARE", "encrypted"), (data[:-100], "its end is missing"),
                         (data[:-8] + b"\xff\xff\xff\x7fPAR1", "footer claims"), (b"PAR1", "end")):
        (tmp_path / "x.parquet").write_bytes(end)
        with pytest.raises(UserError, match=message):
            parquet.open(Location(tmp_path / "x.parquet"))
