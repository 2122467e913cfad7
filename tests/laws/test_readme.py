"""The Python of the READMEs runs unchanged, their commands and files exist, and their file maps are
up to date."""

import re
import shlex
from pathlib import Path

import pytest

from fastmoco.cli import COMMANDS, module_of
from fastmoco.terminal.parse import parse
from tests.support.file_map import PACKAGES, ROOT, with_map

README = ROOT / "README.md"
READMES = [README, *(ROOT / package / "README.md" for package in PACKAGES)]
MOST_BYTES = 9_000


def blocks(language: str, readme: Path) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", readme.read_text(), re.S)


def test_the_front_page_is_short():
    assert README.stat().st_size <= MOST_BYTES


def test_the_python_runs(folder, tmp_path, monkeypatch):
    (code,) = blocks("python", README)
    assert len(code.splitlines()) <= 12
    for name in ("photos/train", "photos/val"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(folder)
    (tmp_path / "photos/a.jpg").symlink_to(next(folder.rglob("*.jpg")))
    monkeypatch.chdir(tmp_path)
    # A size that a test can afford; every other word is the README's.
    there = "replace(fastmoco.MOCO_V2, epochs=100)"
    assert there in code
    small = "arch='resnet-mini', size=16, batch=16, bn_splits=2, K=64, epochs=1)"
    names: dict = {}
    exec(code.replace(there, f"replace(fastmoco.MOCO_V2, {small}"), names)
    assert (tmp_path / "runs" / "photos" / "checkpoint.pt").exists()
    assert names["features"].shape[0] == 1


def test_the_commands_parse():
    seen = set()
    for readme in READMES:
        for block in blocks("console", readme):
            for command, rest in re.findall(r"^\$ fastmoco (\w+) (.*)$", block, re.M):
                assert command in COMMANDS, f"{readme}: {command}"
                if "--resume" not in rest:  # it looks for the run's directory
                    parse(module_of(command).Args, shlex.split(rest, comments=True), command)
                    seen.add(command)
    assert seen >= {"prep", "verify", "inspect", "train", "knn", "export", "linear", "bench"}


@pytest.mark.parametrize("readme", [*READMES, ROOT / "bench" / "README.md"],
                         ids=lambda path: path.parent.name)
def test_every_link_and_module_it_names_is_there(readme):
    text = readme.read_text()
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
        assert (readme.parent / target).exists(), f"{readme}: {target}"
    for module in re.findall(r"python -m ((?:bench|tests)[\w.]*)", text):
        path = ROOT.joinpath(*module.split("."))
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module


@pytest.mark.parametrize("package", PACKAGES)
def test_the_file_maps_match_the_modules(package):
    text = (ROOT / package / "README.md").read_text()
    assert text == with_map(text, package), "run python -m tests.support.file_map"
