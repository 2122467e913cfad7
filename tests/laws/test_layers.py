"""Folders are on floors: each imports only from folders below it, and no files form a circle.

Imports inside functions and under TYPE_CHECKING count as all others do.
"""

import ast
import functools
import graphlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Lowest first. A name is a folder, or a file at the top of its package; those of one floor do not
# import each other.
FLOORS = {
    "data_tools": [
        ["errors", "label_values", "machine", "parsing", "progress"],
        ["policy", "quantities"],
        ["safe_reading"],
        ["files", "lock", "store"],
        ["images", "manifest", "subset"],
        ["formats"],
        ["open"],
        ["sources"],
        ["preparation"],
        ["inspection", "prepare"],
        ["planning"],
    ],
    "fastmoco": [
        ["settings"],
        ["recipe"],
        ["draws", "run_options", "system"],
        ["kernels", "model", "runs"],
        ["augmentation", "loading", "terminal", "weights"],
        ["evaluation"],
        ["reporting", "training"],
        ["checks", "measuring"],
        ["verbs"],
        ["commands"],
        ["cli"],
        ["__main__"],
    ],
    "bench": [
        ["shared"],
        ["demo", "fuzz", "learning"],
        ["loading", "prep", "training"],
        ["faults", "gpu"],
    ],
}
MOST_FLOORS, MOST_FILES, MOST_AT_THE_TOP = 12, 24, 8
HEAVY = {"torch", "torchvision", "kornia", "numba", "rich"}


@functools.cache
def imports(path: Path) -> set[str]:
    """The modules that a file imports, and the names that it imports from them, dotted."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {node.module} | {f"{node.module}.{a.name}" for a in node.names}
    return found


def roots(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(path)}


def modules(package: str) -> dict[str, Path]:
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in (ROOT / package).rglob("*.py")
    }


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


@pytest.mark.parametrize("package", FLOORS)
def test_every_room_has_a_floor_and_imports_downwards(package):
    floors, files = FLOORS[package], modules(package)
    floor = {name: i for i, names in enumerate(floors) for name in names}
    assert {room(name) for name in files} - {""} == set(floor)
    assert len(floors) <= MOST_FLOORS
    for name, path in files.items():
        for other in imports(path) & set(files) - {package}:
            if room(name) and room(other) != room(name):
                assert floor[room(other)] < floor[room(name)], f"{name} imports {other}"


@pytest.mark.parametrize("package", FLOORS)
def test_no_files_import_each_other_in_a_circle(package):
    files = modules(package)
    graph = {name: imports(path) & set(files) - {name} for name, path in files.items()}
    # An import of a module also names its package, whose own file is not what it is after.
    sorter = graphlib.TopologicalSorter(
        {name: {o for o in others if not name.startswith(f"{o}.")}
         for name, others in graph.items()}
    )
    assert len(list(sorter.static_order())) == len(graph)  # a circle raises CycleError


def test_no_folder_is_crowded():
    for package in (*FLOORS, "tests"):
        for folder in {path.parent for path in (ROOT / package).rglob("*.py")}:
            assert len(list(folder.glob("*.py"))) <= MOST_FILES, folder
    top = [path.name for path in (ROOT / "fastmoco").iterdir() if path.is_file()]
    assert len(top) <= MOST_AT_THE_TOP, top


def test_every_folder_says_what_lives_there():
    for package in FLOORS:
        for folder in {path.parent for path in modules(package).values()}:
            tree = ast.parse((folder / "__init__.py").read_text())
            text = ast.get_docstring(tree)
            assert text and text.endswith("."), folder
            if folder.parent.name in ("fastmoco", "data_tools"):
                assert "mports " in text, f"{folder}: what may it import?"
                assert len(tree.body) == 1, f"{folder}: its __init__ holds more than a sentence"


def imported_tests(source: str) -> list[str]:
    """The test files and conftests that a source imports, also in code that it runs as a string."""
    return re.findall(r"\b(?:from|import) +(tests(?:\.\w+)*\.(?:test_\w+|conftest))\b", source)


def test_no_test_imports_another():
    """Tests share code through tests/support, so that each can change or go by itself."""
    assert imported_tests("RUN = 'from tests.a.test_b import C'") == ["tests.a.test_b"]
    for name in ("import tests.test_draws", "from tests.conftest import folder"):
        assert imported_tests(name)
    assert not imported_tests("from tests.support.training_runs import RECIPE")
    for path in (ROOT / "tests").rglob("*.py"):
        if path != Path(__file__):
            assert not imported_tests(path.read_text()), path


def test_data_tools_stands_alone():
    for path in modules("data_tools").values():
        assert not roots(path) & (HEAVY | {"fastmoco", "ffcv", "cv2"}), path


def test_one_folder_imports_rich_and_one_names_cuda():
    for name, path in modules("fastmoco").items():
        assert "rich" not in roots(path) or room(name) == "terminal", path
        assert "torch.cuda" not in path.read_text() or room(name) == "system", path


def test_recipes_and_help_import_nothing_heavy():
    code = (
        "import sys, fastmoco.terminal.parse, fastmoco.cli, fastmoco.runs.lock; "
        "from fastmoco.cli import COMMANDS, command_of; "
        "[command_of(verb) for verb in COMMANDS]; "
        "print(sorted({m.split('.')[0] for m in sys.modules}))"
    )
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not (HEAVY | {"numpy", "PIL"}) & set(ast.literal_eval(seen.stdout))
