"""Flags and their help work whenever the garbage collector runs."""

import ast
import gc

import pytest
from tyro import _unsafe_cache

from fastmoco.cli import main
from fastmoco.settings import field_texts


def test_help_is_read_whatever_the_garbage_collector_does(capsys):
    """Help pages and tyro's errors parse the source of the flags; Python 3.11.7 raised SystemError
    there by chance."""

    def litter(phase, info):
        ast.parse("f(1)")  # as a traceback that a finalizer formats

    threshold = gc.get_threshold()
    gc.callbacks.append(litter)
    gc.set_threshold(10)
    try:
        for command in ("verify", "prep", "bench"):
            _unsafe_cache.clear_cache()
            field_texts._docstrings.cache_clear()
            with pytest.raises(SystemExit) as end:
                main([command, "--help"])
            assert end.value.code == 0
            _unsafe_cache.clear_cache()
            assert main([command, "x", "--json", "again"]) == 2  # tyro's error quotes a help text
    finally:
        gc.set_threshold(*threshold)
        gc.callbacks.remove(litter)
    assert "--json" in capsys.readouterr().out
