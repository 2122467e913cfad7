"""Lists in CSV, TSV and JSON lines: what they name, in their order, and lines that are wrong."""

import codecs
import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_tools.errors import UserError
from data_tools.sources.location import Location
from data_tools.sources.tables import table
from data_tools.sources.tables.list_rows import LINE_BYTES
from tests.support.made_files.image_lists import CSV, IMAGES, JSON, ROWS, TSV


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    for name, data in IMAGES.items():
        (tmp_path / name).write_bytes(data)
    return tmp_path


def write(path: Path, text: str | bytes) -> Location:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert table.recognises(Location(path))
    return Location(path)


def check(source: table.TableSource, labels: list[int], classes: list[str]) -> None:
    assert source.labels.dtype == np.int64 and source.labels.tolist() == labels
    assert source.classes == classes
    assert [source.read(i) for i in range(len(source.keys))] == [
        IMAGES[key] for key in source.keys]
    assert list(source.sizes) == [len(IMAGES[key]) for key in source.keys]


LISTS = {
    "plain.csv": "path,label\n" + CSV,
    "headless.csv": CSV,
    "headless.tsv": TSV,
    "windows.csv": codecs.BOM_UTF8 + ("File_Name,Category\n" + CSV).replace("\n", "\r\n").encode(),
    "blank.csv": ("\nimage,target\n" + CSV).replace("\n", "\n\n"),
    "more.tsv": "id\tclass\timage_path\n" + "".join(f"7\t{v}\t{p}\n" for p, v in ROWS),
    "tabs.csv": "path\tlabel\n" + TSV,
    "semicolons.csv": "path;label\n" + "".join(f"{p};{v}\n" for p, v in ROWS),
    "dots.csv": "path,label\n" + "".join(f'"./{p}", "{v}"\n' for p, v in ROWS),
    "lines.jsonl": JSON,
    "bom.jsonl": codecs.BOM_UTF8 + JSON.replace("\n", "\r\n\r\n").encode(),
    "lines.ndjson": JSON.replace("file_name", "Image"),
}


@pytest.mark.parametrize("name", LISTS)
def test_every_form_of_a_list_gives_the_same(folder: Path, name: str) -> None:
    source = table.open(write(folder / name, LISTS[name]))
    assert source.keys == list(IMAGES)
    check(source, [2, 1, 2, 0], ["a, b", "cat", "dog"])
    assert source.notes == []
    assert table.open(Location(folder / name)).fingerprint == source.fingerprint


@pytest.mark.parametrize(("values", "labels", "classes", "note"), [
    ("0 1 0 2", [0, 1, 0, 2], ["0", "1", "2"], False),
    ("5 1 5 2", [5, 1, 5, 2], ["0", "1", "2", "3", "4", "5"], False),
    ("-7 -1 3 3", [0, -1, 1, 1], ["-7", "3"], True),
    ("001 002 001 001", [0, 1, 0, 0], ["001", "002"], False),
    ("1 x 1 x", [0, 1, 0, 1], ["1", "x"], False),
    ("999999 5 5 5", [1, 0, 0, 0], ["5", "999999"], True),
])
def test_labels_that_are_numbers(
    folder: Path, values: str, labels: list, classes: list, note: bool
) -> None:
    rows = "".join(f'"{p}",{v}\n' for p, v in zip(IMAGES, values.split(), strict=True))
    source = table.open(write(folder / "x.csv", rows))
    check(source, labels, classes)
    assert bool(source.notes) == note


def test_json_labels_may_be_numbers_or_missing(folder: Path) -> None:
    rows = [{"path": path} for path in IMAGES]
    for row, label in zip(rows, (None, 1, 0.0, True), strict=True):
        row["label"] = label  # type: ignore[assignment]
    text = "\n".join(map(json.dumps, rows))
    check(table.open(write(folder / "x.jsonl", text)), [-1, 1, 0, 1], ["0", "1"])
    del rows[0]["label"]
    rows[1]["label"] = "cat"
    text = "\n".join(map(json.dumps, rows))
    check(table.open(write(folder / "y.jsonl", text)), [-1, 2, 0, 1], ["0", "1", "cat"])


def test_lists_without_labels(folder: Path) -> None:
    for name, text in {"a.csv": "file\n" + "".join(f'"{p}"\n' for p in IMAGES),
                       "b.csv": "".join(f'"{p}"\n' for p in IMAGES),
                       "c.csv": "path,label\n" + "".join(f'"{p}",\n' for p in IMAGES)}.items():
        source = table.open(write(folder / name, text))
        check(source, [-1] * 4, [])
        assert "no labels" in source.notes[0]


def test_a_folder_with_hugging_faces_list(folder: Path) -> None:
    assert not table.recognises(Location(folder))
    for name, text in {"metadata.csv": "file_name,text\n", "metadata.jsonl": JSON}.items():
        (folder / name).write_text(text)
    assert table.recognises(Location(folder))
    check(table.open(Location(folder)), [2, 1, 2, 0], ["a, b", "cat", "dog"])


def test_absolute_paths_and_files_that_are_missing(folder: Path) -> None:
    first = str(folder / next(iter(IMAGES)))
    source = table.open(write(folder / "x.csv", f"{first},1\nnowhere.jpg,0\n../x\x7f.jpg,0\n"))
    assert source.read(0) == next(iter(IMAGES.values()))
    assert list(source.sizes[1:]) == [0, 0]
    for i in (1, 2):
        with pytest.raises(OSError):
            source.read(i)
    with pytest.raises(UserError, match="none of its files exists, like n/o.jpg"):
        table.open(write(folder / "x.csv", "n/o.jpg,1\n"))


def test_names_that_are_not_utf8(folder: Path) -> None:
    path = os.fsencode(folder) + b"/photos/\xff.jpg"
    with open(path, "wb") as file:
        file.write(b"1")
    source = table.open(write(folder / "x.csv", b"path,label\nphotos/\xff.jpg,a\n"))
    assert source.keys == ["photos/\udcff.jpg"] and source.read(0) == b"1"


def test_the_fingerprint_follows_the_files_and_the_list(folder: Path) -> None:
    place = write(folder / "x.csv", CSV)
    prints = {table.open(place).fingerprint}
    (folder / "photos/a.jpg").write_bytes(b"longer" * 1000)
    prints.add(table.open(place).fingerprint)
    write(folder / "x.csv", CSV.replace("dog", "wolf"))
    prints.add(table.open(place).fingerprint)
    assert len(prints) == 3


@pytest.mark.parametrize(("name", "text", "message"), [
    ("x.csv", "path,label\na.jpg,1\nb.jpg,2\n./a.jpg,1\n", "line 4: ./a.jpg.*already in line 2"),
    ("x.csv", "path,label\na.jpg,1\n,2\n", "line 3: names no file"),
    ("x.csv", "path,label\na.jpg\n", "line 2: has 1 columns where 2"),
    ("x.csv", "path,label\na,b.jpg,1\n", "line 2: has 3 columns where 2.*quote"),
    ("x.csv", 'path,label\na.jpg,1\n"b.jpg,2\nc.jpg,3\n', "line 4: unexpected end"),
    ("x.csv", "", "lists no images"),
    ("x.csv", "\n\n", "lists no images"),
    ("x.csv", "path,label\n", "lists no images"),
    ("x.csv", "number,label\n1,2\n", "line 1: no column is called path"),
    ("x.csv", "a.jpg,1,2\n", "line 1: no column is called path"),
    ("x.csv", "hello\n", "line 1: no column is called path"),
    ("x.csv", "path,label\n".encode("utf-16"), "UTF-16"),
    ("x.csv", "a" * (LINE_BYTES + 5), "a line of more than"),
    ("x.jsonl", '{"path": "a.jpg"}\nx\n', "line 2: no JSON object"),
    ("x.jsonl", '["a.jpg"]', "line 1: no JSON object"),
    ("x.jsonl", "[" * 100_000, "line 1: no JSON object"),
    ("x.jsonl", '{"label": 1}', "line 1: names no file"),
    ("x.jsonl", '{"path": 1}', "line 1: names no file"),
    ("x.jsonl", '{"path": "a.jpg", "label": [1]}', "line 1: the label is neither"),
    ("x.jsonl", '\n{"path": "a.jpg"}\n{"path": "a.jpg"}\n', "line 3: a.jpg.*already in line 2"),
])
def test_wrong_lines_are_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=message) as caught:
        table.open(Location(path))
    assert str(caught.value).startswith(str(path))


def test_other_files_are_not_recognised(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text(CSV)
    for name in ("x.txt", "missing.csv", ""):
        assert not table.recognises(Location(tmp_path / name))


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    name=st.sampled_from(["x.csv", "x.tsv", "x.jsonl"]),
    start=st.sampled_from(["", "path,label\n", JSON, CSV, TSV, '{"path": "']),
    rest=st.one_of(st.binary(max_size=200), st.text(st.sampled_from('ab,"\n\r\t{}:[]1.\\'),
                                                    max_size=60).map(str.encode)),
)
def test_any_bytes_give_a_source_or_one_clear_line(
    tmp_path_factory: pytest.TempPathFactory, name: str, start: str, rest: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(start.encode() + rest)
    table.recognises(Location(path))
    try:
        source = table.open(Location(path))
    except UserError as error:
        assert "\n" not in str(error)
        return
    for i in range(len(source.keys)):
        try:
            assert isinstance(source.read(i), bytes)
        except OSError:
            pass


@pytest.mark.parametrize("name", ["x.csv", "x.jsonl"])
def test_lines_that_end_in_a_carriage_return(folder: Path, name: str) -> None:
    rows = ["path,label", "photos/b.jpg,dog", "photos/a.jpg,cat"]
    if name == "x.jsonl":
        rows = [json.dumps({"path": path, "label": label})
                for path, label in (row.split(",") for row in rows[1:])]
    check(table.open(write(folder / name, "\r".join(rows))), [1, 0], ["cat", "dog"])


def test_a_carriage_return_within_a_line_is_named(folder: Path) -> None:
    place = write(folder / "x.csv", "path,label\nphotos/b.jpg,do\rg\n")
    with pytest.raises(UserError, match="line 2: a carriage return in the middle of a line"):
        table.open(place)


def test_a_list_in_latin_1_gets_a_warning(folder: Path) -> None:
    text = "path,label\nphotos/b.jpg,café\nphotos/a.jpg,cat\nphotos/ü x.jpg,cat\n"
    source = table.open(write(folder / "x.csv", text.encode("latin-1")))
    assert source.notes == [
        "warning: 1 class name is not UTF-8, like caf\\xe9 (1 image): save the list as UTF-8",
        "warning: 1 path is not UTF-8 and names no file, like photos/\\xfc x.jpg: save the list "
        "as UTF-8"]


def test_infinity_as_a_class_name_gets_a_note(folder: Path) -> None:
    source = table.open(write(folder / "x.csv", "path,label\nphotos/b.jpg,inf\nphotos/a.jpg,cat\n"))
    assert source.classes == ["cat", "inf"] and 'label "inf": taken as a class name' in (
        source.notes[0])
