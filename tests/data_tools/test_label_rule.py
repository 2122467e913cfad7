"""One rule for labels: a column means the same in CSV, TSV, JSON lines, Parquet and Arrow."""

import json
import math
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from data_tools.errors import UserError
from data_tools.label_values import (
    MOST_CLASSES,
    BadLabel,
    is_storable,
    text_labels,
    whole_number,
    whole_numbers,
)
from data_tools.sources.location import Location
from data_tools.sources.tables import parquet, table

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

QUICK = settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
FILES = 6
INT64 = st.integers(-(1 << 63), (1 << 63) - 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("labels")
    for i in range(FILES):
        (path / f"{i}.jpg").write_bytes(b"\xff\xd8\xff")
    return path


def csv_source(folder: Path, cells: list[str]) -> table.TableSource:
    place = folder / "x.csv"
    rows = [f'{i}.jpg,"{cell}"\n' for i, cell in enumerate(cells)]
    place.write_text("path,label\n" + "".join(rows), encoding="utf-8")
    return table.open(Location(place))


def json_source(folder: Path, values: list) -> table.TableSource:
    place = folder / "x.jsonl"
    rows = [json.dumps({"path": f"{i}.jpg", "label": value}) for i, value in enumerate(values)]
    place.write_text("\n".join(rows))
    return table.open(Location(place))


def columns(labels: pa.Array) -> pa.Table:
    return pa.table({"image": pa.array([b"\xff\xd8\xff"] * len(labels)), "label": labels})


def parquet_source(folder: Path, labels: pa.Array) -> parquet.ParquetSource:
    pq.write_table(columns(labels), folder / "x.parquet", row_group_size=2)
    return parquet.open(Location(folder / "x.parquet"))


def arrow_source(folder: Path, labels: pa.Array) -> parquet.ParquetSource:
    rows = columns(labels)
    with pa.OSFile(str(folder / "x.arrow"), "wb") as file, pa.ipc.new_file(
            file, rows.schema) as out:
        out.write_table(rows, max_chunksize=2)
    return parquet.open(Location(folder / "x.arrow"))


def as_arrays(values: list, kinds: list) -> list[pa.Array]:
    plain = [pa.array(values, kind) for kind in kinds]
    return plain + [plain[0].dictionary_encode()]


@QUICK
@given(st.lists(st.none() | st.integers(-3, 9) | st.integers(0, 1 << 17), min_size=1,
                max_size=FILES))
def test_whole_numbers_are_the_same_in_every_form(folder: Path, values: list) -> None:
    known = sorted({value for value in values if value not in (None, -1)})
    if not known:
        want, classes = [-1] * len(values), []
    elif known[0] >= 0 and known[-1] < MOST_CLASSES:
        want = [-1 if value is None else value for value in values]
        classes = [str(i) for i in range(known[-1] + 1)]
    else:
        want = [known.index(value) if value in known else -1 for value in values]
        classes = [str(value) for value in known]
    texts = ["" if value is None else str(value) for value in values]
    # pandas turns a column of numbers into one of floats as soon as one is missing.
    floats = [None if value is None else float(value) for value in values]
    sources = [
        csv_source(folder, texts),
        csv_source(folder, ["" if value is None else str(value) for value in floats]),
        json_source(folder, values),
        json_source(folder, [math.nan if value is None else value for value in floats]),
        json_source(folder, texts),
    ]
    arrays = as_arrays(values, [pa.int64(), pa.int32(), pa.float64(), pa.decimal128(12, 2)])
    arrays += [pa.array([math.nan if value is None else value for value in floats])]
    arrays += as_arrays(texts, [pa.string(), pa.large_string(), pa.string_view(), pa.binary()])
    sources += [make(folder, array) for array in arrays for make in (parquet_source, arrow_source)]
    for source in sources:
        assert (source.labels.tolist(), source.classes) == (want, classes)


@QUICK
@given(st.lists(st.none() | st.sampled_from(["cat", "dog", "10", "9", "ü x", "007", "nan", "1.5"]),
                min_size=1, max_size=FILES))
def test_names_are_the_same_in_every_form(folder: Path, values: list) -> None:
    names = {value for value in values if value}
    if names <= {"10", "9"}:
        return  # numbers, as above
    classes = sorted(names)
    want = [classes.index(value) if value else -1 for value in values]
    sources = [csv_source(folder, [value or "" for value in values]), json_source(folder, values)]
    kinds = [pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary()]
    sources += [make(folder, array) for array in as_arrays(values, kinds)
                for make in (parquet_source, arrow_source)]
    for source in sources:
        assert (source.labels.tolist(), source.classes) == (want, classes)
        assert any('label "nan"' in note for note in source.notes) == ("nan" in names)


@settings(deadline=None)
@example(math.nan)
@example(Decimal("1E+999999"))
@given(st.none() | st.booleans() | INT64 | st.floats() | st.decimals(allow_nan=False))
def test_a_typed_value_is_a_whole_number_or_refused(value: object) -> None:
    if value is None or value != value:
        assert whole_number(value) == -1
    elif -(1 << 63) <= value < 1 << 63 and value == int(value):
        assert whole_number(value) == value
    else:
        with pytest.raises(BadLabel):
            whole_number(value)


@settings(deadline=None)
@example([math.nan, 1.0])
@given(st.lists(st.floats(width=32) | st.integers(-5, 5).map(float) | st.floats(), max_size=9))
def test_many_floats_follow_the_rule_of_one(values: list[float]) -> None:
    try:
        want = [whole_number(value) for value in values]
    except BadLabel:
        with pytest.raises(BadLabel):
            whole_numbers(np.array(values, np.float64))
        return
    assert whole_numbers(np.array(values, np.float64)).tolist() == want


@settings(max_examples=60, deadline=None)
@given(st.sets(st.text(min_size=1) | st.integers().map(str) | st.floats().map(str), min_size=1))
def test_any_texts_are_classes_or_refused(texts: set[str]) -> None:
    names = sorted(texts)
    if not all(map(is_storable, names)):
        with pytest.raises(BadLabel, match="NUL or a lone surrogate"):
            text_labels(names, [1] * len(names))
        return
    labels, classes, notes = text_labels(names, [1] * len(names))
    for name, label in zip(names, labels.tolist(), strict=True):
        named = label >= 0 and (classes[label] == name or float(classes[label]) == float(name))
        assert named or float(name) == -1
    assert not any("\n" in note for note in notes) or any("\n" in name for name in names)


@pytest.mark.parametrize("value", ["nan", "NaN", "NA", "N/A", "null", "None", "<NA>"])
def test_a_missing_value_in_words_is_said_to_be_a_class(folder: Path, value: str) -> None:
    for source in (csv_source(folder, [value, "cat", value, ""]),
                   json_source(folder, [value, "cat", value, None])):
        assert source.classes == sorted([value, "cat"]) and source.labels.tolist()[3] == -1
        assert [f'2 images with the label "{value}": taken as a class name' in note
                for note in source.notes] == [True]


@pytest.mark.parametrize(("cells", "notes"), [
    (["1.5", "2"], ["1.5 is no whole number"]), (["inf", "1"], ["inf is no whole number"]),
    (["1e3", "2"], ["1e3 is no whole number"]), ([str(1 << 63), "2"], ["64 bits"]),
    (["1.0", "nan"], ['label "nan"']), (["001", "1.5"], []), (["v1.5", "2"], []),
    ([str((1 << 63) - 1), "2"], ["renumbered 0 to "]),
])
def test_doubtful_texts_are_said(folder: Path, cells: list[str], notes: list[str]) -> None:
    source = csv_source(folder, cells)
    assert len(source.notes) == len(notes)
    assert all(part in note for part, note in zip(notes, source.notes, strict=True))


BAD: list[tuple[list, pa.DataType, str]] = [
    ([0, 1.5], pa.float64(), "the label 1.5 is no whole number"),
    ([0, math.inf], pa.float64(), "the label inf is no whole number"),
    ([0, -math.inf], pa.float32(), "the label -inf is no whole number"),
    ([0, 1e300], pa.float64(), "the label 1e[+]300 doesn't fit into 64 bits"),
    ([0, 0.5], pa.float16(), "the label 0.5 is no whole number"),
    ([0, 1 << 63], pa.uint64(), "the label 9223372036854775808 doesn't fit into 64 bits"),
    ([0, Decimal("0.10")], pa.decimal128(5, 2), "the label 0.10 is no whole number"),
    ([0, Decimal(10) ** 30], pa.decimal256(40, 0), "doesn't fit into 64 bits"),
    ([b"a", b"\xff"], pa.binary(), "the label b'.xff' is not UTF-8"),
    (["a", "b\0c"], pa.string(), "NUL or a lone surrogate"),
]


@pytest.mark.parametrize(("values", "kind", "message"), BAD, ids=[str(row[1]) for row in BAD])
@pytest.mark.parametrize("make", [parquet_source, arrow_source])
def test_typed_values_that_are_no_labels_are_named(
    folder: Path, make: Callable, values: list, kind: pa.DataType, message: str
) -> None:
    if kind == pa.float16():
        values = [np.float16(value) for value in values]
    with pytest.raises(UserError, match=message) as caught:
        make(folder, pa.array(values, kind))
    assert "damaged" not in str(caught.value) and str(folder) in str(caught.value)
    if kind in (pa.float64(), pa.uint64()):
        with pytest.raises(UserError, match=f"line 2: {message}"):
            json_source(folder, values)


@pytest.mark.parametrize(("labels", "note"), [
    (pa.nulls(2), "no labels: the column label is empty"),
    (pa.array([math.nan, None]), "no labels: the column label is empty"),
    (pa.array([[1], [2]]), "the column label is list<"),
])
def test_columns_without_a_label_are_said(folder: Path, labels: pa.Array, note: str) -> None:
    for make in (parquet_source, arrow_source):
        source = make(folder, labels)
        assert source.labels.tolist() == [-1, -1] and source.classes == []
        assert len(source.notes) == 1 and note in source.notes[0]
