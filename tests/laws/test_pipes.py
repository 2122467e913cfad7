"""Pipes, sockets and devices in place of files: one line at once through every door, no waiting."""

import os
import shutil
import socket
from pathlib import Path

import pytest

from data_tools.errors import UserError
from data_tools.inspection.survey import survey
from data_tools.inspection.verify import verify
from data_tools.open import open_store
from data_tools.planning.plan import plan
from data_tools.prepare import prepare
from fastmoco.weights import checkpoint
from tests.support.command_line import refused
from tests.support.deadlines import deadline
from tests.support.made_files.sample_images import jpeg

SECONDS = 60  # a pipe is waited on for ever; the machine may be busy
SUFFIXES = ["", ".beton", ".tfrecord", ".rec", ".tar", ".tar.gz", ".zip", ".csv", ".jsonl",
            ".parquet", ".arrow", ".npy", ".npz", ".pkl", ".jpg", "-idx3-ubyte"]


def refusal(door, *args, **kwargs):
    with deadline(SECONDS), pytest.raises(UserError) as caught:
        door(*args, **kwargs)
    return str(caught.value)


@pytest.fixture
def flat(tmp_path):
    """A folder of one image."""
    folder = tmp_path / "flat"
    folder.mkdir()
    (folder / "0.jpg").write_bytes(jpeg())
    return folder


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_pipe_is_no_dataset_and_no_source(tmp_path, flat, suffix):
    pipe = tmp_path / f"train{suffix}"
    os.mkfifo(pipe)
    for door in (open_store, verify, survey, plan):
        assert f"{pipe}: " in refusal(door, pipe) and "a pipe, not a file" in refusal(door, pipe)
    for said in (refusal(prepare, pipe, tmp_path / "out"),
                 refusal(prepare, flat, tmp_path / "out", labels=pipe),
                 refusal(prepare, flat, tmp_path / "out", against=[pipe])):
        assert f"{pipe}: " in said and "a pipe, not a file" in said
    only = tmp_path / "folder"
    only.mkdir()
    pipe.rename(only / pipe.name)
    assert str(only) in refusal(prepare, only, tmp_path / "out")
    assert str(only) in refusal(open_store, only)


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/null", "socket"])
def test_a_device_and_a_socket_neither(tmp_path, flat, path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as here:
        here.bind("socket")
        kind = "a socket, not a file" if path == "socket" else "a device, not a file"
        for door in (open_store, verify, survey, plan):
            assert kind in refusal(door, path)
        assert kind in refusal(prepare, path, tmp_path / "out")
        assert kind in refusal(prepare, flat, tmp_path / "out", labels=path)
        assert kind in refusal(prepare, flat, tmp_path / "out", against=[path])
        assert "not a file" in refusal(checkpoint.load, Path(path))


def test_a_pipe_among_the_files_of_a_dataset(tmp_path, dataset, flat):
    for name in sorted(os.listdir(dataset)):
        copy = tmp_path / name
        shutil.copytree(dataset, copy)
        (copy / name).unlink()
        os.mkfifo(copy / name)
        with deadline(SECONDS):
            if name != "manifest.json":  # without one it is no dataset
                assert any(report.found for report in verify(copy)), name
        said = refusal(open_store, copy)
        assert str(copy) in said and (name == "manifest.json" or "a pipe, not a file" in said), said
        assert str(copy) in refusal(survey, copy)
        assert str(copy) in refusal(prepare, flat, tmp_path / "out", against=[copy])


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".pkl", ".safetensors"])
def test_a_pipe_is_no_checkpoint(tmp_path, dataset, capsys, suffix):
    pipe = tmp_path / f"checkpoint{suffix}"
    os.mkfifo(pipe)
    assert "not a file" in refusal(checkpoint.load, pipe)
    with deadline(SECONDS):
        assert "not a file" in refused(capsys, "export", pipe, "--to", "timm")
        assert "not a file" in refused(capsys, "knn", pipe, dataset)
        if suffix == ".pt":
            assert "not a file" in refused(capsys, "knn", tmp_path, dataset)


@pytest.mark.parametrize("name", ["run.json", "metrics.jsonl"])
def test_a_pipe_is_no_record_of_a_run(tmp_path, capsys, name):
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.json").write_text("{}")
    (run / "metrics.jsonl").write_text("")
    (run / name).unlink()
    os.mkfifo(run / name)
    with deadline(SECONDS):
        assert str(run) in refused(capsys, "report", run)
        assert str(run) in refused(capsys, "compare", run, run)
