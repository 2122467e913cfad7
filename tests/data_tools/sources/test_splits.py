"""Tables with a column of splits: refused while none is chosen, and "#train" chooses."""

import json
from pathlib import Path

import pytest

from data_tools.errors import UserError
from data_tools.sources.registry import open_source
from data_tools.sources.tables.splits import split_fragment

IMAGE = b"\xff\xd8\xff"
SPLITS = ["train", "val", "train", "test", "val", "train"]
LABELS = ["b", "a", "c", "a", "b", "c"]


def write(folder: Path, name: str, column: str, splits: list) -> str:
    """A table of six images in one of its forms; the path of it."""
    rows = [{"path": f"{i}.jpg", "label": label, column: split}
            for i, (label, split) in enumerate(zip(LABELS, splits, strict=True))]
    for row in rows:
        (folder / str(row["path"])).write_bytes(IMAGE + str(row["path"]).encode())
    path = folder / name
    if name.endswith("jsonl"):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif name.endswith("csv"):
        lines = [f"path,label,{column}", *(",".join("" if v is None else str(v)
                                                    for v in row.values()) for row in rows)]
        path.write_text("\n".join(lines))
    else:
        pa = pytest.importorskip("pyarrow")
        import pyarrow.parquet as pq

        if name.startswith("bytes"):
            for row in rows:
                row["image"] = (folder / row.pop("path")).read_bytes()
        made = pa.Table.from_pylist(rows)
        if name.startswith("dictionary"):
            place = made.schema.get_field_index(column)
            made = made.set_column(place, column, made.column(column).dictionary_encode())
        if name.endswith("parquet"):
            pq.write_table(made, path, row_group_size=4)
        else:
            with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, made.schema) as out:
                out.write_table(made, max_chunksize=4)
    return str(path)


FORMS = ["x.csv", "metadata.csv", "x.jsonl", "bytes.parquet", "paths.parquet",
         "dictionary.parquet", "bytes.arrow"]


@pytest.mark.parametrize("name", FORMS)
def test_splits_are_refused_together_and_read_by_their_names(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, name, "split", SPLITS)
    if name == "metadata.csv":
        path = str(tmp_path)
    with pytest.raises(UserError, match=r"column split holds train \(3\), val \(2\), test \(1\) "
                                        r"side by side; choose one by '.*#train'"):
        open_source(path)
    numbers = [0, 2, 5]
    for chosen, want in (("train", numbers), ("VAL", [1, 4]), ("test", [3]),
                         ("train+test", [0, 2, 3, 5])):
        source = open_source(f"{path}#{chosen}")
        assert [source.read(i) for i in range(len(source.keys))] == [
            IMAGE + b"%d.jpg" % i for i in want]
        # Every split has the classes of the whole table: c is no label of val.
        assert source.classes == ["a", "b", "c"]
        assert source.labels.tolist() == ["abc".index(LABELS[i]) for i in want]
        assert len(source.sizes) == len(want) and chosen in source.kind
        source.close()
    prints = {open_source(f"{path}#{chosen}").fingerprint for chosen in ("train", "val", "test")}
    assert len(prints) == 3
    with pytest.raises(UserError, match=r"column split has no dev, but train \(3\)"):
        open_source(f"{path}#dev")


@pytest.mark.parametrize("column", ["Split", "subset", "set", "partition", "fold"])
@pytest.mark.parametrize("values", [
    ["training", "validation"], ["train", "dev"], ["train2017", "val2017"], ["Train", "holdout"],
    ["test", None], ["train", "unlabeled"], ["coco-train", "coco-val"],
])
def test_columns_and_values_of_many_names(tmp_path: Path, column: str, values: list) -> None:
    for name in ("x.csv", "x.jsonl", "bytes.parquet"):
        with pytest.raises(UserError, match=f"its column {column} holds .*side by side"):
            open_source(write(tmp_path, name, column, values * 3))


@pytest.mark.parametrize(("column", "values"), [
    ("split", ["train"] * 6), ("split", [""] * 6), ("fold", [0, 1, 2, 3, 4, 0]),
    ("set", ["red", "blue", "red", "blue", "red", "red"]), ("source", SPLITS),
])
def test_one_split_and_other_values_are_fine(tmp_path: Path, column: str, values: list) -> None:
    for name in ("x.csv", "x.jsonl", "bytes.parquet"):
        assert len(open_source(write(tmp_path, name, column, values)).keys) == 6
    if column == "fold":
        assert open_source(f"{tmp_path}/x.csv#3").labels.tolist() == [0]
        assert open_source(f"{tmp_path}/bytes.parquet#0").labels.tolist() == [1, 2]


def test_capitals_do_not_matter(tmp_path: Path) -> None:
    for name in ("x.csv", "bytes.parquet"):
        path = write(tmp_path, name, "Split", ["Train", "TEST"] * 3)
        assert len(open_source(f"{path}#train").keys) == 3


def test_a_table_without_splits_takes_none(tmp_path: Path) -> None:
    for name in ("x.csv", "bytes.parquet"):
        path = write(tmp_path, name, "more", SPLITS)
        with pytest.raises(UserError, match="no column called split, so #train chooses nothing"):
            open_source(f"{path}#train")


def test_an_image_in_two_splits_is_no_image_twice(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(IMAGE)
    (tmp_path / "x.csv").write_text("path,split\na.jpg,train\na.jpg,test\n")
    with pytest.raises(UserError, match="side by side"):
        open_source(tmp_path / "x.csv")
    assert open_source(f"{tmp_path}/x.csv#test").keys == ["a.jpg"]
    (tmp_path / "x.csv").write_text("path,split\na.jpg,train\na.jpg,train\nb.jpg,test\n")
    with pytest.raises(UserError, match="line 3: a.jpg is listed already in line 2"):
        open_source(f"{tmp_path}/x.csv#train")


def test_fragments(tmp_path: Path) -> None:
    for text, want in [
        ("a.tar.gz#test", ("a.tar.gz", "test")), ("a#b", ("a#b", "")),
        ("x.csv#val", ("x.csv", "val")), ("s3://b/x.parquet#a+b", ("s3://b/x.parquet", "a+b")),
        ("x.csv#a/b", ("x.csv#a/b", "")), (f"{tmp_path}#dev", (str(tmp_path), "dev")),
    ]:
        assert split_fragment(text) == want
