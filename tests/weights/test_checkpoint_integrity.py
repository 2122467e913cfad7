"""A changed checkpoint of ours is refused or harmless."""

import io
import json
import zipfile

import pytest
import torch

from bench.fuzz.checkpoint_flips import equal, flip_and_open
from data_tools.errors import UserError
from fastmoco.weights import checkpoint as checkpoints
from fastmoco.weights import record_digests
from fastmoco.weights.checkpoint import NO_CHECKSUMS, NO_DIGESTS


def test_flipped_bits_are_refused_or_harmless(small_checkpoint, tmp_path):
    counts = flip_and_open(tmp_path / "checkpoint.pt", 1500)
    assert counts["silent"] == counts["uncaught"] == 0
    assert counts["refused"] > 500 and counts["same"] > 50  # time stamps and padding


def test_a_flip_in_the_length_of_a_name_is_refused(small_checkpoint, tmp_path):
    """torch finds a record's numbers by the length of the name in the record's own header."""
    path = tmp_path / "checkpoint.pt"
    whole = path.read_bytes()
    for record in zipfile.ZipFile(io.BytesIO(whole)).infolist():
        for bit in range(6):
            changed = bytearray(whole)
            changed[record.header_offset + 26] ^= 1 << bit
            path.write_bytes(changed)
            with pytest.raises(UserError, match="damaged|cut short"):
                checkpoints.load(path)


def test_a_record_whose_two_names_differ_is_refused(small_checkpoint, tmp_path):
    path = tmp_path / "checkpoint.pt"
    whole = path.read_bytes()
    for record in zipfile.ZipFile(io.BytesIO(whole)).infolist():
        changed = bytearray(whole)
        changed[record.header_offset + 30 + len(record.filename) - 1] ^= 1
        path.write_bytes(changed)
        with pytest.raises(UserError, match="is not where its directory says"):
            checkpoints.load(path)


def test_a_record_marked_as_a_folder_is_refused(small_checkpoint, tmp_path):
    """In this case torch's reader reads nothing, and returns uninitialised memory."""
    path = tmp_path / "checkpoint.pt"
    whole = path.read_bytes()
    at, found = whole.find(b"PK\1\2"), 0
    while at >= 0:
        changed = bytearray(whole)
        changed[at + 38] ^= 0x10
        path.write_bytes(changed)
        with pytest.raises(UserError, match="damaged: its directory has a folder"):
            checkpoints.load(path)
        at, found = whole.find(b"PK\1\2", at + 4), found + 1
    assert found > 20


def rewritten(path, change):
    """Rewrites a zip by Python, with correct checksums, after change(records)."""
    with zipfile.ZipFile(path) as archive:
        records = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in change(records).items():
            archive.writestr(name, data)


def test_other_numbers_under_right_zip_checksums_are_refused(small_checkpoint, tmp_path):
    path = tmp_path / "checkpoint.pt"
    rewritten(path, lambda records: records)
    assert checkpoints.load(path).step == 7

    def change(records):
        name = next(n for n in records if "/data/" in n)
        return records | {name: records[name][:-1] + b"\1"}

    rewritten(path, change)
    with pytest.raises(UserError, match="damaged: data/0 in it is not what was written"):
        checkpoints.load(path)


def test_a_record_without_its_digest_is_refused(small_checkpoint, tmp_path):
    path = tmp_path / "checkpoint.pt"

    def change(records):
        name = next(n for n in records if n.endswith(record_digests.NAME))
        digests = json.loads(records[name])
        del digests["data/0"]
        return records | {name: json.dumps(digests).encode()}

    rewritten(path, change)
    with pytest.raises(UserError, match="its digests are of other records"):
        checkpoints.load(path)


def test_a_checkpoint_from_before_digests_opens_and_says_so(small_checkpoint, tmp_path):
    assert checkpoints.load(tmp_path / "checkpoint.pt").note == ""
    content = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    torch.save(content, tmp_path / "old.pt")
    old = checkpoints.load(tmp_path / "old.pt")
    assert old.note == NO_DIGESTS and equal(old.moco, small_checkpoint.moco)
    checkpoints.save(old, tmp_path / "again.pt")
    assert checkpoints.load(tmp_path / "again.pt").note == ""


def test_a_layout_without_checksums_says_so(small_checkpoint, tmp_path):
    content = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    torch.save(content, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert checkpoints.load(tmp_path / "old.pt").note == NO_CHECKSUMS


def test_the_same_content_gives_the_same_bytes(small_checkpoint, tmp_path):
    first = (tmp_path / "checkpoint.pt").read_bytes()
    checkpoints.save(small_checkpoint, tmp_path / "checkpoint.pt")
    assert (tmp_path / "checkpoint.pt").read_bytes() == first


@pytest.mark.parametrize("name", ["step", "plan", "versions", "clock", "optimizer", "origin"])
def test_a_field_of_another_type_is_one_line(small_checkpoint, tmp_path, name):
    content = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    torch.save(content | {name: 1.5}, tmp_path / "a.pt")
    with pytest.raises(UserError, match=f"its {name} is not of its type"):
        checkpoints.load(tmp_path / "a.pt")
