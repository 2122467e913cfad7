"""Reads the docstrings of dataclass fields, for --help and the help of the Python functions."""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import sys


def texts_of(kind: type) -> dict[str, str]:
    """Return the docstrings under the fields of a dataclass and its bases, each on one line. The
    source may be missing in a packed program: then there are none."""
    found: dict[str, str] = {}
    for cls in reversed(kind.__mro__):
        if dataclasses.is_dataclass(cls):
            found |= _docstrings(cls.__module__).get(cls.__qualname__, {})
    return found


@functools.cache
def _docstrings(module: str) -> dict[str, dict[str, str]]:
    """Return the text below each annotated field of a module, by class and field. Python does not
    keep it at run time, so it is read from the source. data_tools.parsing protects ast.parse from
    the garbage collector."""
    found: dict[str, dict[str, str]] = {}
    try:
        tree = ast.parse(inspect.getsource(sys.modules[module]))
    except OSError:
        return found
    for node in tree.body:
        if not isinstance(node, ast.ClassDef):
            continue
        fields = found.setdefault(node.name, {})
        for field, text in zip(node.body, node.body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
                and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
            ):
                fields[field.target.id] = " ".join(str(text.value.value).split())
    return found
