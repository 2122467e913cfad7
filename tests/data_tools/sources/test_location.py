"""One interface over local files and what fsspec reaches."""

import os
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from data_tools.errors import UserError
from data_tools.open import open_store
from data_tools.sources.location import Location
from data_tools.sources.patterns import expand
from data_tools.sources.registry import open_source

FILES = {"a/1.bin": b"0123456789", "a/b/2.bin": b"two", "c.txt": b"c"}


@pytest.fixture(params=["local", "file", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Location]:
    if request.param == "memory":
        fsspec = pytest.importorskip("fsspec")
        memory = fsspec.filesystem("memory")
        for name, data in FILES.items():
            memory.pipe(f"/top/{name}", data)
        yield Location("memory://top")
        memory.rm("/top", recursive=True)
        return
    for name, data in FILES.items():
        path = tmp_path / "top" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    yield Location(tmp_path / "top" if request.param == "local" else f"file://{tmp_path}/top")


def test_what_a_location_tells(root: Location) -> None:
    assert root.name == "top" and root.exists() and root.is_dir() and not root.is_file()
    assert root.names() == ["a", "c.txt"]
    assert sorted((key, size) for key, size, _ in root.walk()) == sorted(
        (key, len(data)) for key, data in FILES.items()
    )
    file = root.child("a/1.bin")
    assert file.name == "1.bin" and file.is_file() and file.size() == 10
    assert file.mtime() > 1_600_000_000 and all(time > 1_600_000_000 for _, _, time in root.walk())
    assert file.parent.name == "a" and file.parent.names() == ["1.bin", "b"]
    missing = root.child("missing")
    assert not (missing.exists() or missing.is_dir() or missing.is_file())


def test_positioned_reads_and_a_seekable_file(root: Location) -> None:
    file = pickle.loads(pickle.dumps(root.child("a/1.bin")))
    assert file == root.child("a/1.bin")
    assert (file.pread(3, 2), file.pread(99, 8), file.pread(5, 10), file.pread(5, 99)) == (
        b"234", b"89", b"", b"")
    with file.open() as opened:
        assert opened.read(2) == b"01" and opened.seek(-1, 2) == 9 and opened.read() == b"9"
    file.close()
    for read in (root.child("missing").open, lambda: root.child("missing").pread(1, 0),
                 root.child("missing").size):
        with pytest.raises(OSError):
            read()


def test_patterns(root: Location) -> None:
    for name, found in [
        ("a/*.bin", ["1.bin"]),
        ("**/*.bin", ["1.bin", "2.bin"]),
        ("{c.txt,a/1.bin}", ["c.txt", "1.bin"]),
        ("a/{1..1}.bin", ["1.bin"]),
        ("{a/[0-9].bin,c.txt}", ["1.bin", "c.txt"]),
        ("c.txt", ["c.txt"]),
    ]:
        assert [place.name for place in expand(f"{root}/{name}")] == found
    for name in ("*.png", "a/{1..2}.bin", "missing"):
        with pytest.raises(UserError, match="matches|no such file"):
            expand(f"{root}/{name}")


@pytest.mark.parametrize("name", ["", "file://", "#train"])
def test_an_empty_path_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "1.jpg").touch()
    with pytest.raises(UserError, match="empty path"):
        open_source(name)
    with pytest.raises(UserError, match="empty path|no such dataset"):
        open_store(name)


def test_braces_count_with_leading_zeros(tmp_path: Path) -> None:
    for i in (8, 9, 10):
        for letter in "ab":
            (tmp_path / f"{letter}-{i:03d}").touch()
    names = [place.name for place in expand(f"{tmp_path}/{{b,a}}-{{008..010}}")]
    assert names == ["b-008", "b-009", "b-010", "a-008", "a-009", "a-010"]
    with pytest.raises(UserError, match="more than"):
        expand(f"{tmp_path}/{{0..99999999}}")


def test_a_name_that_looks_like_a_pattern_is_a_name(tmp_path: Path) -> None:
    (tmp_path / "set [1]").mkdir()
    assert [place.name for place in expand(f"{tmp_path}/set [1]")] == ["set [1]"]


def test_names_of_relative_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Location(".").name == tmp_path.name and Location(".").parent.name == tmp_path.parent.name
    (tmp_path / os.fsdecode(b"\xff.jpg")).touch()
    assert Location(".").child("\udcff.jpg").exists()


def test_missing_drivers_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fsspec")
    with pytest.raises(UserError, match="zzz://.*can't be opened"):
        Location("zzz://a/b").exists()
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(UserError, match="pip install .*s3fs"):
        Location("s3://a/b").exists()
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(UserError, match=r"pip install 'fastmoco\[remote\]'"):
        Location("memory://a/b").exists()


def test_what_a_driver_raises_is_an_os_error(monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    memory.pipe("/x/1.bin", b"1")

    def fail(*_: object, **__: object) -> bytes:
        raise RuntimeError("quota")

    place = Location("memory://x/1.bin")
    monkeypatch.setattr(type(memory), "cat_file", fail)
    with pytest.raises(OSError, match="quota"):
        place.pread(1, 0)
    monkeypatch.setattr(type(memory), "info", fail)
    with pytest.raises(UserError, match="can't be reached.*quota"):
        Location("memory://x/1.bin").is_file()
    monkeypatch.undo()
    memory.rm("/x", recursive=True)
