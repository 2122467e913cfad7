"""Parquet and Arrow files as Hugging Face writes them, and as others do; whole, cut and mutated."""

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
from tests.support.made_files.parquet_tables import (
    IMAGES,
    LABELS,
    NAMES,
    STRUCT,
    WRITERS,
    N,
    check,
    check_reads_or_refuses,
    table,
    write_parquet,
)

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


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
    check_reads_or_refuses(Location(path), parquet.open)
