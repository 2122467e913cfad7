"""Output on a terminal or in a locale without UTF-8, and file names that are not text."""

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys

import pytest

from fastmoco.cli import main
from tests.support.command_line import TINY

ODD = [b"\xe4sh", "日本 ä".encode(), b"bad\xff\xfe\n<b>|`"]  # classes: folders may be called so


@pytest.fixture(scope="module")
def odd(folder, tmp_path_factory):
    """A folder of images, a dataset, a run and an evaluation, with names that are not UTF-8."""
    root = os.fsencode(tmp_path_factory.mktemp("odd")) + b"/\xff\xc3\xa9"
    images = sorted(os.fsencode(p) for p in (folder / "ash").iterdir())
    for number, name in enumerate(ODD):
        os.makedirs(root + b"/images/" + name)
        for i, image in enumerate(images[16 * number : 16 * number + 16]):
            shutil.copy(image, root + b"/images/" + name + b"/\xe9%d.jpg" % i)
        with open(root + b"/images/" + name + b"/cut\xff.jpg", "wb") as file:
            file.write(b"\xff\xd8\xff\xe0 cut")
    root = os.fsdecode(root)
    data, run = f"{root}/data", f"{root}/run"
    assert on("utf-8", "prep", f"{root}/images", data)[0] == 0
    argv = ["--out", run, "--epochs", "1", "--log-every", "1", "--threads", "1", "--force"]
    assert on("utf-8", "train", data, *TINY, *argv, "--val", data)[0] == 0
    code, said, _ = on("utf-8", "knn", run, data, data, "--no-companions", "--json")
    assert code == 0
    with open(f"{run}/knn\udcff.json", "w") as file:
        file.write(said)
    return root


def on(encoding, *argv):
    """Run a command on a terminal with an encoding: return exit code, stdout and stderr."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(list(argv))
    for stream in (out, err):
        stream.flush()
    return code, *(stream.buffer.getvalue().decode(encoding) for stream in (out, err))


def commands(root, tmp_path):
    data, run = f"{root}/data", f"{root}/run"
    return [
        ["verify", data], ["verify", data, "--json"], ["verify", f"{data}/train.beton"],
        ["inspect", data, "--sheet", str(tmp_path / "s.png")], ["inspect", data, "--json"],
        ["views", data, "--out", str(tmp_path / "v.png")],
        ["knn", run, data, data, "--no-companions", "--per-class"],
        ["knn", run, data, data, "--no-companions", "--json"],
        ["embed", run, data, "--out", str(tmp_path / "e.parquet"),
         "--neighbours", str(tmp_path / "n.png")],
        ["compare", run], ["compare", run, "--json"], ["report", run, "--count", "20"],
        ["export", run, "--to", "safetensors", "--out", str(tmp_path / "x"), "--json"],
        ["train", data, *TINY, "--force", "--epochs", "1", "--threads", "1", "--json",
         "--out", f"{tmp_path}/r\udcff"],
        ["prep", f"{root}/images", f"{tmp_path}/d\udcff"],
        ["prep", f"{root}/images", f"{tmp_path}/e\udcff", "--json"],
    ]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_no_command_fails_over_a_character(odd, tmp_path, encoding):
    for argv in commands(odd, tmp_path):
        code, out, err = on(encoding, *argv)
        assert (code, err) == (0, ""), argv
        if "--json" in argv:
            for text in out.splitlines() if argv[0] == "train" else [out]:
                found = json.loads(text, parse_constant=lambda x: pytest.fail(x))
                json.dumps(found, ensure_ascii=False).encode()  # no half of a character is left
    with open(f"{odd}/run/report.html", encoding="utf-8") as file:
        page = file.read()
    assert "\\udce4sh" in page and "&lt;b&gt;" in page and "日本 ä" in page


def test_what_a_terminal_lacks_is_escaped_and_columns_stay_columns(odd):
    argv = ["knn", f"{odd}/run", f"{odd}/data", f"{odd}/data", "--no-companions", "--per-class"]
    lines = on("ascii", *argv)[1].splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("class "))
    assert [line.split("  ")[0] for line in lines[at + 1 : at + 4]] == [
        "bad\\udcff\\udcfe\\n<b>|`", "\\u65e5\\u672c \\xe4", "\\udce4sh"
    ]
    assert len({len(line) for line in lines[at : at + 4]}) == 1


def test_names_are_opened_in_a_locale_without_utf8(odd, tmp_path):
    """LANG=C without Python's own remedies: names on the disk are then read as ASCII."""
    env = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    out = str(tmp_path / "d")
    for argv in (["prep", f"{odd}/images", out], ["inspect", out], ["verify", out, "--json"]):
        done = subprocess.run(
            [sys.executable, "-m", "fastmoco", *argv], env=env, capture_output=True
        )
        assert (done.returncode, done.stderr) == (0, b""), argv
    assert b"48 images" in subprocess.run(
        [sys.executable, "-m", "fastmoco", "inspect", out], env=env, capture_output=True
    ).stdout


def test_numbers_that_json_does_not_have_become_null(tmp_path):
    """A set in which no image decodes has no mean."""
    from data_tools.safe_reading.json_file import shown_json

    assert json.loads(shown_json({"a": [float("nan"), 1.0], "b": {"c": -float("inf")}})) == {
        "a": [None, 1.0], "b": {"c": None}
    }
