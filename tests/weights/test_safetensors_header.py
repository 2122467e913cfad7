"""A safetensors header is read strictly, before the safetensors library sees the file."""

import json
import struct

import pytest

from tests.support.made_files.weight_files import refusal


def safetensors(header, data=b"", length=None):
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def entry(begin, end, shape, kind="F32"):
    return {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize("data", [
    safetensors({"a": entry(0, 8, [2]), "b": entry(4, 12, [2])}, bytes(12)),
    safetensors({"a": entry(0, 8, [2]), "b": entry(12, 16, [1])}, bytes(16)),
    safetensors({"a": entry(0, 80, [20])}, bytes(8)),
    safetensors({"a": entry(0, 8, [2])}, bytes(9)),
    safetensors({"a": entry(0, 8, [1 << 61, 2, 4])}, bytes(8)),
    safetensors({"a": entry(0, 8, [-2])}, bytes(8)), safetensors({"a": entry(8, 0, [2])}, bytes(8)),
    safetensors({"a": entry(0, 8, [2], "F31")}, bytes(8)),
    safetensors({"a": entry(0, 8, [2.0])}, bytes(8)), safetensors({"a": None}), safetensors([]),
    safetensors(b"{}", length=1 << 60), safetensors(b"{}" + b" " * (9 << 20)),
    safetensors(b"[" * 100_000), safetensors(b'{"a":' * 100_000), safetensors(b'{"a": "'),
    safetensors(b'{"__metadata__": {"a": NaN}}'), safetensors(b'{"a": 1, "a": 2}'),
    safetensors({"__metadata__": {"fastmoco": {"a": {}}}}), safetensors({"__metadata__": []}), b"",
    b'"' * 100_000, safetensors(b'"\\' * 100_000),
], ids=lambda data: repr(data[8:60]))
def test_safetensors_with_a_strange_header_is_one_line(tmp_path, data, monkeypatch):
    import safetensors

    monkeypatch.setattr(safetensors, "safe_open", lambda *_, **__: pytest.fail("was asked"))
    assert "cut short" in refusal(tmp_path, data, "bad.safetensors")


def test_deep_metadata_are_refused_before_they_are_parsed(tmp_path):
    for told in ("[" * 40 + "]" * 40, "[" * 100_000, "NaN", '{"a": 1, "a": 2}'):
        data = safetensors({"__metadata__": {"fastmoco": told}})
        assert "its header" in refusal(tmp_path, data, "bad.safetensors")
