"""prep from end to end: what is stored, counted, refused, and left behind."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import simplejpeg
from PIL import Image

import data_tools.prepare as module
from data_tools.errors import Interrupted, UserError
from data_tools.manifest import MANIFEST, UNFINISHED, summary
from data_tools.open import is_dataset, open_store
from data_tools.policy import Policy
from data_tools.preparation import workers as pool
from data_tools.preparation.assemble import GROWING
from data_tools.prepare import prepare
from tests.support.folders import snapshot
from tests.support.made_files.sample_images import encode, jpeg, smooth

Write = Callable[..., Path]
DATA = "train.beton"
ROOT = Path(module.__file__).parents[1]


def mixed(pets: dict[str, bytes]) -> dict[str, bytes]:
    """Clean JPEGs, some of every other kind, and clutter."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return pets | {
        "cat/7.png": encode(Image.fromarray(smooth(30, 50)), "PNG"),
        "cat/lies.jpg": encode(Image.fromarray(smooth(31, 50)), "PNG"),
        "dog/turned.jpg": encode(Image.fromarray(smooth(30, 50)), "JPEG", exif=exif),
        "dog/wide.jpg": jpeg(10, 100),
        "cat/cut.jpg": jpeg()[:-20],
        "README.md": b"# Pets",
        "dog/empty.jpg": b"",
        "emu/broken.jpg": jpeg()[:100],
        ".DS_Store": b"x",
    }


def test_a_dataset_holds_its_source(write_tree: Write, tmp_path: Path, pets: dict) -> None:
    manifest = prepare(write_tree(pets), tmp_path / "out")
    store = open_store(tmp_path / "out")
    assert len(store) == manifest.samples == manifest.kept == 8
    assert store.classes == ["cat", "dog"]
    assert store.labels.tolist() == [0] * 3 + [1] * 5
    assert store.sizes.tolist() == [[20 + i, 40 - 2 * i] for i in range(8)]
    for i, (key, data) in enumerate(sorted(pets.items())):
        assert store.encoded(i).tobytes() == data
        assert store.key(i) == key
    assert manifest.largest == [27, 40]
    foreign = open_store(tmp_path / "out" / DATA)  # the same, as any beton
    assert (foreign.labels == store.labels).all() and (foreign.sizes == store.sizes).all()


def test_everything_is_counted_and_nothing_lost(
    write_tree: Write, tmp_path: Path, pets: dict
) -> None:
    files = mixed(pets)
    out = tmp_path / "out"
    manifest = prepare(write_tree(files), out, Policy(max_side=60))
    assert manifest.kept == 8
    assert manifest.reencoded == {"EXIF-rotated JPEG": 1, "JPEG, resized": 1, "PNG": 2}
    assert manifest.quarantined == {"empty file": 1, "not an image": 1, "truncated JPEG": 2}
    assert manifest.ignored == 1
    rows = [json.loads(line) for line in (out / "quarantine.jsonl").read_text().splitlines()]
    assert [row["key"] for row in rows] == [
        "README.md", "cat/cut.jpg", "dog/empty.jpg", "emu/broken.jpg"
    ]  # fmt: skip
    assert rows[1] == {"key": "cat/cut.jpg", "reason": "truncated JPEG", "size": len(jpeg()) - 20}
    store = open_store(out)
    # A text at the top doesn't make the set flat; a class whose images are all broken stays one.
    assert store.classes == ["cat", "dog", "emu"]
    keys = [store.key(i) for i in range(len(store))]
    assert sorted([*keys, *(row["key"] for row in rows), ".DS_Store"]) == sorted(files)
    assert store.labels.tolist() == [store.classes.index(key.split("/")[0]) for key in keys]
    for i in range(len(store)):
        shape = simplejpeg.decode_jpeg(store.encoded(i)).shape
        assert list(shape[:2]) == store.sizes[i].tolist()
    lines = summary(manifest)
    assert lines[0].startswith("12 images, 3 classes, ") and lines[1].endswith(": 8")
    assert lines[2] == "re-encoded: 4 (EXIF-rotated JPEG 1, JPEG, resized 1, PNG 2)"
    assert lines[3].startswith("quarantined: 4 (empty file 1, ")


def test_a_folder_and_its_tar_and_any_workers_give_the_same_bytes(
    write_tree: Write, pack: Write, tmp_path: Path, pets: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "CHUNK_IMAGES", 2)  # many chunks of few files
    folder = write_tree(mixed(pets))
    outs = []
    for number, (source, workers) in enumerate(
        [(folder, 1), (folder, 2), (folder, 7), (pack(folder, arcname="."), 3)]
    ):
        out = tmp_path / str(number)
        prepare(source, out, Policy(workers=workers))
        outs.append(snapshot(out))
    assert outs[0] == outs[1] == outs[2]
    changed = {name for name in outs[0] if outs[0][name] != outs[3][name]}
    assert changed <= {MANIFEST}  # which names its source


def test_a_flat_folder_is_unlabelled(write_tree: Write, tmp_path: Path) -> None:
    manifest = prepare(write_tree({"a.jpg": jpeg(), "b.jpg": jpeg()}, "flat"), tmp_path / "1")
    store = open_store(tmp_path / "1")
    assert store.classes == [] and store.labels.tolist() == [-1, -1]
    assert "no labels" in summary(manifest)[0] and "beside" not in str(summary(manifest))
    files = {"a/1.jpg": jpeg(), "b/1.jpg": jpeg(), "cover.jpg": jpeg()}
    assert "cover.jpg is beside" in str(
        summary(prepare(write_tree(files, "mix"), tmp_path / "2")))


def test_labels_without_names_are_kept(write_tree: Write, tmp_path: Path, pets: dict) -> None:
    prepare(write_tree(pets), tmp_path / "named", formats=["tfrecord"])
    manifest = prepare(tmp_path / "named" / "train-00000.tfrecord", tmp_path / "numbers")
    assert manifest.labelled == 8 and manifest.classes == []
    assert "8 images, labels without names, " in summary(manifest)[0]
    assert open_store(tmp_path / "numbers").labels.tolist() == [0] * 3 + [1] * 5


def test_preparing_again(write_tree: Write, tmp_path: Path, pets: dict) -> None:
    folder, out = write_tree(pets), tmp_path / "out"
    first = prepare(folder, out)
    assert not first.reused
    before = snapshot(out)
    stamp = (out / DATA).stat().st_mtime_ns
    again = prepare(folder, out, Policy(workers=1))
    assert again == first and again.reused and summary(again)[0].startswith("already prepared")
    assert snapshot(out) == before and (out / DATA).stat().st_mtime_ns == stamp
    with pytest.raises(UserError, match="other options"):
        prepare(folder, out, Policy(quality=50))
    (folder / "cat/new.jpg").write_bytes(jpeg())
    with pytest.raises(UserError, match="another source"):
        prepare(folder, out)
    assert snapshot(out) == before


def test_errors_leave_nothing_behind(write_tree: Write, tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    good = write_tree({"a.jpg": jpeg()}, "good")
    bad = write_tree({"notes.txt": b"hello", "cut.jpg": jpeg()[:50]}, "bad")
    with pytest.raises(UserError, match=r"no readable image in 2 files.*cut.jpg: truncated JPEG"):
        prepare(bad, out)
    assert not out.parent.exists()
    with pytest.raises(UserError, match="no such"):
        prepare(tmp_path / "missing", out)
    with pytest.raises(UserError, match="is inside"):
        prepare(good, good / "out")
    assert not (good / "out").exists()
    with pytest.raises(UserError, match="not a folder"):
        prepare(good, bad / "notes.txt")

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(good, out, progress=stop)
    assert not out.parent.exists()


def test_splits_without_suffixes_are_refused(write_tree: Write, tmp_path: Path) -> None:
    files = {"train/a/1.jpg": jpeg(), "train/b/1.jpg": jpeg(), "val/a/1": jpeg()}
    with pytest.raises(UserError, match="train and val side by side"):
        prepare(write_tree(files), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_error_is_one_line_that_any_terminal_prints() -> None:
    assert str(UserError("a\nb\r\n\udcff: bad")) == r"a\nb\r\n\udcff: bad"


def test_a_directory_with_other_files_is_left_alone(write_tree: Write, tmp_path: Path) -> None:
    folder = write_tree({"a.jpg": jpeg()})
    # Even files of our own names: without the mark of an unfinished run they may be a user's.
    for name in ("thesis.txt", DATA, MANIFEST):
        out = tmp_path / name
        out.mkdir()
        (out / name).write_bytes(b"precious")
        with pytest.raises(UserError) as caught:
            prepare(folder, out)
        assert str(caught.value).startswith(str(out))
        assert snapshot(out) == {name: b"precious"}
    (tmp_path / "thesis.txt" / UNFINISHED).touch()
    with pytest.raises(UserError, match="thesis.txt"):
        prepare(folder, tmp_path / "thesis.txt")


def test_a_full_disk_is_one_line(
    write_tree: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.beton.BetonWriter, "append", full)
    with pytest.raises(Interrupted, match="No space left on device"):
        prepare(write_tree({"a.jpg": jpeg()}), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_killed_run_counts_for_nothing_and_runs_again(
    write_tree: Write, tmp_path: Path, pets: dict
) -> None:
    folder, out = write_tree(pets), tmp_path / "out"
    prepare(folder, tmp_path / "whole")
    code = (
        "import sys, time\n"
        "from data_tools.prepare import prepare\n"
        "prepare(sys.argv[1], sys.argv[2], progress=lambda *_: time.sleep(60))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, folder, out], cwd=ROOT)
    while not (out / GROWING).exists():
        assert process.poll() is None
        time.sleep(0.01)
    with pytest.raises(UserError, match=r"out: prep \(process \d+ on .* is at work here; wait"):
        prepare(folder, out)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert UNFINISHED in os.listdir(out) and not is_dataset(out)
    with pytest.raises(UserError, match="did not finish"):
        open_store(out)
    for name in ("index.npy", "keys.txt", f"train-00000.rec.{16 * 'a'}.partial"):
        (out / name).write_bytes(b"half of it")  # as if killed later
    prepare(folder, out)
    assert snapshot(out) == snapshot(tmp_path / "whole")


def test_progress_ends_at_the_total(write_tree: Write, tmp_path: Path, pets: dict) -> None:
    told: list[tuple[int, int]] = []
    prepare(write_tree(pets), tmp_path / "out", progress=lambda *now: told.append(now))
    assert told == sorted(told) and told[-1] == (8, 8)


def test_work_in_flight_is_bounded(
    write_tree: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "CHUNK_IMAGES", 2)
    begun: list[int] = []
    real = pool.prepare_one
    monkeypatch.setattr(pool, "prepare_one", lambda *args: begun.append(1) or real(*args))
    ahead: list[int] = []

    def slow(done: int, total: int) -> None:
        time.sleep(0.2)  # the writer waits; threads without a bound would run to the end
        ahead.append(len(begun) - done)

    prepare(
        write_tree({f"{i:03}.jpg": jpeg() for i in range(100)}),
        tmp_path / "out",
        Policy(workers=2),
        progress=slow,
    )
    assert len(begun) == 100
    assert max(ahead) <= (2 * 2 + 1) * 2


def test_images_above_a_page_get_a_larger_page(write_tree: Write, tmp_path: Path) -> None:
    comment = b"\xff\xfe\xff\xff" + bytes(65533)
    padded = jpeg()[:2] + comment * 144 + jpeg()[2:]
    folder = write_tree({"a.jpg": padded, "b.jpg": jpeg(seed=1)})
    prepare(folder, tmp_path / "1", Policy(max_side=None))
    assert open_store(tmp_path / "1").encoded(0).nbytes == len(padded)
    # With a limit on the sides pages stay small, and the one that doesn't fit is re-encoded.
    assert prepare(folder, tmp_path / "2").reencoded == {"JPEG larger than a page": 1}


@pytest.mark.parametrize(
    "wrong",
    [{"quality": 0}, {"max_side": 0}, {"workers": -1}, {"reencode": "maybe"}, {"check": "all"}],
)
def test_a_wrong_policy_names_its_flag(wrong: dict) -> None:
    flag = next(iter(wrong)).replace("_", "-")
    with pytest.raises(UserError, match=f"--{flag} "):
        Policy(**wrong)


def test_importing_is_cheap() -> None:
    code = "import sys, {}; print(*{{name.split('.')[0] for name in sys.modules}})"
    for name, allowed in [
        ("data_tools.policy", set()),
        ("data_tools.open", {"numpy", "PIL", "simplejpeg"}),
        ("data_tools.prepare", {"numpy", "PIL", "simplejpeg"}),
    ]:
        command = [sys.executable, "-c", code.format(name)]
        output = subprocess.check_output(command, text=True, cwd=ROOT)
        heavy = {"numpy", "PIL", "simplejpeg", "torch", "rich", "fastmoco", "tyro", "pyarrow"}
        assert heavy & set(output.split()) == allowed, name
