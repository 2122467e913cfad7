"""Algorithm 1, the set-up and the training loop stay short and plain enough to read."""

import ast
from pathlib import Path

import pytest

from fastmoco.model import moco
from fastmoco.training import run, setup, train

BLOCKS = (ast.For, ast.While, ast.If, ast.With, ast.Try)


def function(module, name):
    tree = ast.parse(Path(module.__file__).read_text())
    return next(n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == name)


def depth(node, outer=0):
    """The number of blocks around the innermost statement; elif counts as its if."""
    deepest = outer
    elifs = node.orelse if isinstance(node, ast.If) and len(node.orelse) == 1 else []
    for child in ast.iter_child_nodes(node):
        is_elif = isinstance(child, ast.If) and child in elifs
        deepest = max(deepest, depth(child, outer + (isinstance(child, BLOCKS) and not is_elif)))
    return deepest


def test_depth_counts_blocks():
    source = "for a in b:\n    if c:\n        d\n    elif e:\n        with f:\n            g"
    assert depth(ast.parse(source)) == 3


@pytest.mark.parametrize(
    ("module", "name", "lines", "blocks"),
    [
        (moco, "forward", 20, 1), (train, "train", 45, 3), (train, "run_through", 45, 3),
        (run, "batches", 45, 3), (setup, "start", 60, 3),
    ],
)
def test_a_knot_stays_untied(module, name, lines, blocks):
    found = function(module, name)
    assert found.end_lineno - found.lineno + 1 <= lines
    assert depth(found) <= blocks


def test_the_model_asks_no_mechanism_for_its_type():
    """Each mechanism owns its difference: the model reads encodes_keys and trains_keys."""
    names = {n.id for n in ast.walk(ast.parse(Path(moco.__file__).read_text()))
             if isinstance(n, ast.Name)}
    assert not names & {"Queue", "MemoryBank", "EndToEnd"}
