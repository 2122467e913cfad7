"""The commands as a user meets them: real output, one-line errors, exit codes."""

import json
import os
import subprocess
import sys

import pytest
from PIL import Image

from data_tools.open import is_dataset
from fastmoco.cli import main
from tests.support.command_line import TINY, refused, run


def test_help_is_quick_and_complete():
    times = []
    for _ in range(5):
        before = os.times()
        done = subprocess.run(
            [sys.executable, "-m", "fastmoco", "--help"], capture_output=True, text=True, check=True
        )
        after = os.times()  # of the processor: other work on the machine takes none of it
        times.append(after.children_user + after.children_system
                     - before.children_user - before.children_system)
    assert min(times) < 0.3
    commands = "prep", "views", "bench", "train", "knn", "linear", "finetune", "embed", "selftest"
    assert all(c in done.stdout for c in commands)


@pytest.mark.parametrize(
    "command",
    ["prep", "views", "bench", "train", "knn", "linear", "finetune", "embed", "selftest"],
)
def test_each_command_shows_its_flags(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert f"fastmoco {command}" in text and "--help" in text


def test_training_flags_are_the_recipes_fields(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--recipe", "moco-v1", "--help"])
    text = capsys.readouterr().out
    assert "--recipe" in text and "--K" in text and "--T FLOAT" in text and "0.07" in text
    assert "--augmentation.blur-p" in text and "--checkpoint-minutes" in text


def test_the_whole_way(folder, tmp_path, capsys):
    data, out = tmp_path / "data", tmp_path / "run"
    code, text, _ = run(capsys, "prep", folder, data)
    assert code == 0 and "96 images, 2 classes" in text
    code, text, _ = run(capsys, "views", data, "--out", tmp_path / "v.png", "--count", 5)
    with Image.open(tmp_path / "v.png") as sheet:
        assert code == 0 and sheet.width > 400
    code, text, _ = run(capsys, "train", data, *TINY, "--epochs", 2, "--out", out, "--val", data)
    assert code == 0 and "kNN" in text and "chance 3.497" in text and "done: step 12/12" in text
    code, text, _ = run(capsys, "train", data, "--resume", "--out", out)  # knows its own recipe
    assert code == 0 and "resumed at step 12" in text
    code, text, _ = run(capsys, "knn", out, data, data)
    assert code == 0 and "trained" in text and "at step 0" in text and "raw pixels" in text
    code, text, _ = run(capsys, "knn", out, data, data, "--json", "--no-companions")
    rows = json.loads(text)["rows"]
    assert {(r["k"], r["T"]) for r in rows} == {(200, 0.1), (10, 0.07), (20, 0.07), (100, 0.07),
                                               (200, 0.07)}


def test_resume_needs_no_flags_again(dataset, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(capsys, "train", dataset, *TINY, "--epochs", 1)[0] == 0
    code, text, _ = run(capsys, "train", dataset, "--resume")
    assert code == 0 and "resumed at step 6" in text
    assert (tmp_path / "runs" / "trees-moco-v2" / "checkpoint.pt").exists()


def test_resume_accepts_the_flags_of_the_first_call(dataset, tmp_path, capsys):
    """The run's own recipe has the switch on already, and the same command must still parse."""
    argv = ["train", dataset, *TINY, "--epochs", 1, "--out", tmp_path / "run", "--symmetric",
            "--augmentation.gray-first"]
    assert run(capsys, *argv)[0] == 0
    code, text, err = run(capsys, *argv, "--resume")
    assert code == 0 and "resumed at step 6" in text, err
    assert "trained with symmetric True, not False" in refused(
        capsys, *argv[:-2], "--no-symmetric", "--resume"
    )


def test_bench_shows_every_stage(dataset, capsys):
    argv = ["bench", dataset, *TINY, "--rounds", 1, "--seconds", 0.05]
    code, text, _ = run(capsys, *argv)
    assert code == 0 and "no step reads or decodes" in text and "change:" in text
    assert "decode bound" not in text and "cores (crops)" in text
    code, text, _ = run(capsys, *argv, "--engine", "threads")
    assert code == 0 and "of the decode bound" in text and "cores (libjpeg's decode)" in text
    code, text, _ = run(capsys, *argv, "--json")
    report = json.loads(text)
    rate = {s["name"]: s["images_per_s"] for s in report["stages"]}
    assert list(rate) == ["read, from disk", "read, in memory", "decode", "crop", "two views",
                          "augmentation alone", "step alone", "two views + augmentation",
                          "two views + augmentation + step"]
    assert all(r > 0 for r in rate.values()) and report["binds"]
    assert rate["two views + augmentation + step"] < rate["decode"]


def test_a_folder_is_prepared_into_the_cache_once(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    argv = ["train", folder, *TINY, "--epochs", 1]
    code, text, _ = run(capsys, *argv, "--out", tmp_path / "a")
    assert code == 0 and "is not prepared yet: preparing it into" in text
    (made,) = (tmp_path / "cache" / "fastmoco").iterdir()
    assert is_dataset(made)
    code, text, _ = run(capsys, *argv, "--out", tmp_path / "b")
    assert code == 0 and "not prepared yet" not in text and "already prepared" in text


def test_events_as_json(dataset, tmp_path, capsys):
    code, text, _ = run(
        capsys, "train", dataset, *TINY, "--epochs", 1, "--out", tmp_path / "run", "--json"
    )
    rows = [json.loads(line) for line in text.splitlines()]
    assert code == 0 and [r["event"] for r in rows] == [
        # judged: such a rate for such a batch; noted: no blur at 16 pixels
        "started", "judged", "noted", "progress", "saved", "ended"
    ]


def test_bad_input_is_one_line(dataset, folder, tmp_path, capsys):
    assert "/no/such" in refused(capsys, "prep", "/no/such", tmp_path / "out")
    assert "/no/such" in refused(capsys, "train", "/no/such", "--out", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    assert "empty" in refused(capsys, "prep", tmp_path / "empty", tmp_path / "out")
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.jpg").write_text("no image")
    assert "no readable image" in refused(capsys, "prep", tmp_path / "text", tmp_path / "out")
    assert "no readable image" in refused(capsys, "train", tmp_path / "text", "--out",
                                          tmp_path / "out")
    cut = tmp_path / "cut.beton"
    cut.write_bytes((dataset / "train.beton").read_bytes()[:-1000])
    assert "cut.beton" in refused(capsys, "train", cut, "--out", tmp_path / "out")
    small_k = refused(capsys, "train", dataset, *TINY, "--K", 8, "--out", tmp_path / "out")
    assert "--K is 8, below --batch 16" in small_k
    assert "--frob" in refused(capsys, "train", dataset, "--frob", "1")
    assert "--K" in refused(capsys, "train", dataset, "--K", "many")
    assert "DATA" in refused(capsys, "train")
    assert "no command" in refused(capsys, "trian", dataset)
    assert "moco-v1" in refused(capsys, "train", dataset, "--recipe", "moco-v9")
    assert "larger than the dataset" in refused(capsys, "train", dataset, *TINY, "--batch", 128,
                                                "--K", 128, "--out", tmp_path / "out")
    assert "finite" in refused(capsys, "train", dataset, *TINY, "--lr", "nan", "--out",
                               tmp_path / "out")
    assert "no CUDA" in refused(capsys, "train", dataset, *TINY, "--device", "cuda", "--out",
                                tmp_path / "out")
    assert "no such checkpoint" in refused(capsys, "knn", tmp_path / "none", dataset, dataset)
    assert "no such folder" in refused(capsys, "views", dataset, "--out", tmp_path / "x" / "v.png")
    assert not (tmp_path / "out").exists()  # nothing left behind
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        ("--weight-decay -1", "--weight-decay"),
        ("--momentum -1", "--momentum"),
        ("--seed 99999999999999999999999", "--seed"),
        ("--eval-crop 2", "--eval-crop"),
        ("--eval-size -3", "--eval-size"),
        ("--warmup 1e9", "--warmup"),
        ("--epochs 0", "--epochs"),
        ("--augmentation.scale 2 3", "--augmentation.scale"),
        ("--augmentation.ratio 0 1", "--augmentation.ratio"),
        ("--augmentation.jitter 5 5 5 5", "--augmentation.jitter"),
        ("--augmentation.blur-p -1", "--augmentation.blur-p"),
        ("--augmentation.blur-sigma 2 1", "--augmentation.blur-sigma"),
        ("--augmentation.std 0 0 0", "--augmentation.std"),
        ("--augmentation v7", "--augmentation"),
        ("--log-every 0", "--log-every"),
        ("--threads -1", "--threads"),
        ("--device meta", "--device"),
        ("--checkpoint-minutes nan", "--checkpoint-minutes"),
        ("--K 100000000000000", "--K"),
    ],
)
def test_odd_values_are_one_line(dataset, tmp_path, capsys, flags, word):
    argv = ["train", dataset, *TINY, *flags.split(), "--out", tmp_path / "out"]
    assert word in refused(capsys, *argv)
    assert not (tmp_path / "out").exists()


def test_odd_values_of_the_other_commands(dataset, tmp_path, capsys):
    assert "--count" in refused(capsys, "views", dataset, "--count", "0", "--out",
                                tmp_path / "v.png")
    assert "--epoch" in refused(capsys, "views", dataset, "--epoch", "-1", "--out",
                                tmp_path / "v.png")
    assert "--size" in refused(capsys, "views", dataset, "--size", "0", "--out", tmp_path / "v.png")
    (tmp_path / "dir.png").mkdir()
    assert "is a folder" in refused(capsys, "views", dataset, "--out", tmp_path / "dir.png")
    assert "--rounds" in refused(capsys, "bench", dataset, *TINY, "--rounds", "0")
    assert "--batch" in refused(capsys, "bench", dataset, "--batch", "0")
    assert [p.name for p in tmp_path.iterdir()] == ["dir.png"]


@pytest.mark.parametrize(
    "argv", [["train", "x", "--no-such"], ["train", "x", "--batch", "many"], ["prep", "x"]]
)
def test_errors_read_the_same_without_unicode(argv):
    def said(encoding):
        done = subprocess.run(
            [sys.executable, "-m", "fastmoco", *argv], capture_output=True, text=True,
            env={**os.environ, "PYTHONUTF8": "0", "LC_ALL": "C", "PYTHONIOENCODING": encoding},
        )
        assert done.returncode == 2 and done.stdout == ""
        return done.stderr

    assert said("ascii") == said("utf-8") != ""
    assert "---" not in said("ascii") and said("ascii").count("\n") == 1


@pytest.mark.parametrize("words", ["--help", "compare RUN", "compare RUN --json", "train --help"])
def test_a_full_standard_output_is_named(words, dataset, tmp_path):
    if "RUN" in words:
        main(["train", str(dataset), "--out", str(tmp_path / "r"), "--epochs", "1", *TINY])
    argv = words.replace("RUN", str(tmp_path / "r")).split()
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-m", "fastmoco", *argv], stdout=full,
                              stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert done.stderr == ("fastmoco: standard output: No space left on device; what was "
                           "printed is not complete\n")


def test_the_last_recipe_named_wins(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--recipe", "moco-v2", "--recipe", "moco-v1", "--help"])
    text = capsys.readouterr().out
    assert "[default: moco-v1]" in text and "0.07" in text


def test_a_narrow_image_has_its_views(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    Image.new("RGB", (2000, 10), (200, 30, 30)).save(tmp_path / "in" / "strip.jpg")
    run(capsys, "prep", tmp_path / "in", tmp_path / "data")
    code, _, err = run(capsys, "views", tmp_path / "data", "--out", tmp_path / "v.png")
    assert code == 0, err


def test_a_foreign_beton_may_have_any_name(dataset, tmp_path, capsys):
    (tmp_path / "data.ffcv").write_bytes((dataset / "train.beton").read_bytes())
    code, _, err = run(capsys, "views", tmp_path / "data.ffcv", "--out", tmp_path / "v.png")
    assert code == 0, err


def test_a_checkpoint_of_another_recipe_is_one_line(dataset, tmp_path, capsys):
    argv = ["train", dataset, *TINY, "--epochs", 1, "--out", tmp_path / "run"]
    assert run(capsys, *argv)[0] == 0
    before = (tmp_path / "run" / "checkpoint.pt").read_bytes()
    assert "holds a run" in refused(capsys, *argv)
    line = refused(capsys, *argv, "--recipe", "moco-v1", "--resume")
    assert "trained with name moco-v2, not moco-v1" in line
    assert "trained with T 0.2, not 0.5" in refused(capsys, *argv, "--resume", "--T", "0.5")
    assert (tmp_path / "run" / "checkpoint.pt").read_bytes() == before
