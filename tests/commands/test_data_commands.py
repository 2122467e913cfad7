"""prep, verify and inspect as a user meets them: their lines, their JSON, no torch."""

import json
import shutil
import signal
import subprocess
import sys

import pytest
from PIL import Image

from tests.support.command_line import refused, run


@pytest.fixture(scope="module")
def prepared(folder, tmp_path_factory):
    """The folder in two formats, with two files that are not images."""
    work = tmp_path_factory.mktemp("prepared")
    shutil.copytree(folder, work / "in")
    (work / "in" / "notes.jpg").write_text("no image")
    (work / "in" / "empty.jpg").touch()
    subprocess.run(
        [sys.executable, "-m", "fastmoco", "prep", work / "in", work / "out",
         "--format", "beton", "webdataset"],
        check=True, capture_output=True,
    )  # fmt: skip
    return work / "out"


def test_prep_reports_its_result(folder, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        shutil.copytree(folder, tmp_path / "in" / name)
    (tmp_path / "in" / "a" / "cut.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    code, text, _ = run(capsys, "prep", tmp_path / "in", tmp_path / "out", "--format",
                        "beton", "tfrecord", "--reencode", "always", "--max-side", 20)
    assert code == 0
    assert "in: image folder, 193 samples, 2 classes" in text
    assert "192 images, 2 classes" in text and "stored as they came: 0" in text
    assert "quarantined: 1 (" in text and "quarantine.jsonl" in text
    assert "the same as tfrecord: " in text
    code, text, _ = run(capsys, "prep", tmp_path / "in", tmp_path / "json", "--json")
    assert code == 0 and json.loads(text)["samples"] == 192


def test_shards_then_the_whole(folder, tmp_path, capsys):
    small = ["--shard-size", "0.02"]
    for i in (1, 0):
        code, text, _ = run(capsys, "prep", folder, tmp_path / "out", *small, "--shard", f"{i}/2")
        assert code == 0 and "parts are done" in text
    code, text, _ = run(capsys, "prep", folder, tmp_path / "out", *small)
    assert code == 0 and "96 images" in text
    run(capsys, "prep", folder, tmp_path / "at-once", *small)
    one, two = (tmp_path / name / "train.beton" for name in ("out", "at-once"))
    assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        ("--shard 2/2", "--shard 2/2"),
        ("--shard 1", "--shard 1"),
        ("--shard 0/2 --engine ray", "--shard and --engine ray"),
        ("--ray-address auto", "--ray-address"),
        ("--shard-size 0", "--shard-size"),
        ("--shard-size nan", "--shard-size"),
        ("--disk 3GB", "--disk"),
        ("--target-rate 100", "--target-rate"),
        ("--plan --target-rate -1", "--target-rate"),
        ("--plan --disk much", "--disk much"),
        ("--max-side 0", "--max-side"),
        ("--quality 101", "--quality"),
        ("--raw-fraction 2", "--raw-fraction"),
        ("--reencode perhaps", "--reencode"),
        ("--check nothing", "--check"),
        ("--format csv", "--format"),
        ("--labels /no/such", "/no/such"),
        ("--against /no/such", "/no/such"),
        ("--workers -1", "--workers"),
    ],
)
def test_odd_values_of_prep_are_one_line(folder, tmp_path, capsys, flags, word):
    assert word in refused(capsys, "prep", folder, tmp_path / "out", *flags.split())
    assert not list(tmp_path.iterdir())


def test_prep_needs_somewhere_to_write(folder, capsys):
    assert "OUT is missing" in refused(capsys, "prep", folder)


@pytest.mark.parametrize("argv", [
    ["prep", "", "out"], ["prep", "in", ""], ["prep", "in", "out", "--labels", ""],
    ["prep", "in", "out", "--labels="], ["verify", ""], ["inspect", ""], ["views", ""],
    ["train", ""], ["bench", ""], ["knn", "run", "", "val"], ["report", ""],
])
def test_an_empty_path_is_not_the_current_directory(
    folder, tmp_path, capsys, monkeypatch, argv
):
    shutil.copytree(folder, tmp_path / "in")
    monkeypatch.chdir(tmp_path)
    assert "is empty" in refused(capsys, *argv)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_the_current_directory_is_a_source(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    assert run(capsys, "prep", ".", tmp_path / "out")[0] == 0


def test_verify_finds_all_well(prepared, capsys):
    code, text, _ = run(capsys, "verify", prepared)
    assert code == 0 and text.count("whole: all 96 images") == 2
    assert "beton" in text and "webdataset" in text
    code, text, _ = run(capsys, "verify", prepared / "beton", "--quick", 5, "--json")
    (report,) = json.loads(text)
    assert code == 0 and not report["problems"] and report["looked_at"] == 5


def test_verify_reports_damage_and_fails(prepared, tmp_path, capsys):
    cut = tmp_path / "cut.beton"
    cut.write_bytes((prepared / "beton" / "train.beton").read_bytes()[:-5000])
    code, text, err = run(capsys, "verify", cut)
    assert code == 2 and "cut.beton" in text and err.count("\n") == 1 and "cut.beton" in err
    half = bytearray((prepared / "beton" / "train.beton").read_bytes())
    half[16:24] = bytes(8)  # FFCV writes this address last of all
    cut.write_bytes(half)
    _, text, _ = run(capsys, "verify", cut, "--json")
    (report,) = json.loads(text)
    assert "half-written" in report["problems"][0] and "damaged" in report["verdict"]
    assert "--quick" in refused(capsys, "verify", prepared, "--quick", "-1")
    assert "/no/such" in refused(capsys, "verify", "/no/such")


def test_inspect_prints_the_figures_and_draws_the_sheet(prepared, tmp_path, capsys):
    sheet = tmp_path / "sheet.png"
    code, text, _ = run(capsys, "inspect", prepared / "beton", "--sheet", sheet)
    assert code == 0 and "96 images" in text and "quarantined" in text
    assert f"{sheet}: " in text
    with Image.open(sheet) as image:
        assert image.width > 200
    code, text, _ = run(capsys, "inspect", prepared / "beton", "--json")
    found = json.loads(text)
    assert code == 0 and found["samples"] == 96 and found["unlabelled"] == 0
    assert "--sample" in refused(capsys, "inspect", prepared / "beton", "--sample", "0")
    assert "/no/such" in refused(capsys, "inspect", "/no/such")
    said = refused(capsys, "inspect", prepared / "beton", "--sheet", tmp_path / "s.gif")
    assert "--sheet" in said and "name a .png, .jpg or .webp file" in said


def test_none_of_them_needs_torch(folder, prepared, tmp_path):
    """Run where importing torch fails."""
    (tmp_path / "torch.py").write_text("raise ImportError('torch was imported')\n")
    for argv in (["prep", folder, tmp_path / "out"], ["verify", prepared / "beton"],
                 ["inspect", prepared / "beton", "--sheet", tmp_path / "s.png"]):
        code = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
from fastmoco.cli import main
code = main({[str(a) for a in argv]!r})
assert "torch" not in sys.modules
sys.exit(code)
"""
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_a_plan_gives_the_signal_handler_back(folder, capsys):
    before = signal.getsignal(signal.SIGTERM)
    code, text, _ = run(capsys, "prep", folder, "--plan", "--json")
    assert code == 0 and json.loads(text)["rows"]
    assert signal.getsignal(signal.SIGTERM) is before
