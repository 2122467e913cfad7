"""The machine, looked at: real figures, and nothing that fails because something is missing."""

import json
import subprocess
import sys
import time

from fastmoco.checks import doctor as module
from fastmoco.checks.doctor import doctor, installed, lines
from tests.support.command_line import run


def by_name(found):
    return {f.name: f for f in found.findings if f.name}


def test_it_measures_this_machine_in_a_few_seconds(tmp_path):
    begun = time.process_time()
    found = doctor(tmp_path)
    assert time.process_time() - begun < 8  # on all cores
    assert found.decode_images_per_s > 10
    assert found.write_bytes_per_s > 1e6 and found.read_bytes_per_s > 1e6
    assert list(tmp_path.iterdir()) == []
    names = by_name(found)
    assert installed("torchvision") in names["packages"].value
    assert "MB/s" in names["disk"].value and "--precision" in names["would choose"].value


def test_what_is_missing_is_told_with_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "importable", lambda name: False)
    monkeypatch.setattr(module, "missing_compiler", lambda device: "no C++ compiler here")
    monkeypatch.setattr(module, "SECONDS", 0.05)
    found = doctor(tmp_path)
    names = by_name(found)
    assert "pip install 'fastmoco[dali]'" in names["DALI"].value + names["DALI"].remedy
    assert "libturbojpeg0-dev" in names["FFCV"].value and names["FFCV"].optional
    assert "no C++ compiler" in names["compiler"].value + names["compiler"].remedy


def test_a_folder_that_is_not_there_is_a_finding(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SECONDS", 0.05)
    found = doctor(tmp_path / "none")
    assert found.write_bytes_per_s == 0 and "--dir" in by_name(found)["disk"].remedy
    assert any(line.strip().startswith("-> give a folder") for line in lines(found))
    assert lines(found)[-1].endswith("marked ->")


def test_too_little_memory_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "memory", lambda: int(2e9))
    assert "2.0 GB" in module.of_memory().value and "--batch" in module.of_memory().remedy


def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "SECONDS", 0.05)
    code, text, _ = run(capsys, "doctor", "--dir", tmp_path)
    assert code == 0 and "decode" in text and "images/s" in text
    code, text, _ = run(capsys, "doctor", "--dir", tmp_path, "--json")
    found = json.loads(text)
    assert code == 0 and found["decode_images_per_s"] > 0
    assert {"name", "value", "remedy", "optional"} == set(found["findings"][0])


def test_the_command_refuses_a_folder_that_is_not_there(tmp_path, capsys):
    (tmp_path / "file").touch()
    for name in ("none", "file"):
        code, text, said = run(capsys, "doctor", "--dir", tmp_path / name)
        assert code == 2 and not text and f"{name}: no such folder" in said


def test_the_version_names_torch_and_does_not_import_it():
    code = ("import sys; from fastmoco.cli import main; main(['--version']); "
            "assert 'torch' not in sys.modules")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert f"torch {installed('torch')}" in done.stdout and "Python 3." in done.stdout
