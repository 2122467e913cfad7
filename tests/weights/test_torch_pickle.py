"""A hostile pickle costs neither time nor memory; an ordinary one is read as torch reads it."""

import pickle
from collections import Counter, OrderedDict

import pytest
import torch

from bench.fuzz.checkpoint_flips import equal
from fastmoco.weights.read import read_weights
from tests.support.bounds import bounded
from tests.support.command_line import refused
from tests.support.made_files.weight_files import (
    number,
    pickled_content,
    program,
    refusal,
    tensor,
    text,
    zipped,
)


def test_a_pickle_that_claims_another_size_than_its_record_is_refused(tmp_path):
    for size in (0, 20, 28):
        data = zipped(tmp_path, pickled_content(), **{"data/0": bytes(size)})
        assert "of another size" in refusal(tmp_path, data)


HASHED = b")q\1" + b"h\1\x86q\1" * 60  # a tuple of two of a tuple of two of ...
KEYS, CUT, LARGER = "has keys that are not", "claims more bytes", "is larger than its storage"
UNFOLDS, NAMES, DEEP, CALLS = "unfolds to more", "nothing was run", "nested deeper", "calls"
# Each with a part of the message that must refuse it
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
    with bounded(5, 300):
        said = refusal(tmp_path, data)
    assert reason in said or form == "old" and kind in ("nothing", "no end"), said


def test_the_programs_are_whole_but_for_their_fault(tmp_path):
    """The building blocks of the hostile files are read if nothing is wrong with them."""
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


def test_commands_answer_hostile_files_in_one_line(tmp_path, capsys):
    path = tmp_path / "hash.pt"
    path.write_bytes(zipped(tmp_path, HOSTILE["hashed tuple"][1]))
    assert "hash.pt: its pickle has keys" in refused(capsys, "export", path, "--to", "torchvision")
