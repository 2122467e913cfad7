"""An export's directory: its card, and what it never overwrites."""

import dataclasses
import json
import os

import pytest

from fastmoco.recipe import to_dict
from fastmoco.weights import checkpoint as checkpoints
from fastmoco.weights.checkpoint import trunk_digest
from fastmoco.weights.export.directory import export, put_in_place
from tests.support.command_line import refused, run
from tests.support.export_parts import RECIPE


def test_what_is_not_ours_is_not_overwritten(saved, source, tmp_path, capsys):
    def asked(out):
        return ("export", source, "--to", "torchvision", "--out", out)

    code, text, _ = run(capsys, *asked(tmp_path / "out"))
    assert code == 0 and "resnet18.pth" in text and "README.md says how to use it" in text
    before = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    assert run(capsys, *asked(tmp_path / "out"))[0] == 0  # as it was written: replaced
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == before
    (tmp_path / "out" / "README.md").write_text("my own words")
    line = refused(capsys, *asked(tmp_path / "out"))
    assert "README.md was changed since it was exported" in line
    assert (tmp_path / "out" / "README.md").read_text() == "my own words"
    (tmp_path / "out" / "README.md").write_bytes(before["README.md"])
    (tmp_path / "out" / "notes.txt").write_text("mine")
    assert "holds notes.txt" in refused(capsys, *asked(tmp_path / "out"))
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_text("mine")
    assert "holds other files (a.jpg)" in refused(capsys, *asked(tmp_path / "photos"))
    (tmp_path / "file").write_text("mine")
    assert "is a file" in refused(capsys, *asked(tmp_path / "file"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "out", "photos"]


def test_nothing_is_left_of_an_export_that_fails(saved, source, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fastmoco.weights.export.directory.model_card", full)
    with pytest.raises(Exception, match="cannot be written: No space left"):
        export(saved, source, "torchvision", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_the_old_export_stays_where_the_new_one_cannot_take_its_place(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("whole")
    with pytest.raises(OSError):
        put_in_place(tmp_path / ".out.partial", tmp_path / "out")  # is not there
    assert (tmp_path / "out" / "old").read_text() == "whole"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_the_card_tells_recipe_data_and_results(saved, tmp_path, capsys):
    recipe = dataclasses.replace(RECIPE, lr=0.015)
    ours = dataclasses.replace(saved, recipe=recipe)
    checkpoints.save(ours, tmp_path / "checkpoint.pt")
    (tmp_path / "run.json").write_text(json.dumps({"recipe": to_dict(recipe)}))
    (tmp_path / "metrics.jsonl").write_text(
        '{"event": "evaluated", "step": 1, "epoch": 0.1, "knn": 0.5, "protocol": "DINO, k=20"}\n'
        '{"event": "evaluated", "step": 12, "epoch": 2.0, "knn": 0.7, "protocol": "DINO, k=20"}\n'
        '{"event": "eval'
    )

    def found(weights, top1):
        row = {"protocol": "DINO", "k": 10, "T": 0.07, "top1": top1, "low": 0.6, "high": 0.625}
        return json.dumps({
            "weights": weights, "data": ["sets/train", "sets/val"], "size": 64,
            "rows": [{"features": "trained", **row},
                     {"features": "raw pixels", **row, "top1": 0.111}],
        })

    (tmp_path / "knn.json").write_text(found(trunk_digest(ours), 0.613))
    (tmp_path / "others.json").write_text(found("another's", 0.777))
    (tmp_path / "other.json").write_text("[1, 2]")
    code, text, _ = run(capsys, "export", tmp_path, "--to", "safetensors", "--json")
    assert code == 0 and any("README.md" in name for name in json.loads(text)["files"])
    card = (tmp_path / "export-safetensors" / "README.md").read_text()
    assert "96 images, fingerprint `f00d`" in card and "1 steps of 8 images (0.1 epochs)" in card
    command = "`fastmoco train DATA --recipe moco-v2 --arch resnet18"
    assert command in card and "--lr 0.015" in card
    assert "| kNN while training, epoch 0.1 | DINO, k=20 | 50.0% |" in card
    assert "| `knn.json`, on `train` and `val`, 64 pixels | DINO, k=10, T=0.07 | 61.3% (60" in card
    assert not any(other in card for other in ("11.1", "77.7", "70.0"))  # not of these weights
    assert "one momentum" not in card


def test_wrong_flags_are_one_line(source, capsys):
    assert "--to" in refused(capsys, "export", source)
    assert "--to" in refused(capsys, "export", source, "--to", "tensorflow")
    assert "no such checkpoint" in refused(capsys, "export", "/none", "--to", "timm")
    line = refused(capsys, "export", source, "--to", "timm", "--with-config")
    assert "--with-config goes with --to detectron2" in line
    line = refused(capsys, "export", source, "--to", "detectron2", "--with-config")
    assert "blocks of three convolutions" in line


def test_what_is_no_file_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    (tmp_path / "empty").mkdir()
    for name in ("/dev/zero", "pipe"):
        text = refused(capsys, "export", name, "--to", "timm")
        assert f"{name}: not a file; give a checkpoint" in text
    assert 'argument 1 is empty (""): give a path' in refused(capsys, "export", "", "--to", "timm")
    for name, said in ((".", "the current folder"), ("empty",) * 2):
        text = refused(capsys, "export", name, "--to", "timm")
        assert f"{said}: no such checkpoint: none of checkpoint.pt, " in text
