"""The bounded reader gives what Python's own gives, and refuses what would hang or fill it."""

import pickle
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_tools.safe_reading.bounded_pickle import BoundedPickle, PickleRefused
from tests.support.bounds import bounded

SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-(1 << 90), 1 << 90), st.floats(allow_nan=False),
    st.text(max_size=20), st.binary(max_size=20),
)
KEYS = st.one_of(st.text(max_size=9), st.integers(-(1 << 59), 1 << 59), st.tuples(st.integers()))
VALUES = st.recursive(
    SCALARS | st.frozensets(st.integers(0, 99)) | st.sets(st.text(max_size=3)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4)
    | st.tuples(inner, inner),
    max_leaves=20,
)


@settings(max_examples=100, deadline=None)
@given(value=VALUES, protocol=st.sampled_from([4, 5]))
def test_a_value_is_the_one_that_python_reads(value: Any, protocol: int) -> None:
    shared = [value, value, (value,)]
    reader = BoundedPickle(pickle.dumps(shared, protocol) + b"more")
    found = reader.load()
    assert found == shared
    assert found[0] is found[1] or type(value) is not list
    assert reader.at == len(pickle.dumps(shared, protocol))


@pytest.mark.parametrize("protocol", range(6))
def test_every_protocol(protocol: int) -> None:
    value = {"a": [1, -1, 1 << 70, 300, 70000, 1.5, True, False, None], "ä\n'": (1, 2, 3, 4), 5: ()}
    assert BoundedPickle(pickle.dumps(value, protocol)).load() == value


@pytest.mark.parametrize(
    ("program", "value"),
    [
        (b"S'a\\n'\n.", b"a\n"), (b"T\3\0\0\0abc.", b"abc"), (b"U\1a.", b"a"),
        (b"Va\\u00e4\n.", "aä"),
        (b"I01\n.", True), (b"L5L\n.", 5), (b"F1.5\n.", 1.5), (b"(I1\nI2\nl.", [1, 2]),
        (b"(I1\nI2\nd.", {1: 2}), (b"(I1\nI2\n1N.", None), (b"I1\n0N.", None),
        (b"I1\n2\x86.", (1, 1)),
        (b"Np0\n0g0\n.", None), (b"\x96\2\0\0\0\0\0\0\0ab.", bytearray(b"ab")),
    ],
)
def test_opcodes_that_python_no_longer_writes(program: bytes, value: Any) -> None:
    assert BoundedPickle(program).load() == value


class Named:
    pass


@pytest.mark.parametrize("value", [Named, Named(), print, range(3), complex(1, 2)])
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_no_name_is_read(value: object, protocol: int) -> None:
    with pytest.raises(PickleRefused, match="asks for .*, which is not read|opcode"):
        BoundedPickle(pickle.dumps(value, protocol)).load()


def eight(size: int) -> bytes:
    return size.to_bytes(8, "little")


HASHED = b")q\1" + b"h\1\x86q\1" * 60  # a tuple of two of a tuple of two of ...


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        (b"\x96" + eight(6 << 30) + b"ab.", "claims more bytes"),
        (b"\x8e" + eight(6 << 30) + b"ab.", "claims more bytes"),
        (b"\x8d" + eight(1 << 62) + b"ab.", "claims more bytes"),
        (b"\x95" + eight(1 << 62) + b"N.", "claims more bytes"),
        (b"T\xff\xff\xff\xff.", "claims more bytes"),
        (b"\x8b\0\0\0\1" + bytes(1 << 24) + b".", "integer of 16777216 bytes"),
        (b"L" + b"9" * 100_000 + b"L\n.", "cut short"),
        (b"}" + HASHED + b"Ns.", "keys that are not"),
        (b"\x8f(" + HASHED + b"\x90.", "keys that are not"),
        (b"(" + HASHED + b"\x91.", "keys that are not"),
        (b"(" + HASHED + b"Nd.", "keys that are not"),
        (HASHED + b".", "unfolds"), (b"]" * 9999 + b"a" * 9998 + b".", "nested deeper"),
        (b"]q\0h\0a.", "holds itself"), (b"(" + b"N2" * 600_000 + b"t.", "values"),
        (b"N" + b"\x94" * 1_000_001 + b".", "values"),
        (b"(" + b"\x8f" * 200_001 + b"t.", "containers"),
        (b"]]s.", "damaged"), (b"}Na.", "damaged"), (b"Nb.", "damaged"), (b"NR.", "damaged"),
        (b"\x82\1.", "opcode 0x82"), (b"P1\n.", "opcode 0x50"), (b"NQ.", "outside it"),
        (b"\x80\x63N.", "protocol"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_hangs_or_fills_other_readers_is_refused(program: bytes, reason: str) -> None:
    with bounded(5, 300), pytest.raises(PickleRefused, match=reason):
        BoundedPickle(program).load()


def plain(value: Any) -> bool:
    """Whether a value holds nothing but Python's own types."""
    if isinstance(value, dict):
        return all(plain(x) for pair in value.items() for x in pair)
    if isinstance(value, list | tuple | set | frozenset):
        return all(plain(x) for x in value)
    return value is None or isinstance(value, bool | int | float | str | bytes | bytearray)


@settings(max_examples=150, deadline=None)
@given(value=VALUES, data=st.data())
def test_changed_pickles_are_refused_or_plain_values(value: Any, data: st.DataObject) -> None:
    content = bytearray(pickle.dumps([value, value], 4))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = BoundedPickle(bytes(content)).load()
    except PickleRefused as refusal:
        assert str(refusal)
    else:
        assert plain(found)
