"""Folders and lists of Parquet and Arrow files: shards, splits, and what save_to_disk writes."""

import json
from pathlib import Path

import pytest

from data_tools.errors import UserError
from data_tools.sources.location import Location
from data_tools.sources.tables import parquet
from tests.support.made_files.parquet_tables import (
    HF,
    IMAGES,
    LABELS,
    NAMES,
    N,
    check,
    shards,
    table,
    write_parquet,
    write_stream,
)

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


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
