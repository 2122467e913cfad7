"""fastmoco bench shows each stage when it is measured, and keeps the rows when it is stopped."""

import json
import signal
import subprocess
import sys
import time

import pytest

from fastmoco.cli import main

FLAGS = ["--arch", "resnet-mini", "--size", "16", "--batch", "16", "--bn-splits", "2", "--K", "32",
         "--device", "cpu", "--engine", "threads", "--threads", "1"]
STAGES = ["read, from disk", "read, in memory", "decode", "crop", "two views",
          "augmentation alone", "step alone", "two views + augmentation",
          "two views + augmentation + step"]


def rows(stream):
    """The lines of a stream that are no progress, which a busy machine prints in between."""
    return (line for line in stream if not line.startswith("measuring: "))


def names(lines):
    """The stages that have a row, in the rows' order."""
    return [next((s for s in reversed(STAGES) if line.strip().startswith(f"{s} ")), "")
            for line in lines]


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)]
)
def test_rows_come_as_they_are_measured_and_stay_when_it_is_stopped(dataset, number, code):
    command = [sys.executable, "-m", "fastmoco", "bench", str(dataset), *FLAGS,
               "--rounds", "100000", "--seconds", "0.02"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        shown = rows(process.stdout)
        assert next(shown) == "the first of 100000 rounds, in images/s:\n"
        first = [next(shown) for _ in STAGES]  # long before the last round
        assert names(first) == STAGES and process.poll() is None
        time.sleep(0.3)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == code and "Traceback" not in err, err
    lines = list(rows(out.splitlines()))
    at = lines.index("stopped: the medians of the rounds so far")
    assert lines[at + 1].split() == ["stage", "images/s", "per", "core", "least", "most"]
    assert names(lines[at + 2 :]) == STAGES
    least, most = (float(x.replace(",", "")) for x in lines[at + 4].split()[-2:])
    assert least < most  # more than one round


def test_json_is_one_object_at_the_end(dataset, capsys):
    args = [str(dataset), *FLAGS, "--rounds", "1", "--seconds", "0.01"]
    assert main(["bench", *args, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in report["stages"]] == STAGES
    assert main(["bench", *args]) == 0
    lines = list(rows(capsys.readouterr().out.splitlines()))
    assert lines[0] == "the first of 1 rounds, in images/s:"
    assert names(lines[1:10]) == STAGES and "binds: " in "\n".join(lines)
