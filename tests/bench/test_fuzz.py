"""Changed files at every reader, few of each (python -m bench.fuzz takes many); and the fuzzers
themselves: a fault of each kind is found, kept and replayed."""

import gzip
import io
import json
import random
import subprocess
import sys
import zipfile
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.fuzz import containers, mutations, pictures
from bench.fuzz.__main__ import replay
from bench.fuzz.image_readers import pngs
from bench.fuzz.reader import equal
from bench.fuzz.readers import READERS
from bench.fuzz.source_readers import in_folders, packed
from bench.fuzz.worker import Limits
from data_tools.errors import UserError

FILES = 48  # of each reader; of slow ones an eighth
SEED = 16
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: fork and /proc")


def fuzz(*args: str, code: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *(("-c", code) if code else ("-m", "bench.fuzz")), *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory) -> dict:
    """The findings of a short run, by reader."""
    keep = tmp_path_factory.mktemp("kept")
    done = fuzz("--files", str(FILES), "--seed", str(SEED), "--workers", "1", "--minutes", "20",
                "--keep", str(keep), "--json")
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", [reader.name for reader in READERS])
def test_changed_files_are_read_or_refused_in_one_line(fuzzed, name):
    tally = fuzzed["readers"][name]
    found = [(f["first"]["kind"], f["first"]["cause"], f["files"], f["first"]["trace"][-800:])
             for f in fuzzed["found"] if f["first"]["reader"] == name]
    assert not found
    assert tally["files"] == tally["accepted"] + tally["refused"] >= FILES // 8


BROKEN = '''
import ctypes, json, sys
from pathlib import Path
from bench.fuzz.reader import Reader
from bench.fuzz.supervise import Supervisor
from bench.fuzz.worker import Limits

def build(folder):
    (folder / "a.bin").write_bytes(bytes(100))
    return ["a.bin"]

def reader(name, fault, **options):
    def read(folder, target):
        data = (folder / target).read_bytes()
        return fault(data) if data != bytes(100) else data
    return Reader(name, build, read, **options)

def crash(data):
    ctypes.string_at(0)

def hang(data):
    while True:
        pass

READERS = [
    reader("uncaught", lambda data: data["x"]), reader("crash", crash), reader("hang", hang),
    reader("memory", lambda data: len(bytearray(90 << 20))),
    reader("claim", lambda data: bytearray(1 << 40)),
    reader("silent", lambda data: data, same=lambda a, b: a == b),
    reader("good", lambda data: data), reader("absent", lambda data: None, same=lambda a, b: False),
]
scratch, keep = Path(sys.argv[1]), Path(sys.argv[2])
supervisor = Supervisor(READERS, scratch, keep, limits=Limits(0.4, 60 << 20), flips=True)
supervisor.build()
supervisor.run(1, 3, 2)
print(json.dumps({n: (t.files, t.accepted, t.refused, t.faults)
                  for n, t in supervisor.tallies.items()}))
'''


def test_a_fault_of_each_kind_is_found_and_kept(tmp_path):
    (tmp_path / "scratch").mkdir()
    done = fuzz(str(tmp_path / "scratch"), str(tmp_path / "kept"), code=BROKEN)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for name, kind in (("uncaught",) * 2, ("crash",) * 2, ("hang",) * 2, ("memory",) * 2,
                       ("claim", "memory"), ("silent",) * 2):
        files, accepted, refused, faults = found[name]
        assert (files, accepted, refused) == (3, 0, 0), name
        assert faults == {k: 3 * (k == kind) for k in faults}, name
        kept = sorted((tmp_path / "kept" / name).iterdir())
        assert len(kept) == 6 and kept[0].stat().st_size and kept[0].read_bytes() != bytes(100)
        about = json.loads(kept[1].read_text())
        assert (about["reader"], about["target"], about["kind"]) == (name, "a.bin", kind)
    assert found["good"][:3] == [3, 3, 0] and found["absent"][:3] == [3, 0, 3]
    assert not (tmp_path / "kept" / "good").exists()


def test_a_kept_file_is_replayed(tmp_path):
    path = tmp_path / "kept.tar"
    path.write_bytes(b"no tar at all")
    about = {"reader": "tar", "target": "plain.tar", "kind": "uncaught"}
    (tmp_path / "kept.tar.json").write_text(json.dumps(about))
    done = fuzz("--replay", str(path))
    assert done.returncode == 0 and done.stdout.startswith("refused"), done.stdout + done.stderr
    (tmp_path / "kept.tar.json").unlink()
    with pytest.raises(UserError, match="kept.tar: no file that bench.fuzz kept"):
        replay(path, {}, tmp_path, Limits())


def test_a_case_depends_on_its_number_and_the_seed_alone():
    reader = next(reader for reader in READERS if reader.name == "tar")
    files = {"a": packed(in_folders()), "b": b"x" * 3000}
    cases = [reader.mutate(n, 0, files, False) for n in range(60)]
    assert cases == [reader.mutate(n, 0, files, False) for n in range(60)]
    assert len({case.data for case in cases}) > 50
    assert cases != [reader.mutate(n, 1, files, False) for n in range(60)]
    for n in range(60):
        case = reader.mutate(n, 0, files, True)
        changed = int.from_bytes(case.data, "big") ^ int.from_bytes(files[case.target], "big")
        assert changed.bit_count() == 1 and len(case.data) == len(files[case.target])


@settings(max_examples=150, database=None, deadline=None)
@given(seed=st.integers(0, 1 << 32), data=st.binary(max_size=3000))
def test_any_bytes_can_be_changed(seed, data):
    rng = random.Random(seed)
    for _ in range(5):
        data = mutations.change(rng, data, [b"other"])
    assert isinstance(data, bytes)


@settings(max_examples=80, database=None, deadline=None)
@given(seed=st.integers(0, 1 << 32))
def test_edits_put_checksums_right(seed):
    """An independent reader of the container believes the change."""
    rng = random.Random(seed)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name in ("x/data.pkl", "x/data/0"):
            archive.writestr(name, random.Random(name).randbytes(200))
    edited = containers.edit_zip((".pkl", containers.change_any))(rng, out.getvalue())
    with zipfile.ZipFile(io.BytesIO(edited)) as archive:
        assert archive.testzip() is None
    tar = containers.edit_tar(rng, packed(in_folders()))
    head = tar[:512]
    assert not head[0] or int(head[148:154], 8) == sum(head) - sum(head[148:156]) + 8 * 32
    packed_again = containers.inside_gzip(containers.change_any)(rng, gzip.compress(tar))
    gzip.decompress(packed_again)
    png = pictures.edit_png(rng, pngs()["RGB"])
    at = 8
    while at < len(png):
        size = int.from_bytes(png[at : at + 4], "big")
        body = png[at + 4 : at + 8 + size]
        assert int.from_bytes(png[at + 8 + size : at + 12 + size], "big") == zlib.crc32(body)
        at += 12 + size


def test_equal_looks_at_every_bit():
    a = {"x": [np.arange(3), torch.ones(2)], "y": (1, float("nan"))}
    assert equal(a, {"x": [np.arange(3), torch.ones(2)], "y": (1, float("nan"))})
    assert not equal(a, {**a, "x": [np.arange(3), torch.ones(2) + 1e-7]})
    assert not equal(a, {**a, "x": [np.arange(3, dtype=np.int32), torch.ones(2)]})
    assert not equal(a, {**a, "y": (1.0, float("nan"))}) and not equal(a, {**a, "z": 0})


@pytest.mark.parametrize("edit", [mutations.edit_lines, mutations.duplicate])
def test_change_upon_change_does_not_grow_a_file_without_end(edit):
    rng, data = random.Random(0), b"some line\n" * 9
    for _ in range(60):
        grown = edit(rng, data)
        assert len(grown) <= 2 * len(data) + 2 * mutations.GROWTH
        data = grown[: mutations.GROWTH]
