"""Columns of images in every type of Parquet and Arrow, and paths in place of bytes."""

from collections.abc import Callable
from pathlib import Path

import pytest

from data_tools.errors import UserError
from data_tools.prepare import prepare
from data_tools.sources.location import Location
from data_tools.sources.registry import open_source
from data_tools.sources.tables import parquet
from data_tools.sources.tables.listed import BACKSLASHES, REMOTE_BYTES
from data_tools.sources.tables.parquet import ParquetSource
from tests.support.made_files.sample_images import jpeg

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

IMAGES = [jpeg(8 + i, 10, seed=i) for i in range(5)]
WIDTH = max(map(len, IMAGES))
PADDED = [image.ljust(WIDTH, b"\0") for image in IMAGES]
OCTETS = [list(image) for image in IMAGES]


def write_parquet(path: Path, rows: pa.Table) -> Location:
    pq.write_table(rows, path, row_group_size=3)
    return Location(path)


def write_arrow(path: Path, rows: pa.Table) -> Location:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, rows.schema) as out:
        out.write_table(rows, max_chunksize=3)
    return Location(path)


def write_zstd(path: Path, rows: pa.Table) -> Location:
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(
            file, rows.schema, options=options) as out:
        out.write_table(rows, max_chunksize=3)
    return Location(path)


WRITERS = {"x.parquet": write_parquet, "x.arrow": write_arrow, "zstd.arrow": write_zstd}
STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
CELLS = [{"bytes": image, "path": "gone.jpg"} for image in IMAGES]
TYPES: dict[str, tuple[pa.Array, list[bytes]]] = {
    "binary": (pa.array(IMAGES, pa.binary()), IMAGES),
    "large binary": (pa.array(IMAGES, pa.large_binary()), IMAGES),
    "binary view": (pa.array(IMAGES, pa.binary_view()), IMAGES),
    "fixed size": (pa.array(PADDED, pa.binary(WIDTH)), PADDED),
    "dictionary": (pa.array(IMAGES).dictionary_encode(), IMAGES),
    "struct": (pa.array(CELLS, STRUCT), IMAGES),
    "struct of views": (pa.array(CELLS, pa.struct(
        [("bytes", pa.binary_view()), ("path", pa.string_view())])), IMAGES),
    "list of bytes": (pa.array(OCTETS, pa.list_(pa.uint8())), IMAGES),
    "large list of bytes": (pa.array(OCTETS, pa.large_list(pa.uint8())), IMAGES),
    "list view of bytes": (pa.array(OCTETS, pa.list_view(pa.uint8())), IMAGES),
    "fixed list of bytes": (pa.array([list(p) for p in PADDED], pa.list_(pa.uint8(), WIDTH)),
                            PADDED),
    "list of one": (pa.array([[cell] for cell in CELLS], pa.list_(STRUCT)), IMAGES),
    "list view of one": (pa.array([[image] for image in IMAGES], pa.list_view(pa.binary())),
                         IMAGES),
}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("column", ["Image", "whatever"])
def test_every_type_of_bytes_is_read(tmp_path: Path, writer: str, name: str, column: str) -> None:
    cells, want = TYPES[name]
    rows = pa.table({"id": range(5), column: cells, "Label": pa.array([0, 1, 0, 1, 1])})
    try:
        place = WRITERS[writer](tmp_path / writer, rows)
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid) as error:
        pytest.skip(f"pyarrow doesn't write this: {error}")
    source = parquet.open(place)
    assert [source.read(i) for i in range(5)] == want
    assert source.labels.tolist() == [0, 1, 0, 1, 1]


def test_a_row_of_several_images_says_so(tmp_path: Path) -> None:
    cells = pa.array([IMAGES[:1], IMAGES[1:3], [], None], pa.list_(pa.binary()))
    source = parquet.open(write_parquet(tmp_path / "x.parquet", pa.table({"images": cells})))
    assert source.read(0) == IMAGES[0]
    for i, reason in ((1, "holds 2 images; only rows of one"), (2, "no image"), (3, "no image")):
        with pytest.raises(OSError, match=reason):
            source.read(i)


PATHS: dict[str, Callable[[list], pa.Array]] = {
    "struct": lambda paths: pa.array([{"bytes": None, "path": path} for path in paths], STRUCT),
    "empty bytes": lambda paths: pa.array([{"bytes": b"", "path": p} for p in paths], STRUCT),
    "path alone": lambda paths: pa.array([{"path": path} for path in paths]),
    "string": lambda paths: pa.array(paths, pa.string()),
    "large string": lambda paths: pa.array(paths, pa.large_string()),
    "string view": lambda paths: pa.array(paths, pa.string_view()),
    "dictionary": lambda paths: pa.array(paths).dictionary_encode(),
}


@pytest.mark.parametrize("writer", ["x.parquet", "x.arrow"])
@pytest.mark.parametrize("form", PATHS)
def test_paths_and_urls_in_place_of_bytes(tmp_path: Path, writer: str, form: str) -> None:
    memory = pytest.importorskip("fsspec").filesystem("memory")
    memory.pipe("/types/2.jpg", IMAGES[2])
    (tmp_path / "img").mkdir()
    for i in (0, 1, 3):
        (tmp_path / f"img/{i}.jpg").write_bytes(IMAGES[i])
    paths = ["img/0.jpg", f"file://{tmp_path}/img/1.jpg", "memory://types/2.jpg", "img\\3.jpg",
             "memory://types/gone.jpg", "gone.jpg", None, "a\0b.jpg"]
    column = "image" if form != "string" else "image_url"
    source = open_source(WRITERS[writer](
        tmp_path / writer, pa.table({column: PATHS[form](paths)})).local)  # type: ignore[arg-type]
    assert [source.read(i) for i in range(4)] == IMAGES[:4]
    for i, reason in ((4, "no such file: memory://types/gone.jpg"), (5, "No such file"),
                      (6, "no image"), (7, "no name of a file")):
        with pytest.raises(OSError, match=reason) as caught:
            source.read(i)
        assert "\n" not in str(caught.value)
    assert list(source.sizes) == [REMOTE_BYTES] * 8
    memory.rm("/types", recursive=True)


def test_backslashes_in_a_table_are_said_once(tmp_path: Path) -> None:
    (tmp_path / "img").mkdir()
    for i in (0, 1):
        (tmp_path / f"img/{i}.jpg").write_bytes(IMAGES[i])
    rows = pa.table({"path": ["img\\0.jpg", "img\\1.jpg"]})
    said: list[str] = []
    manifest = prepare(write_parquet(tmp_path / "x.parquet", rows).local, tmp_path / "out",
                       say=said.append)
    assert manifest.samples == 2 and manifest.notes.count(BACKSLASHES) == 1
    (tmp_path / "img\\0.jpg").write_bytes(IMAGES[2])
    source = parquet.open(Location(tmp_path / "x.parquet"))
    assert source.read(0) == IMAGES[2] and BACKSLASHES not in source.notes


def test_a_url_without_its_package_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("fsspec")
    monkeypatch.setitem(__import__("sys").modules, "s3fs", None)
    for cells in (PATHS["struct"](["s3://b/1.jpg"]), PATHS["string"](["s3://b/1.jpg"])):
        place = write_parquet(tmp_path / "x.parquet", pa.table({"image": cells}))
        with pytest.raises(UserError, match="pip install .*s3fs"):
            parquet.open(place)


def test_files_of_one_dataset_may_differ_in_their_numbers(tmp_path: Path) -> None:
    """pandas writes floats in a shard that lacks a label, and null if it lacks all."""
    labels = [pa.array([0, 1]), pa.array([1.0, float("nan")]), pa.nulls(2),
              pa.array([1, 0], pa.int8())]
    places = [write_parquet(tmp_path / f"{i}.parquet", pa.table(
        {"image": IMAGES[:2], "label": part})) for i, part in enumerate(labels)]
    assert parquet.open(places).labels.tolist() == [0, 1, 1, -1, -1, -1, 1, 0]
    odd = write_parquet(tmp_path / "odd.parquet", pa.table({"image": IMAGES[:1], "label": ["x"]}))
    with pytest.raises(UserError, match="odd.parquet: its column label is not as in"):
        parquet.open([places[0], odd])


@pytest.mark.parametrize("write", [write_parquet, write_arrow])
def test_two_columns_of_one_name_are_refused(tmp_path: Path, write: Callable) -> None:
    one, two = pa.array([0]), pa.array([1])
    for names, columns in ((["image", "label", "label"], [pa.array(IMAGES[:1]), one, two]),
                           (["image", "image"], [pa.array(IMAGES[:1])] * 2)):
        place = write(tmp_path / "x.parquet", pa.Table.from_arrays(columns, names))
        with pytest.raises(UserError, match="two columns are called|damaged"):
            parquet.open(place)


def test_bytes_come_before_paths(tmp_path: Path) -> None:
    rows = pa.table({"path": ["a.jpg"], "picture": IMAGES[:1]})
    source: ParquetSource = parquet.open(write_parquet(tmp_path / "x.parquet", rows))
    assert source.read(0) == IMAGES[0] and source.sizes[0] != REMOTE_BYTES
