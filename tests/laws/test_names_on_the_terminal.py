"""Names that others chose cannot steer a terminal, or forge a line of a command's output."""

import dataclasses

import pytest

from fastmoco.run_options import RunOptions
from fastmoco.training.train import train
from tests.support.command_line import run
from tests.support.made_files.sample_images import jpeg
from tests.support.training_runs import RECIPE

RED, FORGED, REVERSED = "\x1b[31mred", "a\nFORGED: whole", "b\u202ec"
NAMES = (RED, FORGED, REVERSED)


def checked(capsys, *argv):
    """The exit code and the output of a command, none of which can steer a terminal."""
    code, out, err = run(capsys, *argv)
    text = out + err
    assert text.strip()
    assert "\x1b" not in text and "\u202e" not in text, ascii(text)
    assert not any(line.lstrip().startswith("FORGED") for line in text.splitlines()), text
    return code, text


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A folder whose classes and files have NAMES; each class has a file that is no image."""
    root = tmp_path_factory.mktemp("hostile") / RED
    for label in NAMES:
        (root / label).mkdir(parents=True)
        for number, name in enumerate(NAMES * 3):
            (root / label / f"{number}{name}.jpg").write_bytes(jpeg(seed=number))
        (root / label / f"bad{label}.jpg").write_bytes(b"no image")
    return root


def test_no_command_prints_a_name_as_it_is(hostile, tmp_path, capsys):
    out = tmp_path / FORGED
    code, said = checked(capsys, "prep", hostile, out)
    assert code == 0 and r"\x1b[31mred" in said
    checked(capsys, "prep", hostile, out)  # already prepared
    assert checked(capsys, "prep", hostile, tmp_path / "strict", "--strict")[0] == 2
    assert checked(capsys, "prep", hostile / "missing\x1b[31m", tmp_path / "x")[0] == 2
    checked(capsys, "prep", hostile, "--plan")
    code, said = checked(capsys, "verify", out)
    assert code == 0 and r"a\nFORGED" in said
    code, said = checked(capsys, "inspect", out)
    assert code == 0 and r"b\u202ec" in said
    path = out / "keys.txt"
    path.write_bytes(path.read_bytes()[:-2])
    for verb in ("verify", "inspect"):
        checked(capsys, verb, out)


def test_not_even_knn_for_each_class(hostile, tmp_path, capsys):
    out = tmp_path / REVERSED
    checked(capsys, "prep", hostile, out)
    recipe = dataclasses.replace(RECIPE, K=16, batch=8)
    train(out, recipe, RunOptions(out=str(tmp_path / RED)))
    code, said = checked(
        capsys, "knn", tmp_path / RED, out, "--per-class", "--no-companions", "--no-keep")
    assert code == 0 and r"\x1b[31mred" in said and r"a\nFORGED" in said
    assert checked(capsys, "knn", tmp_path / FORGED, out)[0] == 2
