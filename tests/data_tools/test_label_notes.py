"""prep's notes on labels: images without one are counted, names that look alike are reported."""

import io
import json
import math
import tarfile
from pathlib import Path

import pytest

from data_tools.manifest import summary
from data_tools.prepare import prepare, prepare_shard
from tests.support.made_files.sample_images import jpeg

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


FILES = 6


UNLABELLED = "-1 counts as unlabelled; write a name or another number if it is a class"


def prepared(folder: Path, name: str, content: str | list | None) -> tuple[list[str], str]:
    """The notes and the summary of a list of FILES images, after two shards did its parts."""
    for i in range(FILES):
        (folder / f"{i}.jpg").write_bytes(jpeg(seed=i))
    place = folder / name
    if isinstance(content, str):
        place.write_text(content)
    elif content is not None:
        pq.write_table(pa.table({"path": [f"{i}.jpg" for i in range(FILES)],
                                 "label": pa.array(content)}), place)
    for shard in (0, 1):
        prepare_shard(place, folder / "out", (shard, 2))
    manifest = prepare(place, folder / "out")
    return manifest.notes, "\n".join(summary(manifest))


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet", "float.parquet", "cls"])
def test_minus_one_and_no_label_are_counted_aloud(tmp_path: Path, form: str) -> None:
    values = [-1, 1, None, -1, 1, 1]
    content: str | list | None = None
    if form == "csv":
        content = "path,label\n" + "".join(
            f"{i}.jpg,{'' if v is None else v}\n" for i, v in enumerate(values))
    elif form == "jsonl":
        content = "".join(json.dumps({"path": f"{i}.jpg", "label": math.nan if v is None else v})
                          + "\n" for i, v in enumerate(values))
    elif form == "cls":
        with tarfile.open(tmp_path / f"x.{form}", "w") as file:
            for i, value in enumerate(values):
                texts = [] if value is None else [(f"{i}.cls", str(value).encode())]
                for name, data in [(f"{i}.jpg", jpeg(seed=i)), *texts]:
                    info = tarfile.TarInfo(name)
                    info.size = len(data)
                    file.addfile(info, io.BytesIO(data))
    else:
        content = [math.nan if v is None else float(v) for v in values] if "float" in form else (
            values)
    notes, text = prepared(tmp_path, f"x.{form}", content)
    line = ("warning: 3 of 6 images have no label; 2 of these have the value -1: " + UNLABELLED)
    assert [note for note in notes if "no label" in note] == [line] and line in text
    assert text.startswith("6 images, 3 labelled, 2 classes")


def test_without_minus_one_the_line_is_no_warning(tmp_path: Path) -> None:
    notes, text = prepared(tmp_path, "x.csv", "path,label\n0.jpg,a\n1.jpg,\n2.jpg,b\n")
    assert notes == ["1 of 3 images has no label"]
    assert text.startswith("3 images, 2 labelled, 2 classes")


def test_labels_that_are_all_minus_one_are_not_called_empty(tmp_path: Path) -> None:
    notes, _ = prepared(tmp_path, "x.parquet", [-1] * FILES)
    assert notes == ["warning: 6 of 6 images have no label; 6 of these have the value -1: "
                     + UNLABELLED]


def test_renumbering_says_that_minus_one_is_lost(tmp_path: Path) -> None:
    notes, _ = prepared(tmp_path, "x.parquet", [0, -1, -7, 1, 0, 0])
    line = "warning: 1 of 6 images has no label; 1 of these has the value -1: " + UNLABELLED
    assert line in notes


@pytest.mark.parametrize("names, pairs", [(("é", "e\u0301"), 1), (("é", "e"), 0)])
def test_names_that_look_the_same_get_a_warning(tmp_path: Path, names: tuple, pairs: int) -> None:
    text = "path,label\n" + "".join(f"{i}.jpg,{names[i % 2]}\n" for i in range(FILES))
    notes, _ = prepared(tmp_path, "x.csv", text)
    assert sum(note.startswith("warning: 1 class name looks the same") for note in notes) == pairs
