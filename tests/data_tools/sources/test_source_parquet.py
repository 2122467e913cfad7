"""Parquet and Arrow files as Hugging Face writes them, and as others do; whole, cut and mutated."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_tools.errors import UserError
from data_tools.label_values import MOST_CLASSES
from data_tools.sources.location import Location
from data_tools.sources.tables import parquet, parquet_rows
from tests.support.sample_images import jpeg

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


@pytest.mark.parametrize("name", WRITERS)
def test_bytes_labels_and_names_are_those_written(tmp_path: Path, name: str) -> None:
    place = Location(WRITERS[name](tmp_path / name, table()))
    assert parquet.recognises(place)
    source = parquet.open(place)
    assert source.classes == NAMES
    assert source.keys[7] == f"{name}/7"
    check(source)
    assert parquet.open(place).fingerprint == source.fingerprint


@pytest.mark.parametrize("name", WRITERS)
def test_a_plain_column_of_bytes(tmp_path: Path, name: str) -> None:
    for column in ("img", "whatever"):
        path = WRITERS[name](tmp_path / name, table(column, None, struct=False))
        source = parquet.open(Location(path))
        assert source.classes == ["0", "1", "2"]
        check(source)


def test_names_may_be_an_object_and_labels_fine(tmp_path: Path) -> None:
    features = {"img": {"_type": "Image"}, "coarse_label": {"names": ["x"], "_type": "ClassLabel"},
                "fine_label": {"names": dict(zip("012", NAMES, strict=True)),
                               "_type": "ClassLabel"}}
    rows = table("img", features, label="fine_label").append_column(
        "coarse_label", pa.array([0] * N))
    source = parquet.open(Location(write_parquet(tmp_path / "a.parquet", rows)))
    assert source.classes == NAMES
    check(source)


@pytest.mark.parametrize("name", ["x.parquet", "x.arrow"])
@pytest.mark.parametrize("kind", ["string", "large_string", "dictionary"])
def test_labels_that_are_text(tmp_path: Path, name: str, kind: str) -> None:
    words = pa.array([None if i == 4 else NAMES[label] for i, label in enumerate(LABELS)])
    words = words.dictionary_encode() if kind == "dictionary" else words.cast(kind)
    path = WRITERS[name](tmp_path / name, table(labels=words, features=None))
    if (name, kind) == ("x.arrow", "dictionary"):
        with pytest.raises(UserError, match="dictionary columns"):
            parquet.open(Location(path))
        return
    source = parquet.open(Location(path))
    assert source.classes == sorted(NAMES)
    want = [sorted(NAMES).index(NAMES[label]) for label in LABELS]
    check(source, [-1 if i == 4 else label for i, label in enumerate(want)])


@pytest.mark.parametrize(("labels", "want", "classes", "note"), [
    (None, [-1] * N, [], "no labels"),
    ([7] * N, [7] * N, [str(i) for i in range(8)], "out of|names are left out"),
    ([MOST_CLASSES * (i % 2 + 1) for i in range(N)], [i % 2 for i in range(N)],
     [str(MOST_CLASSES), str(2 * MOST_CLASSES)], "names are left out"),
    ([float(i % 2) for i in range(N)], [i % 2 for i in range(N)], NAMES, ""),
    ([None, *LABELS[1:]], [-1, *LABELS[1:]], NAMES, ""),
    ([bool(i % 2) for i in range(N)], [i % 2 for i in range(N)], NAMES, ""),
])
def test_labels_of_other_kinds(
    tmp_path: Path, labels: object, want: list, classes: list, note: str
) -> None:
    source = parquet.open(Location(write_parquet(tmp_path / "a.parquet", table(labels=labels))))
    assert source.classes == classes
    assert bool(source.notes) == bool(note)
    check(source, want)


def test_labels_that_are_fractions_are_refused(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", table(labels=[0.5] * N))
    with pytest.raises(UserError, match="a.parquet"):
        parquet.open(Location(path))


def test_images_that_lie_beside_the_table(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    cells = [{"bytes": None, "path": f"photos/{i}.jpg"} for i in range(3)]
    cells += [{"bytes": None, "path": str(tmp_path / "photos/0.jpg")}, None,
              {"bytes": None, "path": None}]
    for i in range(2):
        (tmp_path / f"photos/{i}.jpg").write_bytes(IMAGES[i])
    rows = pa.table({"image": pa.array(cells, STRUCT)})
    source = parquet.open(Location(write_parquet(tmp_path / "a.parquet", rows)))
    assert [source.read(i) for i in (0, 1, 3)] == [IMAGES[0], IMAGES[1], IMAGES[0]]
    for i in (2, 4, 5):
        with pytest.raises(OSError):
            source.read(i)


def shards(folder: Path, split: str = "train", count: int = 3) -> list[pa.Table]:
    folder.mkdir(parents=True, exist_ok=True)
    parts = [table().slice(i * 8, 8) for i in range(count)]
    for i, part in enumerate(parts):
        write_parquet(folder / f"{split}-{i:05d}-of-{count:05d}.parquet", part)
    return parts


@pytest.mark.parametrize("inside", ["", "data"])
def test_a_folder_and_a_list_of_files(tmp_path: Path, inside: str) -> None:
    shards(tmp_path / "set" / inside)
    (tmp_path / "set/README.md").touch()
    place = Location(tmp_path / "set")
    assert parquet.recognises(place)
    check(parquet.open(place))
    files = sorted((tmp_path / "set" / inside).glob("*.parquet"))
    source = parquet.open([Location(path) for path in files[1:]])
    check(source, LABELS[8:], IMAGES[8:])
    assert source.kind == "Parquet, 2 files"


def test_files_of_one_name_have_keys_of_their_own(tmp_path: Path) -> None:
    for folder in "ab":
        (tmp_path / folder).mkdir()
        write_parquet(tmp_path / folder / "0.parquet", table())
    source = parquet.open([Location(tmp_path / folder / "0.parquet") for folder in "ab"])
    assert source.keys[0] == "a/0.parquet/0" and source.keys[N] == "b/0.parquet/0"
    check(source, LABELS * 2, IMAGES * 2)


def test_splits_side_by_side_are_refused_with_a_pattern(tmp_path: Path) -> None:
    shards(tmp_path)
    shards(tmp_path, "test")
    with pytest.raises(UserError, match=r"test and train side by side.*/train-\*\.parquet'"):
        parquet.open(Location(tmp_path))


def test_what_save_to_disk_wrote(tmp_path: Path) -> None:
    rows = table(features=None)
    names = ["data-00000-of-00002.arrow", "data-00001-of-00002.arrow"]
    for name, part in zip(names, (rows.slice(0, 20), rows.slice(20)), strict=True):
        write_stream(tmp_path / name, part)
    state = {"_data_files": [{"filename": name} for name in names], "_split": "train"}
    (tmp_path / "state.json").write_text(json.dumps(state))
    (tmp_path / "dataset_info.json").write_text(json.dumps({"features": HF}))
    assert parquet.recognises(Location(tmp_path))
    source = parquet.open(Location(tmp_path))
    assert source.classes == NAMES
    check(source)
    (tmp_path / "state.json").write_text(json.dumps(state | {"_indices_data_files": [1]}))
    with pytest.raises(UserError, match="flatten_indices"):
        parquet.open(Location(tmp_path))


def test_a_folder_of_several_splits_is_refused(tmp_path: Path) -> None:
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert parquet.recognises(Location(tmp_path))
    with pytest.raises(UserError, match="give one of its folders"):
        parquet.open(Location(tmp_path))


def test_files_of_different_datasets_are_refused(tmp_path: Path) -> None:
    write_parquet(tmp_path / "0.parquet", table())
    write_parquet(tmp_path / "1.parquet", table("picture", None))
    with pytest.raises(UserError, match="one dataset"):
        parquet.open(Location(tmp_path))


@pytest.mark.parametrize("rows", [
    pa.table({"a": [1, 2], "b": ["x", "y"]}), pa.table({"audio": [b"RIF", b"x"]}), pa.table({}),
    pa.table({"image": pa.array([], pa.binary())}),
])
def test_tables_without_images_are_refused(tmp_path: Path, rows: pa.Table) -> None:
    with pytest.raises(UserError, match="no column holds images|no rows"):
        parquet.open(Location(write_parquet(tmp_path / "a.parquet", rows)))


def test_other_places_are_not_recognised(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(IMAGES[0])
    (tmp_path / "metadata.parquet").write_bytes(b"PAR1")
    for name in ("", "a.jpg", "missing"):
        assert not parquet.recognises(Location(tmp_path / name))


@pytest.mark.parametrize("name", WRITERS)
def test_threads_get_their_own_rows(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "HELD_BYTES", 3000)
    monkeypatch.setattr(parquet_rows, "PIECE_BYTES", 1000)
    monkeypatch.setattr(parquet, "OPEN_GROUPS", 2)
    source = parquet.open(Location(WRITERS[name](tmp_path / name, table(), 7)))
    order = np.random.default_rng(0).integers(0, N, 300).tolist()
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(source.read, order)) == [IMAGES[i] for i in order]
    source.close()


def test_of_a_large_group_only_pieces_are_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "HELD_BYTES", 3000)
    monkeypatch.setattr(parquet_rows, "PIECE_BYTES", 1000)
    source = parquet.open(Location(write_parquet(tmp_path / "a.parquet", table(), N)))
    for i in range(N):
        assert source.read(i) == IMAGES[i]
        held = sum(piece.nbytes for piece in source._held.values())
        assert 0 < held <= 3000 + 2 * max(map(len, IMAGES))
    assert len(source._readers) == 1


def test_a_damaged_group_costs_its_own_images(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(table(), path, row_group_size=5, compression="none", use_dictionary=False,
                   write_page_checksum=True)
    content = bytearray(path.read_bytes())
    content[content.index(IMAGES[7]) + 30] ^= 1
    path.write_bytes(content)
    source = parquet.open(Location(path))
    opened: list[int] = []
    pieces = source._pieces
    source._pieces = lambda group: opened.append(group) or pieces(group)  # type: ignore
    for i in range(N):
        if 5 <= i < 10:
            with pytest.raises(OSError, match="damaged"):
                source.read(i)
        else:
            assert source.read(i) == IMAGES[i]
    assert opened == [0, 1, 2, 3, 4]  # what is broken isn't tried again


def test_a_missing_pyarrow_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_parquet(tmp_path / "a.parquet", table())
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    assert parquet.recognises(Location(path))
    with pytest.raises(UserError, match=r"pip install 'fastmoco\[parquet\]'"):
        parquet.open(Location(path))


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("originals")
    return {name: write(folder / name, table()).read_bytes() for name, write in WRITERS.items()}


@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_mutated_files(
    originals: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(sorted(originals)))
    content = bytearray(originals[name])
    size = len(content)
    for _ in range(data.draw(st.integers(0, 4))):
        # The footer, the schema and the messages' heads; then anywhere.
        at = data.draw(st.one_of(st.integers(0, 800), st.integers(size - 3000, size - 1),
                                 st.integers(0, size - 1)))
        content[at] = data.draw(st.integers(0, 255))
    end = data.draw(st.one_of(st.just(size), st.integers(0, size)))
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(content[:end])
    open_and_read(Location(path), parquet.open)


def open_and_read(place: Location, open_it: Callable[[Location], parquet.ParquetSource]) -> None:
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
