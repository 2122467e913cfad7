"""A changed bit in the journal, the spool or the beton under way costs its part again, no more."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest

from data_tools.errors import UserError
from data_tools.inspection.survey import survey
from data_tools.inspection.verify import verify
from data_tools.manifest import MANIFEST, digest_of, read_manifest
from data_tools.open import open_store
from data_tools.policy import Policy
from data_tools.preparation.assemble import GROWING
from data_tools.preparation.duplicates import digests
from data_tools.preparation.journal import HEADER, Journal
from data_tools.prepare import prepare, prepare_shard
from data_tools.safe_reading.checksum import DIGEST
from tests.support.folders import snapshot
from tests.support.made_files.sample_images import encode, jpeg, smooth

PART = 4000
CUT = Policy(shard_size=PART / 1e6)
FORMATS = ["beton", "tfrecord"]


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from PIL import Image

    folder = tmp_path_factory.mktemp("source") / "zoo"
    for i in range(30):
        path = folder / "abc"[i % 3] / f"{i:03}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(30, 40, i % 25))
    for i in range(3):
        (folder / "b" / f"{i}.png").write_bytes(encode(Image.fromarray(smooth(30, 50, i)), "PNG"))
    return folder


@pytest.fixture(scope="module")
def whole(zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("whole") / "out"
    prepare(zoo, out, formats=FORMATS, policy=CUT)
    return snapshot(out)


def stopped(zoo: Path, out: Path, images: int = 24) -> None:
    """Leaves a preparation under way."""
    def stop(done: int, total: int) -> None:
        if done > images:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(zoo, out, Policy(workers=1, shard_size=PART / 1e6), FORMATS, progress=stop)


def flip(path: Path, at: int, bit: int = 2) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1 << bit
    path.write_bytes(content)


def resumed(zoo: Path, out: Path) -> tuple[list[str], int]:
    """The lines of the run that goes on, and how many images were through when it began."""
    lines: list[str] = []
    told: list[int] = []
    prepare(zoo, out, formats=FORMATS, policy=CUT, say=lines.append,
            progress=lambda done, total: told.append(done))
    said = re.compile(": damaged|found damaged|an older release")
    return [line for line in lines if said.search(line)], told[0]


def in_beton(out: Path, image: int) -> int:
    """The offset of an early image in the beton under way: they begin with a JPEG's marker."""
    content = (out / "beton" / GROWING).read_bytes()
    at = content.index(b"\xff\xd8\xff")
    for _ in range(image):
        at = content.index(b"\xff\xd8\xff", at + 1)
    return at


@pytest.mark.parametrize(("what", "parts"), [
    ("record", 1), ("record's checksum", 1), ("shard missing", 1), ("shard cut", 1), ("beton", 0),
])
def test_a_changed_bit_costs_its_part_again(
    what: str, parts: int, zoo: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    stopped(zoo, out)
    last = sorted((out / "journal").glob("*.record"))[-1]
    if what.startswith("record"):
        flip(last, 5 if "checksum" in what else DIGEST + 300)
    elif what.startswith("shard"):
        shard = out / "tfrecord" / f"train-{last.stem}.tfrecord"
        os.truncate(shard, shard.stat().st_size - 1)
        if what == "shard missing":
            shard.unlink()
    else:
        flip(out / "beton" / GROWING, in_beton(out, 3) + 200)
    lines, _ = resumed(zoo, out)
    assert len(lines) == 1 and "found damaged or without files; done again" in lines[0]
    assert not parts or f"{parts} finished part found" in lines[0]
    assert snapshot(out) == whole


def test_a_late_bit_of_the_beton_costs_the_parts_from_there(
    zoo: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    stopped(zoo, out)
    done = len(list((out / "journal").glob("*.record")))
    held = Journal(out, json.loads((out / "journal" / HEADER).read_bytes().splitlines()[0]))
    record = held.read(done - 1)
    assert record is not None
    flip(out / "beton" / GROWING, record.beton_end - 10)
    lines, first = resumed(zoo, out)
    assert len(lines) == 1 and ": 1 finished part found" in lines[0] and first > 12
    assert snapshot(out) == whole


@pytest.mark.parametrize("at", [3, 200, -3])
def test_a_damaged_header_keeps_the_parts(
    at: int, zoo: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    stopped(zoo, out)
    flip(out / "journal" / HEADER, at)
    lines, first = resumed(zoo, out)
    assert len(lines) == 1 and "header.json: damaged" in lines[0] and first > 12
    assert snapshot(out) == whole


def test_records_of_another_job_never_count(
    zoo: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    prepare_shard(zoo, out, (0, 2), Policy(quality=50, shard_size=PART / 1e6), FORMATS)
    flip(out / "journal" / HEADER, 3)
    lines, first = resumed(zoo, out)
    assert "header.json: damaged" in lines[0] and "found damaged" in lines[1] and first < 5
    assert snapshot(out) == whole


@pytest.mark.parametrize("kind", ["flip", "cut", "longer", "missing"])
def test_a_changed_spool_costs_its_part_again(
    kind: str, zoo: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    prepare_shard(zoo, out, (0, 2), formats=FORMATS, policy=CUT)
    spool = sorted((out / "journal").glob("*.images"))[1]
    if kind == "flip":
        flip(spool, 100)
    elif kind == "cut":
        os.truncate(spool, spool.stat().st_size - 1)
    elif kind == "longer":
        spool.write_bytes(spool.read_bytes() + b"x")
    else:
        spool.unlink()
    lines, _ = resumed(zoo, out)
    assert len(lines) == 1 and "1 finished part found damaged" in lines[0]
    assert snapshot(out) == whole


def made_old(out: Path) -> None:
    """The journal as the release before wrote it: records without a checksum, a bare header."""
    journal = out / "journal"
    header = journal / HEADER
    header.write_bytes(header.read_bytes().splitlines()[0])
    for record in journal.glob("*.record"):
        record.with_suffix(".npz").write_bytes(record.read_bytes()[DIGEST:])
        record.unlink()


def test_a_journal_of_the_release_before_goes_on(
    zoo: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    stopped(zoo, out)
    made_old(out)
    lines, first = resumed(zoo, out)
    assert len(lines) == 1 and "an older release began this run" in lines[0] and first > 12
    assert snapshot(out) == whole


def test_old_records_count_only_under_an_old_header(
    zoo: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    """Else a record without a checksum could stand for one whose own does not hold."""
    out = tmp_path / "out"
    stopped(zoo, out)
    header = (out / "journal" / HEADER).read_bytes()
    made_old(out)
    (out / "journal" / HEADER).write_bytes(header)
    assert Journal(out, json.loads(header.splitlines()[0])).read(0) is None
    lines, first = resumed(zoo, out)
    assert not lines and first < 10
    assert snapshot(out) == whole


def test_a_manifest_of_the_release_before_opens(zoo: Path, tmp_path: Path) -> None:
    prepare(zoo, tmp_path / "out")
    path = tmp_path / "out" / MANIFEST
    values = json.loads(path.read_text())
    digest = values.pop("digest")
    assert digest == digest_of(values)
    new = read_manifest(path.parent)
    path.write_text(json.dumps(values, indent=1) + "\n")
    assert read_manifest(path.parent) == new and len(open_store(path.parent)) == 33
    assert json.loads(new.to_json())["digest"] == digest


@pytest.mark.parametrize("name", ["keys.txt", "digests.npy", "quarantine.jsonl"])
def test_a_changed_list_of_a_dataset_is_one_line(name: str, zoo: Path, tmp_path: Path) -> None:
    """open_store does not read these; whatever does refuses them."""
    source = tmp_path / "source"
    shutil.copytree(zoo, source)
    (source / "a" / "bad.jpg").write_bytes(b"\xff\xd8\xff")
    prepare(source, tmp_path / "out")
    read = {"keys.txt": lambda: open_store(tmp_path / "out").key(3),
            "digests.npy": lambda: list(digests(open_store(tmp_path / "out"))),
            "quarantine.jsonl": lambda: survey(tmp_path / "out", 1)}[name]
    read()
    flip(tmp_path / "out" / name, 20)
    with pytest.raises(UserError, match=f"{name}: changed since it was prepared .its checksum"):
        read()
    assert verify(tmp_path / "out")[0].problems[0].startswith(f"{name}: changed since")
