"""Lists with odd paths, URLs and damage; each is read, or refused in one line."""

import gzip
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data_tools.errors import UserError
from data_tools.prepare import prepare
from data_tools.sources.location import Location, NeedsPackage
from data_tools.sources.registry import open_source
from data_tools.sources.tables import table
from data_tools.sources.tables.listed import BACKSLASHES

IMAGE = b"\xff\xd8\xff"
A = '{"path": "a.jpg", "label": 1}\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "img").mkdir()
    for name in ("a.jpg", "b c.jpg", "img/c.jpg"):
        (tmp_path / name).write_bytes(IMAGE + name.encode())
    return tmp_path


REFUSED = {
    "inf.jsonl": (A + '{"path": "b.jpg", "label": 1e999}', "line 2: the label inf is no whole"),
    "minus.jsonl": ('{"path": "b.jpg", "label": -Infinity}', "line 1: the label -inf is no whole"),
    "fraction.jsonl": (A + '{"path": "b.jpg", "label": 1.5}', "line 2: the label 1.5 is no whole"),
    "nul.jsonl": (A + '{"path": "b\\u0000.jpg"}', "line 2: the path holds a NUL"),
    "surrogate.jsonl": (A + '{"path": "\\ud800.jpg"}', "line 2: the path holds a NUL or a lone"),
    "class.jsonl": ('{"path": "a.jpg", "label": "\\udfff"}', "label .* a lone surrogate"),
    "zero.jsonl": ('{"path": "a.jpg", "label": "a\\u0000"}', "label .* holds a NUL"),
    "deep.jsonl": (A + '{"path": "b.jpg", "x": ' + "[" * 100_000, "line 2: .*nested too deep"),
    "digits.jsonl": ('{"path": "a.jpg", "label": ' + "9" * 5000 + "}", "line 1: .*4300 digits"),
    "large.jsonl": ('{"path": "a.jpg", "label": ' + "9" * 30 + "}", "doesn't fit into 64 bits"),
    "long.jsonl": ('{"path": "a.jpg", "x": "' + "y" * 3_000_000 + '"}', "a line of more than"),
    "twice.jsonl": ('{"path": "a.jpg", "path": "b.jpg"}', "the key path occurs twice"),
    "twins.jsonl": ('{"path": "a.jpg", "Path": "b.jpg"}', "2 columns are called path"),
    "many.jsonl": ('{"path": "a.jpg", ' + ", ".join(f'"k{i}": 0' for i in range(60_000))
                   + ', "k9": 1}', "the key k9 occurs twice"),
    "array.jsonl": ('[{"path": "a.jpg"},\n{"path": "b.jpg"}]', "no JSON object, but an array"),
    "arrays.jsonl": ('[{"path": "a.jpg"}, {"path": "b.jpg"}]', "no JSON object, but an array"),
    "label.jsonl": ('{"path": "a.jpg", "label": {"x": 1}}', "neither a name nor a number"),
    "path.jsonl": ('{"path": ["a.jpg"]}', "line 1: names no file"),
    "cut.jsonl": (A + '{"path": "b.jp', "line 2: no JSON object: Unterminated string"),
    "utf16.jsonl": (A.encode("utf-16"), "is UTF-16 or UTF-32; save it as UTF-8"),
    "utf32.csv": ("path,label\na.jpg,1\n".encode("utf-32-be"), "NUL bytes"),
    "le.csv": ("path,label\na.jpg,1\n".encode("utf-16-le"), "NUL bytes"),
    "nul.csv": (b"path,label\na.jpg,1\nb\0.jpg,1\n", "NUL bytes"),
    "columns.csv": ("path,label,label\na.jpg,1,2\n", "2 columns are called label"),
    "packed.csv": (gzip.compress(b"path\na.jpg\n"), "is compressed; unpack it first"),
    # Its header holds a carriage return, which must not make it a list of an old Mac.
    "packed with a return.csv": (
        gzip.compress(b"path\na.jpg\n", mtime=13), "is compressed; unpack it first"),
    "packed.csv.gz": (gzip.compress(b"path\na.jpg\n"), "is compressed; unpack it first"),
    "slashes.csv": ("path\nimg\\c.jpg\nimg/c.jpg\n", "listed twice, once with"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_odd_lists_are_refused_in_one_line_and_with_the_reason(folder: Path, name: str) -> None:
    text, message = REFUSED[name]
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    start = time.monotonic()
    with pytest.raises(UserError, match=message) as caught:
        open_source(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400 + len(str(path)) and time.monotonic() - start < 5


MEASURE = """
import sys
from data_tools.errors import UserError
from data_tools.sources.registry import open_source, table

def peak():
    return int(next(line for line in open("/proc/self/status") if "VmHWM" in line).split()[1])

before = peak()
for path in sys.argv[1:]:
    try:
        open_source(path)
    except UserError:
        print(peak() - before)
"""


def test_a_hostile_list_takes_little_memory(folder: Path) -> None:
    if not Path("/proc/self/status").exists():
        pytest.skip("the peak of memory is read from /proc")
    paths = []
    for name in ("deep.jsonl", "many.jsonl", "long.jsonl", "array.jsonl"):
        text = REFUSED[name][0]
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        paths.append(str(folder / name))
    done = subprocess.run([sys.executable, "-c", MEASURE, *paths], capture_output=True, text=True)
    kilobytes = [int(line) for line in done.stdout.split()]
    assert len(kilobytes) == 4 and max(kilobytes) < 100_000, done


def test_backslashes_are_slashes_if_only_that_is_a_file(folder: Path) -> None:
    (folder / "d\\e.jpg").write_bytes(IMAGE + b"literal")
    (folder / "d").mkdir()
    (folder / "d/e.jpg").write_bytes(IMAGE + b"below")
    (folder / "x.csv").write_text("path,label\n.\\img\\c.jpg,1\nd\\e.jpg,1\nno\\thing.jpg,2\n")
    source = open_source(folder / "x.csv")
    assert source.keys == ["img/c.jpg", "d\\e.jpg", "no\\thing.jpg"]
    assert source.notes == [BACKSLASHES]
    assert [source.read(i)[3:] for i in (0, 1)] == [b"img/c.jpg", b"literal"]
    with pytest.raises(OSError):
        source.read(2)


def test_backslashes_behind_a_url(folder: Path) -> None:
    memory = pytest.importorskip("fsspec").filesystem("memory")
    memory.pipe("/odd/img/c.jpg", IMAGE)
    memory.pipe("/odd/x.csv", b"path\nimg\\c.jpg\n")
    source = open_source("memory://odd/x.csv")
    assert source.read(0) == IMAGE and source.notes.count(BACKSLASHES) == 1
    memory.rm("/odd", recursive=True)


def test_urls_of_every_spelling(folder: Path) -> None:
    memory = pytest.importorskip("fsspec").filesystem("memory")
    memory.pipe("/urls/a.jpg", IMAGE)
    (folder / "50%25.jpg").write_bytes(IMAGE + b"%")
    urls = [f"file://{folder}/a.jpg", f"file:{folder}/img/c.jpg", f"FILE://{folder}/img/../a.jpg",
            f"file://localhost{folder}/a.jpg", f"file://{folder}/b%20c.jpg",
            f"file://{folder}/50%25.jpg", "memory://urls/a.jpg", "memory://urls/missing.jpg",
            "zzz://a/b.jpg"]
    (folder / "x.csv").write_text("image_url,label\n" + "".join(f"{url},1\n" for url in urls))
    source = table.open(Location(folder / "x.csv"))
    assert [source.read(i)[3:] for i in range(7)] == [
        b"a.jpg", b"img/c.jpg", b"a.jpg", b"a.jpg", b"b c.jpg", b"%", b""]
    for i, reason in ((7, "no such file: memory://urls/missing.jpg"), (8, "zzz")):
        with pytest.raises(OSError, match=reason) as caught:
            source.read(i)
        assert "\n" not in str(caught.value)
    memory.rm("/urls", recursive=True)


def test_a_package_that_is_missing_is_said_at_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("fsspec")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    (folder / "x.csv").write_text("path,label\na.jpg,1\ns3://bucket/b.jpg,1\n")
    with pytest.raises(NeedsPackage, match="pip install .*s3fs"):
        open_source(folder / "x.csv")


def test_devices_and_fifos_in_a_list_neither_hang_nor_fill_the_memory(folder: Path) -> None:
    os.mkfifo(folder / "fifo.jpg")
    (folder / "x.csv").write_text("path,label\na.jpg,1\nfifo.jpg,1\n/dev/zero,1\nimg,1\n")
    source = open_source(folder / "x.csv")
    for i in (1, 2, 3):
        with pytest.raises(OSError, match=", not a file|Is a directory"):
            source.read(i)


def test_a_file_that_outgrows_the_limit(folder: Path) -> None:
    with open(folder / "large.jpg", "wb") as file:
        file.truncate(3 << 30)
    with pytest.raises(OSError, match="larger than"):
        Location(folder / "large.jpg").read(1 << 30)
    memory = pytest.importorskip("fsspec").filesystem("memory")
    memory.pipe("/large.jpg", b"123456789")
    with pytest.raises(OSError, match="larger than 5"):
        Location("memory://large.jpg").read(5)
    memory.rm("/large.jpg")


def test_odd_names_of_classes_go_through_prep(folder: Path) -> None:
    from tests.support.made_files.sample_images import jpeg

    labels = ["two\nlines", "x" * 5000, "\udcff", " blank "]
    rows = []
    for i, label in enumerate(labels):
        (folder / f"{i}.jpg").write_bytes(jpeg(seed=i))
        rows.append(json.dumps({"path": f"{i}.jpg", "label": label}))
    (folder / "x.jsonl").write_text("\n".join(rows))
    formats = ("beton", "tfrecord", "recordio", "webdataset")
    manifest = prepare(folder / "x.jsonl", folder / "out", formats=formats)
    assert manifest.classes == sorted(labels) and manifest.samples == 4
