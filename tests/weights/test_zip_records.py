"""Zip files that disagree with themselves are refused; a bomb costs no memory."""

import io
import os
import struct
import zipfile

import pytest
import torch

from bench.fuzz.checkpoint_flips import equal
from data_tools.errors import UserError
from fastmoco.weights.read import read_weights
from fastmoco.weights.write import write_weights
from fastmoco.weights.zip_records import read_records
from tests.support.bounds import bounded
from tests.support.made_files.weight_files import pickled_content, refusal, zipped

CONTENT = {"state_dict": {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4)}, "epoch": 3}


def from_torch(tmp_path, content=CONTENT):
    torch.save(content, tmp_path / "a.pth")
    return bytearray((tmp_path / "a.pth").read_bytes())


def test_every_byte_of_a_foreign_zips_structure_counts(tmp_path):
    """Any changed bit outside the numbers is refused, or gives the same content."""
    data = from_torch(tmp_path)
    wanted = read_weights(tmp_path / "a.pth").content
    refused = 0
    for at in range(0, len(data), 3):
        changed = bytearray(data)
        changed[at] ^= 1 << at % 8
        (tmp_path / "b.pth").write_bytes(changed)
        try:
            assert equal(read_weights(tmp_path / "b.pth").content, wanted), at
        except UserError:
            refused += 1
    assert refused > 150


@pytest.mark.parametrize("extra", [b"", b"comment"])
def test_bytes_before_between_and_behind_records_are_refused(tmp_path, extra):
    data = from_torch(tmp_path)
    assert "cut short" in refusal(tmp_path, data + (extra or b"\0"))
    assert "cut short" in refusal(tmp_path, b"\0" + data)
    first = zipfile.ZipFile(tmp_path / "a.pth").infolist()[1].header_offset
    assert "damaged" in refusal(tmp_path, data[:first] + b"\0" * 8 + data[first:])


def test_a_zip_behind_other_bytes_is_refused(tmp_path):
    """Its directory counts these bytes, unlike that in the test above."""
    path = tmp_path / "made.pth"
    path.write_bytes(b"PK\3\4" + bytes(60))
    with zipfile.ZipFile(path, "a") as archive:
        for name in ("data.pkl", "data/0"):
            data = pickled_content() if name == "data.pkl" else bytes(24)
            archive.writestr(f"made/{name}", data)
    assert "there are bytes before its first record" in refusal(tmp_path, path.read_bytes())


def test_a_descriptor_that_disagrees_is_refused(tmp_path):
    data = from_torch(tmp_path)
    at = data.find(b"PK\7\x08")
    for field in (4, 8, 12):
        changed = bytearray(data)
        changed[at + field] ^= 1
        assert "is not where its directory says" in refusal(tmp_path, changed)


def test_a_zip_that_python_wrote_opens_and_a_compressed_one_does_not(tmp_path):
    data = zipped(tmp_path, pickled_content())
    assert torch.equal(read_weights(tmp_path / "made.pth").content["a"], torch.zeros(6))
    assert data
    for method in (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        assert "compressed" in refusal(tmp_path, zipped(tmp_path, pickled_content(), method))


def test_compressed_records_are_not_unpacked(tmp_path):
    bomb = zipped(tmp_path, pickled_content(), zipfile.ZIP_DEFLATED, **{"data/1": bytes(1 << 26)})
    assert len(bomb) < 1 << 17
    with bounded(5, 20):
        assert "compressed" in refusal(tmp_path, bomb)


def test_encrypted_records_are_named(tmp_path):
    data = from_torch(tmp_path)
    for info in zipfile.ZipFile(tmp_path / "a.pth").infolist():
        data[info.header_offset + 6] |= 1
    at = data.find(b"PK\1\2")
    while at >= 0:
        data[at + 8] |= 1
        at = data.find(b"PK\1\2", at + 4)
    assert "not a checkpoint: it is encrypted" in refusal(tmp_path, data)


@pytest.mark.parametrize("second", ["data.pkl", "DATA.PKL", "Data/0"])
def test_a_name_twice_is_refused(tmp_path, second):
    """torch's reader ignores case."""
    with pytest.warns(UserWarning) if second == "data.pkl" else open(os.devnull):
        path = tmp_path / "made.pth"
        with zipfile.ZipFile(path, "w") as archive:
            for name in ("data.pkl", "version", "data/0", second):
                archive.writestr(f"made/{name}", pickled_content() if "p" in name else bytes(24))
    assert "twice" in refusal(tmp_path, path.read_bytes())


def test_torchscript_and_other_zips_are_named(tmp_path):
    data = zipped(tmp_path, pickled_content(), zipfile.ZIP_DEFLATED, **{"constants.pkl": b"."})
    assert "TorchScript" in refusal(tmp_path, data)
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.writestr("photos/a.jpg", b"123")
    assert "without data.pkl" in refusal(tmp_path, (tmp_path / "photos.zip").read_bytes())


def test_a_file_written_with_checksums_off_opens(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(CONTENT, tmp_path / "a.pth")
        write_weights(CONTENT, tmp_path / "b.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    assert equal(read_weights(tmp_path / "a.pth").content, CONTENT)


def test_a_storage_beyond_four_gigabytes_is_found_where_torch_puts_it(tmp_path):
    """The files are sparse: they take no room on the disk."""
    size = (4 << 30) + 4096
    with open(tmp_path / "zeros", "wb") as file:
        file.truncate(size)
    storage = torch.UntypedStorage.from_file(str(tmp_path / "zeros"), False, size)
    large = torch.empty(0, dtype=torch.uint8).set_(storage, 0, (size,), (1,))

    class Sparse(io.FileIO):
        def write(self, data):
            if len(data) == size:
                return self.seek(size, 1) and size
            return super().write(data)

    with Sparse(tmp_path / "a.pth", "w+b") as file:
        torch.serialization.set_crc32_options(False)  # four seconds
        try:
            torch.save({"a": large, "b": torch.ones(5)}, file)
        finally:
            torch.serialization.set_crc32_options(True)
        records = read_records(file)
        assert records["data/0"].size == size
        assert os.pread(file.fileno(), 20, records["data/1"].start) == struct.pack("<5f", *[1] * 5)
        file.seek(records["data/0"].start - 60)
        with zipfile.ZipFile(file, "a") as archive:
            archive.writestr("archive/more", b"123")
        assert os.pread(file.fileno(), 3, read_records(file)["more"].start) == b"123"
