"""Files that turn into something else while prep reads them: a reason each, and no waiting."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from data_tools.errors import UserError
from data_tools.policy import Policy
from data_tools.prepare import prepare
from data_tools.safe_reading.regular import open_binary, open_regular, read_regular
from data_tools.sources.registry import open_source
from tests.support.folders import images

Write = Callable[..., Path]
COUNT = 300
ONE = Policy(workers=1)
CUT = Policy(shard_size=8000 / 1e6)


def become_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def become_socket(path: Path) -> None:
    path.unlink()
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(path.parent)  # the path of a socket is short
        try:
            server.bind(path.name)
        finally:
            os.chdir(here)


def become_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def become_loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def become_device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def grow(path: Path) -> None:
    with open(path, "ab") as file:
        file.write(b"more")


def shrink(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 100)
CHANGES = {
    become_pipe: "a pipe, not a file", become_socket: "a socket, not a file",
    become_folder: "Is a directory", become_loop: "Too many levels of symbolic links",
    become_device: "a device, not a file", grow: "changed since it was listed",
    shrink: "changed since it was listed",
}


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_what_a_file_has_become_is_the_reason_and_nothing_waits_for_it(
    photos: Path, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    changed = images(photos)[200:202]
    source = open_source(photos)
    for path in changed:
        change(path)
    manifest = prepare(source, tmp_path / "out", policy=CUT)
    assert manifest.samples == COUNT - 2 and manifest.quarantined == {"can't be read": 2}
    assert CHANGES[change] in (tmp_path / "out" / "quarantine.jsonl").read_text()


def test_pipes_that_a_list_names(photos: Path, tmp_path: Path) -> None:
    pipe = images(photos)[7]
    become_pipe(pipe)
    rows = "".join(f"{path.relative_to(photos)},{path.parent.name}\n" for path in images(photos))
    (photos / "list.csv").write_text("path,label\n" + rows)
    manifest = prepare(photos / "list.csv", tmp_path / "out")
    assert manifest.samples == COUNT - 1
    assert "a pipe, not a file" in (tmp_path / "out" / "quarantine.jsonl").read_text()


def test_opening_anything_but_a_file_is_an_error(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, reason in ((tmp_path / "pipe", "a pipe"), (tmp_path, "Is a directory"),
                         ("/dev/null", "a device"), (tmp_path / "none", "No such file")):
        before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
        for open_it in (open_regular, open_binary, lambda p: read_regular(p, 3)):
            with pytest.raises(OSError, match=reason) as error:
                open_it(path)
            assert error.value.filename == os.fspath(path)
        if before:
            assert len(os.listdir("/proc/self/fd")) == before  # nothing stays open
    (tmp_path / "x").write_bytes(b"abc")
    assert read_regular(tmp_path / "x", 3) == b"abc"
    with open_binary(tmp_path / "x") as file:
        assert file.read(2) == b"ab"


def test_a_pipe_in_place_of_the_source_is_refused(tmp_path: Path) -> None:
    for name in ("x", "x.tar", "x.csv", "x.parquet", "x.beton"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(UserError, match="a pipe, not a file"):
            prepare(tmp_path / name, tmp_path / "out")
