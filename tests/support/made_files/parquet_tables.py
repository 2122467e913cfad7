"""Tables of images as Hugging Face writes them, in Parquet and Arrow files, and their check."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data_tools.errors import UserError
from data_tools.sources.location import Location
from data_tools.sources.tables import parquet
from tests.support.made_files.sample_images import jpeg

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


N = 23
IMAGES = [jpeg(8 + i % 5, 10 + i % 3, seed=i) for i in range(N)]
LABELS = [i * 5 % 3 for i in range(N)]
NAMES = ["zebra", "ant", "cat"]
STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
HF = {"image": {"_type": "Image"}, "label": {"names": NAMES, "_type": "ClassLabel"}}


def table(
    column: str = "image", features: dict | None = HF, labels: object = LABELS, struct: bool = True,
    label: str = "label",
) -> pa.Table:
    cells = [{"bytes": image, "path": f"{i}.jpg"} for i, image in enumerate(IMAGES)]
    columns = {column: pa.array(cells, STRUCT) if struct else pa.array(IMAGES, pa.binary())}
    if labels is not None:
        columns[label] = labels if isinstance(labels, pa.Array) else pa.array(labels)
    made = pa.table({"id": pa.array(range(N)), **columns})
    if features is not None:
        info = json.dumps({"info": {"features": features}})
        made = made.replace_schema_metadata({"huggingface": info})
    return made


def write_parquet(path: Path, rows: pa.Table, group: int = 5) -> Path:
    pq.write_table(rows, path, row_group_size=group)
    return path


def write_stream(path: Path, rows: pa.Table, group: int = 5) -> Path:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, rows.schema) as out:
        out.write_table(rows, max_chunksize=group)
    return path


def write_zstd(path: Path, rows: pa.Table, group: int = 5) -> Path:
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.OSFile(str(path), "wb") as f, pa.ipc.new_stream(f, rows.schema, options=options) as out:
        out.write_table(rows, max_chunksize=group)
    return path


def write_file(path: Path, rows: pa.Table, group: int = 5) -> Path:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, rows.schema) as out:
        out.write_table(rows, max_chunksize=group)
    return path
WRITERS = {"x.parquet": write_parquet, "x.arrow": write_stream, "zstd.arrow": write_zstd,
           "file.arrow": write_file}


def check(source: parquet.ParquetSource, labels: list = LABELS, images: list = IMAGES) -> None:
    assert source.labels.dtype == np.int64 and source.labels.tolist() == labels
    assert len(source.keys) == len(set(source.keys)) == len(source.sizes) == len(images)
    assert [source.read(i) for i in range(len(images))] == images
    assert [source.read(i) for i in reversed(range(len(images)))] == images[::-1]
    assert all(100 < size < 4000 for size in source.sizes)
    source.close()


def shards(folder: Path, split: str = "train", count: int = 3) -> list[pa.Table]:
    folder.mkdir(parents=True, exist_ok=True)
    parts = [table().slice(i * 8, 8) for i in range(count)]
    for i, part in enumerate(parts):
        write_parquet(folder / f"{split}-{i:05d}-of-{count:05d}.parquet", part)
    return parts


def check_reads_or_refuses(
    place: Location, open_it: Callable[[Location], parquet.ParquetSource]
) -> None:
    parquet.recognises(place)
    try:
        source = open_it(place)
    except UserError as error:
        assert "\n" not in str(error)
        return
    assert len(source.keys) < 1_000_000
    for i in (0, len(source.keys) // 2, len(source.keys) - 1):
        try:
            assert isinstance(source.read(i), bytes)
        except OSError:
            pass
    source.close()
