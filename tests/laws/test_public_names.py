"""The front door: the public names of fastmoco, and the commands that they go with."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
from setuptools.config.pyprojecttoml import apply_configuration
from setuptools.dist import Distribution

import fastmoco
from fastmoco.cli import COMMANDS, main

ROOT = Path(__file__).parents[2]
PUBLIC = {
    "prepare", "open_store", "Recipe", "MOCO_V1", "MOCO_V2", "MOCO_CIFAR", "RunOptions", "train",
    "load", "knn", "linear", "finetune", "embed", "export", "bench", "report", "compare", "views",
    "selftest", "doctor", "verify", "inspect",
}
WITHOUT_A_COMMAND = {
    "open_store", "load", "Recipe", "MOCO_V1", "MOCO_V2", "MOCO_CIFAR", "RunOptions",
}
FUNCTIONS = sorted(name for name in PUBLIC if name.islower())
# Flags that only print: a function returns everything.
OUTPUT = {"json", "per_class", "help"}
# Python's own arguments: callbacks, and settings as an object (flags: --augmentation.blur-p ...).
PYTHON = {"say", "show", "listeners", "options", "augmentation"}


def test_each_command_has_a_function_of_its_name():
    verbs = {"prepare" if verb == "prep" else verb for verb in COMMANDS}
    assert verbs | WITHOUT_A_COMMAND == PUBLIC == set(fastmoco.__all__)
    assert not verbs & WITHOUT_A_COMMAND


def test_every_name_loads_and_is_listed():
    for name in PUBLIC:
        assert getattr(fastmoco, name) is getattr(fastmoco, name), name
        assert name in dir(fastmoco)
    assert not hasattr(fastmoco, "prep")
    with pytest.raises(ImportError, match="prep"):
        from fastmoco import prep  # noqa: F401


def test_no_public_name_is_a_submodule():
    below = {path.stem for path in (ROOT / "fastmoco").iterdir()}
    assert not PUBLIC & below


def test_the_import_is_light():
    code = (
        "import sys, fastmoco; dir(fastmoco); fastmoco.Recipe, fastmoco.RunOptions; "
        "print(*{m.split('.')[0] for m in sys.modules})"
    )
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"torch", "torchvision", "numpy", "numba", "PIL", "rich", "tyro"}
    assert not heavy & set(seen.stdout.split())


def test_the_file_is_short():
    lines = (ROOT / "fastmoco" / "__init__.py").read_text().splitlines()
    assert len(lines) <= 70


@pytest.mark.parametrize("name", FUNCTIONS)
def test_help_is_enough(name):
    """It names each argument, the result, the errors and an example, without flags."""
    function = getattr(fastmoco, name)
    doc = inspect.getdoc(function)
    arguments = doc[doc.index("Arguments:"):doc.index("\nReturns ")]
    for argument in inspect.signature(function).parameters:
        assert re.search(rf"^    \*?{argument}: ", arguments, re.MULTILINE), argument
    assert "Raises UserError" in doc and f"fastmoco.{name}(" in doc[doc.index("Example:"):]
    assert "**flags" not in doc and not re.search(r"(?<![\w`-])--(?!json\b)[a-z]", doc)
    assert function.__module__ == "fastmoco" and function.__name__ == name


@pytest.mark.parametrize("verb", COMMANDS)
def test_the_arguments_of_a_function_are_the_flags_of_its_command(verb, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main([verb, "--help"])
    shown = capsys.readouterr().out
    flags = set(re.findall(r"^[^\w-]*--([A-Za-z][\w-]*)(?![\w.-])", shown, re.MULTILINE))
    function = getattr(fastmoco, "prepare" if verb == "prep" else verb)
    parameters = inspect.signature(function).parameters
    flags = {flag.replace("-", "_") for flag in flags}
    off = {flag for flag in flags if flag.startswith("no_") and flag not in parameters}
    assert all(parameters[flag[3:]].default is True for flag in off)
    flags = (flags - off) | {flag[3:] for flag in off}
    named = {n for n, p in parameters.items() if p.default is not p.empty}
    positional = {p.lower() for p in re.findall(r"\b[A-Z]{2,}\b", shown)}
    assert flags - OUTPUT <= set(parameters)
    assert named - PYTHON - positional <= flags


def test_py_typed_ships():
    found = Distribution()
    apply_configuration(found, ROOT / "pyproject.toml")
    assert "py.typed" in found.package_data["fastmoco"]
    assert (ROOT / "fastmoco" / "py.typed").is_file()
