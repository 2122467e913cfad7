"""A changed checkpoint is refused or harmless; a hostile one costs neither time nor memory."""

import io
import json
import os
import pickle
import resource
import struct
import zipfile
from collections import Counter, OrderedDict

import pytest
import torch

from bench.fuzz.checkpoint_flips import equal, flip_and_open
from data_tools.errors import UserError
from fastmoco.recipe import MOCO_CIFAR
from fastmoco.weights import checkpoint as checkpoints
from fastmoco.weights import record_digests
from fastmoco.weights.checkpoint import NO_CHECKSUMS, NO_DIGESTS, Checkpoint
from fastmoco.weights.read import read_weights
from fastmoco.weights.write import write_weights
from fastmoco.weights.zip_records import read_records
from tests.support.command_line import refused

CONTENT = {"state_dict": {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4)}, "epoch": 3}


@pytest.fixture
def saved(tmp_path):
    """A small checkpoint, with every kind of field that a run's has."""
    torch.manual_seed(0)
    moco = {f"encoder_q.trunk.{i}.weight": torch.randn(3, 5) for i in range(8)}
    moco |= {"dictionary.keys": torch.randn(16, 4), "dictionary.pointer": torch.tensor(5)}
    optimizer = {"state": {i: {"momentum_buffer": torch.randn(3, 5)} for i in range(8)},
                 "param_groups": [{"lr": 0.03, "params": list(range(8)), "nesterov": False}]}
    checkpoint = Checkpoint(
        MOCO_CIFAR, moco, optimizer, {"scale": 65536.0}, 7, "abc", 96, [(0, 0.0, 18)],
        {"loss": torch.tensor(0.3), "count": 2}, 1, {"torch": "2"}, {"train_seconds": 1.5}, "",
    )
    checkpoints.save(checkpoint, tmp_path / "checkpoint.pt")
    return checkpoint


def test_flipped_bits_are_refused_or_harmless(saved, tmp_path):
    counts = flip_and_open(tmp_path / "checkpoint.pt", 1500)
    assert counts["silent"] == counts["uncaught"] == 0
    assert counts["refused"] > 500 and counts["same"] > 50  # time stamps and padding


def test_a_flip_in_the_length_of_a_name_is_refused(saved, tmp_path):
    """torch reads a record's numbers behind its own header, by the length of the name there."""
    path = tmp_path / "checkpoint.pt"
    whole = path.read_bytes()
    for record in zipfile.ZipFile(io.BytesIO(whole)).infolist():
        for bit in range(6):
            changed = bytearray(whole)
            changed[record.header_offset + 26] ^= 1 << bit
            path.write_bytes(changed)
            with pytest.raises(UserError, match="damaged|cut short"):
                checkpoints.load(path)


def test_a_record_whose_two_names_differ_is_refused(saved, tmp_path):
    path = tmp_path / "checkpoint.pt"
    whole = path.read_bytes()
    for record in zipfile.ZipFile(io.BytesIO(whole)).infolist():
        changed = bytearray(whole)
        changed[record.header_offset + 30 + len(record.filename) - 1] ^= 1
        path.write_bytes(changed)
        with pytest.raises(UserError, match="is not where its directory says"):
            checkpoints.load(path)


def test_a_record_marked_as_a_folder_is_refused(saved, tmp_path):
    """torch's reader reads nothing then, and gives memory that nobody wrote."""
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
    """The same zip, as Python writes it with right checksums, its records changed."""
    with zipfile.ZipFile(path) as archive:
        records = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in change(records).items():
            archive.writestr(name, data)


def test_other_numbers_under_right_zip_checksums_are_refused(saved, tmp_path):
    path = tmp_path / "checkpoint.pt"
    rewritten(path, lambda records: records)
    assert checkpoints.load(path).step == 7

    def change(records):
        name = next(n for n in records if "/data/" in n)
        return records | {name: records[name][:-1] + b"\1"}

    rewritten(path, change)
    with pytest.raises(UserError, match="damaged: data/0 in it is not what was written"):
        checkpoints.load(path)


def test_a_record_without_its_digest_is_refused(saved, tmp_path):
    path = tmp_path / "checkpoint.pt"

    def change(records):
        name = next(n for n in records if n.endswith(record_digests.NAME))
        digests = json.loads(records[name])
        del digests["data/0"]
        return records | {name: json.dumps(digests).encode()}

    rewritten(path, change)
    with pytest.raises(UserError, match="its digests are of other records"):
        checkpoints.load(path)


def test_a_checkpoint_from_before_digests_opens_and_says_so(saved, tmp_path):
    assert checkpoints.load(tmp_path / "checkpoint.pt").note == ""
    content = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    torch.save(content, tmp_path / "old.pt")
    old = checkpoints.load(tmp_path / "old.pt")
    assert old.note == NO_DIGESTS and equal(old.moco, saved.moco)
    checkpoints.save(old, tmp_path / "again.pt")
    assert checkpoints.load(tmp_path / "again.pt").note == ""


def test_a_layout_without_checksums_says_so(saved, tmp_path):
    content = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    torch.save(content, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert checkpoints.load(tmp_path / "old.pt").note == NO_CHECKSUMS


def test_the_same_content_gives_the_same_bytes(saved, tmp_path):
    first = (tmp_path / "checkpoint.pt").read_bytes()
    checkpoints.save(saved, tmp_path / "checkpoint.pt")
    assert (tmp_path / "checkpoint.pt").read_bytes() == first


@pytest.mark.parametrize("name", ["step", "plan", "versions", "clock", "optimizer", "origin"])
def test_a_field_of_another_type_is_one_line(saved, tmp_path, name):
    content = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    torch.save(content | {name: 1.5}, tmp_path / "a.pt")
    with pytest.raises(UserError, match=f"its {name} is not of its type"):
        checkpoints.load(tmp_path / "a.pt")


# Zips


def from_torch(tmp_path, content=CONTENT):
    torch.save(content, tmp_path / "a.pth")
    return bytearray((tmp_path / "a.pth").read_bytes())


def refusal(tmp_path, data, name="bad.pth"):
    """The one line, without the folder, whose name holds words of the test's."""
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError) as error:
        read_weights(tmp_path / name)
    assert "\n" not in str(error.value)
    return str(error.value).replace(str(tmp_path), "")


def test_every_byte_of_a_foreign_zips_structure_counts(tmp_path):
    """Every bit that is not one of a number: refused, or the same content."""
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
    """One whose directory knows of them, unlike that of the test above."""
    path = tmp_path / "made.pth"
    path.write_bytes(b"PK\3\4" + bytes(60))
    with zipfile.ZipFile(path, "a") as archive:
        for name in ("data.pkl", "data/0"):
            data = pickled_content() if name == "data.pkl" else bytes(24)
            archive.writestr(f"made/{name}", data)
    assert "something lies before its first record" in refusal(tmp_path, path.read_bytes())


def test_a_descriptor_that_disagrees_is_refused(tmp_path):
    data = from_torch(tmp_path)
    at = data.find(b"PK\7\x08")
    for field in (4, 8, 12):
        changed = bytearray(data)
        changed[at + field] ^= 1
        assert "is not where its directory says" in refusal(tmp_path, changed)


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


def test_a_zip_that_python_wrote_opens_and_a_compressed_one_does_not(tmp_path):
    data = zipped(tmp_path, pickled_content())
    assert torch.equal(read_weights(tmp_path / "made.pth").content["a"], torch.zeros(6))
    assert data
    for method in (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        assert "compressed" in refusal(tmp_path, zipped(tmp_path, pickled_content(), method))


def test_compressed_records_are_not_unpacked(tmp_path):
    bomb = zipped(tmp_path, pickled_content(), zipfile.ZIP_DEFLATED, **{"data/1": bytes(1 << 26)})
    assert len(bomb) < 1 << 17
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "compressed" in refusal(tmp_path, bomb)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # kB


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
    """torch's reader takes upper for lower case."""
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
    """Sparse, in and out."""
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


def test_a_pickle_that_claims_another_size_than_its_record_is_refused(tmp_path):
    for size in (0, 20, 28):
        data = zipped(tmp_path, pickled_content(), **{"data/0": bytes(size)})
        assert "of another size" in refusal(tmp_path, data)


# Pickles


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


HASHED = b")q\1" + b"h\1\x86q\1" * 60  # a tuple of two of a tuple of two of ...
KEYS, CUT, LARGER = "has keys that are not", "claims more bytes", "is larger than its storage"
UNFOLDS, NAMES, DEEP, CALLS = "unfolds to more", "nothing was run", "nested deeper", "calls"
# Each with the reason that it is to be refused for
HOSTILE = {
    "hashed tuple": (KEYS, program(b"}", HASHED, b"Ns")),
    "hashed in a set": (KEYS, program(b"c__builtin__\nset\n](", HASHED, b"e\x85R")),
    "counter by a call": (KEYS, program(b"ccollections\nOrderedDict\n](](", HASHED, b"Nee\x85R")),
    "colliding keys": (KEYS, program(b"}(", *(
        b"\x8a\x0a" + (i * ((1 << 61) - 1)).to_bytes(10, "little") + b"N" for i in range(20000)
    ), b"u")),
    "many numbers as keys": (
        KEYS, program(b"}(", *(number(i) + b"N" for i in range(20000)), b"u")),
    "long keys compared": (KEYS, program(
        b"}q\0", text("x" * 99999), b"q\1Nsh\0", text("x" * 99999), b"q\2Ns",
        b"h\2Ns" * 20000)),
    "text of 3 GB": (CUT, program(b"X\0\0\0\xc0abc")),
    "opcodes that torch lacks": ("opcode 0x96", program(b"\x96", (6 << 30).to_bytes(8, "little"))),
    "bytearray by a call": (
        CALLS, program(b"c__builtin__\nbytearray\n", number(6 << 30), b"\x85R")),
    "tensor by its class": (NAMES, program(b"ctorch\nFloatTensor\n", number(6 << 30), b"\x85R")),
    "untyped storage": (
        CALLS, program(b"ctorch.storage\nUntypedStorage\n", number(6 << 30), b"\x85R")),
    "copies of a text": (UNFOLDS, program(
        b"](c_codecs\nencode\nq\0", text("x" * 99999), b"q\1", text("latin1"), b"\x86q\2R",
        b"h\0h\2R" * 20000, b"e")),
    "copies of a list": (UNFOLDS, program(
        b"](cbuiltins\nset\nq\0](", *(text(f"{i}") for i in range(5000)), b"e\x85q\1R",
        b"h\0h\1R" * 5000, b"e")),
    "nested lists": (DEEP, program(b"]" * 30000, b"a" * 29999)),
    "nested marks": ("containers", program(b"(" * 200001)),
    "unfolding tuples": (UNFOLDS, program(HASHED)),
    "unfolding dicts": (UNFOLDS, program(b"](}q\0", *(
        b"}(" + text("a") + b"h\0" + text("b") + b"h\0uq\0" for _ in range(60)), b"e")),
    "unfolding names": (UNFOLDS, program(
        b"](}q\0(", *(text(f"{i}") + b"N" for i in range(5000)), b"u",
        *(b"}" + text("k" * 999) + b"h\0sq\0" for _ in range(60)), b"e")),
    "itself": ("holds itself", program(b"]q\0h\0a")),
    "itself in a dict": ("holds itself", program(b"}q\0", text("a"), b"h\0s")),
    "many sets": ("containers", program(b"(", b"\x8f" * 200001, b"t")),
    "many values": ("values", program(b"(", b"N" * 1100000, b"t")),
    "many memos": ("values", program(b"N", b"".join(
        b"r" + i.to_bytes(4, "little") for i in range(1_000_001)))),
    "grown storage": (LARGER, program(tensor([1 << 30], [1]))),
    "spread tensor": ("far larger", program(tensor([1 << 40, 2], [0, 1]))),
    "spread tensors": ("far larger", program(b"](", tensor([1 << 22, 2], [0, 1]) * 40, b"e")),
    "seen many times": (
        "far larger", program(b"](", tensor([1 << 20, 4], [0, 1]), b"q\0", b"h\0" * 10000, b"e")),
    "behind its storage": (LARGER, program(tensor([2], [1], offset=5))),
    "far behind": (LARGER, program(tensor([0], [1], offset=1 << 40))),
    "strides of its own": (LARGER, program(tensor([2, 3], [4, 1]))),
    "negative": ("shape", program(
        tensor([1], [1]).replace(b"(" + number(1) + b"t(", b"(J\xff\xff\xff\xfft("))),
    "storage of terabytes": (
        "more numbers than the file", program(tensor([1], [1], items=1 << 40))),
    "quantized": (NAMES, program(b"ctorch._utils\n_rebuild_qtensor\n(tR")),
    "meta": (NAMES, program(b"ctorch._utils\n_rebuild_meta_tensor_no_storage\n(tR")),
    "methods": ("sets the state", program(
        b"ccollections\nOrderedDict\n)R}", text("items"), b"Nsb")),
    "attributes": ("attributes", program(
        b"ctorch._utils\n_rebuild_parameter_with_state\n(", tensor([1], [1]), b"\x88N}",
        text("isfinite"), b"NstR")),
    "calls": (NAMES, program(b"cbuiltins\neval\n", text("1"), b"\x85R")),
    "Python 2's calls": (NAMES, program(b"c__builtin__\neval\n", text("1"), b"\x85R")),
    "extension": ("opcode", program(b"\x82\1")),
    "instance": ("opcode", program(b"(i__builtin__\neval\n")),
    "nothing": (CUT, b""), "no end": (CUT, b"\x80\x02N"), "empty stack": ("damaged", program()),
    "no mark": ("damaged", program(b"t")), "two values": ("damaged", program(b"NN")),
    "unknown memo": ("damaged", program(b"h\7")),
}


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("form", ["zipped", "old"])
def test_hostile_pickles_are_refused_before_torch_sees_them(tmp_path, monkeypatch, kind, form):
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("torch was asked"))
    reason, pickled = HOSTILE[kind]
    if form == "zipped":
        data = zipped(tmp_path, pickled)
    else:
        head = b"".join(pickle.dumps(v, 2) for v in (0x1950A86A20F9469CFC6C, 1001, {}))
        data = head + pickled.replace(number(6) + b"tQ", number(6) + b"NtQ") + pickle.dumps(
            ["0"], 2) + number(6)[2:] + bytes(24)
    before = resource.getrusage(resource.RUSAGE_SELF)
    said = refusal(tmp_path, data)
    assert reason in said or form == "old" and kind in ("nothing", "no end"), said
    after = resource.getrusage(resource.RUSAGE_SELF)
    assert after.ru_utime - before.ru_utime < 5 and after.ru_maxrss - before.ru_maxrss < 300_000


def test_the_programs_are_whole_but_for_their_fault(tmp_path):
    """The parts of the hostile files are read if nothing is wrong with them."""
    good = program(b"}(", text("a"), tensor([2, 3], [3, 1]), text("b"), tensor([4, 6], [0, 1]),
                   text("c"), b"ccollections\nOrderedDict\n)R", b"u")
    zipped(tmp_path, good)
    content = read_weights(tmp_path / "made.pth").content
    assert content["a"].shape == (2, 3) and content["b"].shape == (4, 6)
    head = b"".join(pickle.dumps(v, 2) for v in (0x1950A86A20F9469CFC6C, 1001, {}))
    old = good.replace(number(6) + b"tQ", number(6) + b"NtQ")
    (tmp_path / "old.pth").write_bytes(
        head + old + pickle.dumps(["0"], 2) + number(6)[2:] + bytes(24))
    assert read_weights(tmp_path / "old.pth").content["a"].shape == (2, 3)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol 3")
@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("zip_form", [True, False])
def test_what_torch_saves_is_read_as_torch_reads_it(tmp_path, protocol, zip_form):
    shared = torch.arange(12.0)
    content = {
        "views": [shared[2:8], shared.reshape(3, 4).T, shared[:1].expand(50)], "same": shared,
        "parameter": torch.nn.Parameter(torch.ones(2)), "empty": torch.zeros(0, 3),
        "scalar": torch.tensor(2), "half": torch.ones(3).half(), "b": torch.ones(3).bfloat16(),
        "bool": torch.tensor([True]), "complex": torch.ones(2, dtype=torch.complex64),
        "ordered": OrderedDict(a=1), "counter": Counter({3: 2, 7: 1}), "set": {1, 2},
        "size": torch.Size([2, 3]), "dtype": torch.float16, "device": torch.device("cpu"),
        "numbers": [1, -1, 1 << 40, 1 << 200, 1.5, True, None, 3j], "text": "ä\n",
        7: "number as a key", (1, "a"): "pair", "state": torch.nn.Linear(2, 2).state_dict(),
    }
    path = tmp_path / "a.pth"
    torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zip_form)
    assert equal(read_weights(path).content, torch.load(path, weights_only=True))


def test_settings_cannot_hide_the_methods_of_what_stands_for_them(tmp_path):
    hidden = program(b"}", text("hyper_parameters"), b"cargparse\nNamespace\n)\x81}",
                     text("items"), b"K\1sbs")
    zipped(tmp_path, hidden)
    assert list(read_weights(tmp_path / "made.pth").content["hyper_parameters"].items()) == []


# safetensors


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


# Full disks


@pytest.fixture
def small_files():
    """Limits the size of files, as a full disk does, for write_weights."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_checkpoint_that_is_cut_at_any_byte_says_why_and_leaves_the_old_one(
    saved, tmp_path, small_files
):
    path = tmp_path / "checkpoint.pt"
    before = path.read_bytes()
    for size in (0, 100, 2000, len(before) // 2, len(before) - 3000, len(before) - 1):
        small_files(size)
        try:
            with pytest.raises(UserError, match="File too large.*the last one is whole"):
                checkpoints.save(saved, path)
        finally:
            small_files(resource.RLIM_INFINITY)
        assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


class FullDisk:
    """A disk with room for `room` bytes."""

    def __init__(self, room):
        self.room = room

    def write(self, data):
        self.room -= len(data)
        if self.room < 0:
            raise OSError(28, "No space left on device")
        return len(data)

    def flush(self):
        pass


@pytest.mark.parametrize("room", [0, 1000, 200_000])
def test_torchs_error_is_the_systems(tmp_path, monkeypatch, room):
    """torch's zip writer reports "unexpected pos" for the second and third."""
    real = torch.save

    def save(content, file):
        file._file = FullDisk(room)
        real(content, file)

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(OSError, match="No space left on device"):
        write_weights([torch.ones(100_000)] * 2, tmp_path / "a.pt")
    assert not list(tmp_path.iterdir())


def test_the_room_for_two_checkpoints_is_looked_at_before(tmp_path, monkeypatch):
    tensors = [torch.zeros(10 << 20)]  # 42 MB
    path = tmp_path / "run" / "checkpoint.pt"

    def free(size):
        usage = type("Usage", (), {"total": 1, "free": size})
        monkeypatch.setattr(checkpoints.shutil, "disk_usage", lambda _: usage)

    for size in (0, 42 << 20, 80 << 20):
        free(size)
        with pytest.raises(UserError, match="2 checkpoints of 43 MB .* no space left on device"):
            checkpoints.refuse_full_disk(path, tensors, 0)
    free(90 << 20)
    checkpoints.refuse_full_disk(path, tensors, 0)
    with pytest.raises(UserError, match="5 checkpoints"):
        checkpoints.refuse_full_disk(path, tensors, 3)
    path.parent.mkdir()
    with open(path, "wb") as file:
        file.truncate(43 << 20)
    free(50 << 20)  # one more is enough for a run that is resumed
    checkpoints.refuse_full_disk(path, tensors, 0)


def test_a_run_that_has_no_room_does_not_begin(dataset, tmp_path, monkeypatch):
    from fastmoco.run_options import RunOptions
    from fastmoco.training.train import train
    from tests.support.training_runs import RECIPE

    monkeypatch.setattr(
        checkpoints.shutil, "disk_usage", lambda _: type("Usage", (), {"total": 1, "free": 9999})
    )
    with pytest.raises(UserError, match="run: 2 checkpoints of .* no space left on device"):
        train(dataset, RECIPE, RunOptions(out=str(tmp_path / "run")))
    assert not (tmp_path / "run").exists()


def test_commands_answer_hostile_files_in_one_line(tmp_path, capsys):
    path = tmp_path / "hash.pt"
    path.write_bytes(zipped(tmp_path, HOSTILE["hashed tuple"][1]))
    assert "hash.pt: its pickle has keys" in refused(capsys, "export", path, "--to", "torchvision")
