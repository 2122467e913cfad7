"""TensorBoard and Weights & Biases, read back by their own packages."""

import dataclasses
import json
import os
import struct
import subprocess
import sys
import time

import pytest

from data_tools.errors import UserError
from fastmoco.recipe import MOCO_V2
from fastmoco.runs.events import Ended, Evaluated, Noted, Progress, Started
from fastmoco.runs.loggers import TensorBoard, WeightsAndBiases, scalars
from tests.support.run_events import LINE, STARTED, points


def lines(*steps, loss=8.0):
    return [dataclasses.replace(LINE, step=s, loss=loss - s / 100) for s in steps]


def test_every_measurement_becomes_a_curve():
    named = {name.partition("/")[2] for name in scalars(LINE)}
    shown_elsewhere = {"step", "steps", "seconds_left", "budget_left"}
    assert named == {f.name for f in dataclasses.fields(Progress)} - shown_elsewhere
    assert scalars(Evaluated(3, 1.0, 0.25, "k=200", 1.0)) == {"kNN/top-1": 0.25}
    assert scalars(Noted("x")) == {}


def test_tensorboard_reads_the_points_back(tmp_path):
    board = TensorBoard(tmp_path, 0)
    for event in (STARTED, *lines(20, 40), Evaluated(40, 1.0, 0.25, "k=200", 1.0)):
        board(event)
    found = points(tmp_path)
    assert found["train/loss"] == [(20, pytest.approx(7.8)), (40, pytest.approx(7.6))]
    assert found["kNN/top-1"] == [(40, 0.25)] and len(found) == len(scalars(LINE)) + 1


def test_a_resumed_run_has_no_point_twice(tmp_path):
    first = TensorBoard(tmp_path, 0)
    for event in lines(20, 40, 60):
        first(event)
    with open(first.file.path, "ab") as file:
        file.write(b"\x30\x00\x00")  # killed in the middle of a record
    second = TensorBoard(tmp_path, resumed_at=45)  # a checkpoint between two log lines
    for event in lines(60, 80, loss=7.0):
        second(event)
    second(Evaluated(80, 1.0, 0.2, "k=200", 1.0))
    third = TensorBoard(tmp_path, resumed_at=80)  # the points of step 80 are written again
    for event in (*lines(80, loss=7.0), Evaluated(80, 1.0, 0.2, "k=200", 1.0), *lines(100)):
        third(event)
    found = [s for s, _ in points(tmp_path)["train/loss"]]
    assert found == [20, 40, 60, 80, 100]
    assert points(tmp_path)["train/loss"][2][1] == pytest.approx(6.4)  # the second file
    assert points(tmp_path)["kNN/top-1"] == [(80, pytest.approx(0.2))]
    names = [b.file.path.name for b in (first, second, third)]
    assert names == sorted(names) and len(set(names)) == 3  # although all started within one second


def test_wandb_offline_holds_the_run(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    for first in (0, 40):  # a run that is killed at 40, and its resume
        listener = WeightsAndBiases("moco", tmp_path)
        listener(Started(MOCO_V2, 96, 6, first, "cpu", "threads", 10, "runs/a", "d"))
        for event in lines(first + 20, first + 40):
            listener(event)
        listener(Ended(first + 40, 80, 1.0, first > 0, "x.pt"))
        time.sleep(1.1)  # wandb names a folder by the second, so two in one second would share it
    name = (tmp_path / "wandb-id").read_text()
    files = sorted(tmp_path.glob(f"wandb/offline-run-*-{name}/run-{name}.wandb"))
    assert len(files) == 2  # one id in two files
    end = time.monotonic() + 20  # wandb's own process may still be writing
    while len(losses := _losses(files)) < 4 and time.monotonic() < end:
        time.sleep(0.1)
    assert losses == {s: pytest.approx(8 - s / 100) for s in (20, 40, 60, 80)}


def _losses(files):
    """The loss by step in wandb's files."""
    found = {}
    for path in files:
        for record in _records(path):
            if record.WhichOneof("record_type") == "history":
                row = {".".join(i.nested_key) or i.key: json.loads(i.value_json)
                       for i in record.history.item}
                found[row["_step"]] = row["train/loss"]
    return found


def _records(path):
    """Yield the records of a .wandb file: a header of 7 bytes, then LevelDB's log format.

    The log has blocks of 32 KiB. A block has pieces: checksum (4 bytes), length (2), kind (1 byte:
    1 a whole record, 2 its first piece, 3 a middle piece, 4 its last piece), then the data.
    """
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, parts = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        if at + 7 + length > len(data):
            return  # the last piece is still being written
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            record = Record()
            record.ParseFromString(parts)
            parts = b""
            yield record


def test_without_wandb_one_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"pip install 'fastmoco\[wandb\]'"):
        WeightsAndBiases("moco", tmp_path)


def test_wandb_without_a_login_is_one_line(tmp_path):
    pytest.importorskip("wandb")
    code = (
        "import sys; from pathlib import Path; from fastmoco.runs.loggers import WeightsAndBiases;"
        "WeightsAndBiases('moco', Path(sys.argv[1]))"
    )
    kept = {k: v for k, v in os.environ.items() if not k.startswith("WANDB")}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=100,
        env=kept | {"HOME": str(tmp_path), "WANDB_BASE_URL": "http://127.0.0.1:9"},
        stdin=subprocess.DEVNULL,
    )
    last = done.stderr.strip().splitlines()[-1]
    assert "UserError: --wandb moco: " in last and "WANDB_MODE=offline" in last
