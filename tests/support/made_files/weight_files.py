"""Weight files made by hand: zips, and programs in pickle's language."""

import io
import zipfile

import pytest
import torch

from data_tools.errors import UserError
from fastmoco.weights.read import read_weights


def refusal(tmp_path, data, name="bad.pth"):
    """The one line, without the folder, whose name holds words of the test's."""
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError) as error:
        read_weights(tmp_path / name)
    assert "\n" not in str(error.value)
    return str(error.value).replace(str(tmp_path), "")


def zipped(tmp_path, pickled, method=zipfile.ZIP_STORED, **more):
    """A zip of Python's with this data.pkl."""
    path = tmp_path / "made.pth"
    with zipfile.ZipFile(path, "w", method) as archive:
        records = {"data.pkl": pickled, "version": b"3\n", "byteorder": b"little",
                   "data/0": bytes(24), **more}
        for name, data in records.items():
            archive.writestr(f"made/{name}", data)
    return path.read_bytes()


def pickled_content():
    with zipfile.ZipFile(io.BytesIO(whole_zip())) as archive:
        return archive.read("archive/data.pkl")


def whole_zip():
    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(6)}, buffer)
    return buffer.getvalue()


def program(*parts):
    return b"\x80\x02" + b"".join(parts) + b"."


def number(n):
    return b"\x8a\x08" + n.to_bytes(8, "little")


def text(words):
    return b"X" + len(words).to_bytes(4, "little") + words.encode()


def tensor(size, stride, items=6, offset=0, storage=b"FloatStorage", key="0"):
    return b"".join((
        b"ctorch._utils\n_rebuild_tensor_v2\n((", text("storage"), b"ctorch\n", storage, b"\n",
        text(key), text("cpu"), number(items), b"tQ", number(offset),
        b"(", *map(number, size), b"t(", *map(number, stride), b"t\x89N", b"tR",
    ))
