"""The README's ten lines of Python run unchanged, and its commands exist."""

import re
import shlex
from pathlib import Path

from fastmoco.cli import module_of
from fastmoco.terminal.parse import parse

README = Path(__file__).parents[2] / "README.md"


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(), re.S)


def test_the_python_runs(folder, tmp_path, monkeypatch):
    (code,) = blocks("python")
    assert len(code.splitlines()) <= 12
    for name in ("photos/train", "photos/val"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    # a size that a test can afford; everything else is the README's
    there = "replace(MOCO_V2, epochs=100)"
    assert there in code
    small = "arch='resnet-mini', size=16, batch=16, bn_splits=2, K=64, epochs=1)"
    exec(code.replace(there, f"replace(MOCO_V2, {small}"), {})
    assert (tmp_path / "runs" / "photos" / "checkpoint.pt").exists()


def test_the_commands_parse():
    commands = {"prep", "verify", "inspect", "views", "train", "knn"}
    seen = set()
    for block in blocks("console"):
        for line in re.findall(r"^\$ fastmoco (\w+) (.*)$", block, re.M):
            command, rest = line
            if command in commands and "--resume" not in rest:
                parse(module_of(command).Args, shlex.split(rest, comments=True), command)
                seen.add(command)
    assert seen == commands


def test_every_file_it_names_is_there():
    for name in re.findall(r"^(\w+/[\w/]+\.py|\w+/)\s", README.read_text(), re.M):
        assert (README.parent / name).exists(), name
