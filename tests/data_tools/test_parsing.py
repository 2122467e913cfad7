"""Source code is parsed without SystemError, whatever the garbage collector does meanwhile."""

import ast
import gc
import inspect
import io
import threading
import traceback

import numpy as np
import pytest

from data_tools import parsing


@pytest.fixture
def collector():
    """Runs often, and something that it runs formats a traceback, which parses."""

    def litter(phase, info):
        try:
            raise ValueError(len([phase, info]) / 2)
        except ValueError:
            traceback.format_exc()
        ast.parse("f(1)")

    before = gc.get_threshold()
    gc.callbacks.append(litter)
    gc.set_threshold(10)
    yield
    gc.set_threshold(*before)
    gc.callbacks.remove(litter)


SOURCE = "\n".join(f"def f{i}(a):\n    return [x for x in a if x > {i}]" for i in range(50))


def npy():
    file = io.BytesIO()
    np.save(file, np.zeros(3))
    return io.BytesIO(file.getvalue())


@pytest.mark.parametrize(
    "parse",
    [lambda: ast.parse(SOURCE), lambda: ast.literal_eval(str([[i] * 9 for i in range(99)])),
     lambda: inspect.getsource(parsing.Collection), lambda: np.load(npy())],
    ids=["source", "literal", "class", "npy header"],
)
def test_parsing_is_not_disturbed_by_the_collector(collector, parse):
    for _ in range(20):
        assert parse() is not None
    assert gc.isenabled()


def test_parsing_in_threads_turns_the_collector_on_again(collector):
    failed = []

    def work():
        try:
            for _ in range(20):
                ast.parse(SOURCE)
        except SystemError as error:
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed and gc.isenabled()


def test_a_collector_that_was_off_stays_off():
    collection = parsing.Collection()
    gc.disable()
    try:
        with collection, collection:
            assert not gc.isenabled()
        assert not gc.isenabled()
    finally:
        gc.enable()
    with pytest.raises(SyntaxError):
        ast.parse("(")
    assert gc.isenabled()


def test_the_guard_is_put_there_once():
    guarded = ast.parse
    parsing.guard()
    assert ast.parse is guarded
