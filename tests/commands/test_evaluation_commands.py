"""knn, linear, finetune and embed as a user meets them."""

import dataclasses
import json

import numpy as np
import pytest

from data_tools.prepare import prepare
from fastmoco.cli import main
from fastmoco.weights import checkpoint as checkpoints
from tests.support.evaluation_parts import untrained


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    checkpoints.save(untrained(), out / "checkpoint.pt")
    return out


def call(capsys, *argv):
    code = main([str(a) for a in argv])
    out, err = capsys.readouterr()
    return code, out, err


def refused(capsys, *argv):
    code, _, err = call(capsys, *argv)
    assert code == 2 and err.startswith("fastmoco: ") and err.count("\n") == 1, err
    return err


def test_knn_with_grids_and_classes(run, dataset, capsys):
    code, text, _ = call(capsys, "knn", run, dataset, dataset, "--k", 1, 5, "--T", 0.1,
                         "--per-class", "--no-companions")
    assert code == 0 and "96 queries, bank of 96" in text
    assert "100.0%" in text and "grid" in text  # k = 1 of the set on itself
    assert "is \\ named" in text and "oak" in text and "95 % of trained" in text


def test_knn_leaves_one_out_where_there_is_one_set(run, dataset, capsys):
    code, text, _ = call(capsys, "knn", run, dataset, "--k", 1, "--json")
    found = json.loads(text)
    assert code == 0 and found["leave_one_out"] and found["queries"] == 96
    assert {r["features"] for r in found["rows"]} == {"trained", "at step 0", "raw pixels"}
    assert all(0.2 < r["top1"] < 0.8 for r in found["rows"])  # blobs without a meaning
    assert all(r["low"] < r["top1"] < r["high"] for r in found["rows"])
    assert sum(n for *_, n in found["detail"]["confusion"]) == 96
    assert [c["name"] for c in found["detail"]["classes"]] == ["ash", "oak"]
    assert "leave one out" in call(capsys, "knn", run, dataset, "--k", 1)[1]


def test_a_k_above_the_bank_is_refused_or_shown(run, dataset, capsys):
    assert "--k 97: an image has 96" in refused(capsys, "knn", run, dataset, dataset, "--k", 97)
    assert "--k 96: an image has 95" in refused(capsys, "knn", run, dataset, "--k", 5, 96)
    code, text, _ = call(capsys, "knn", run, dataset, "--no-companions")
    assert code == 0 and "200 (all 95)" in text and "100 (all 95)" in text and "20 (" not in text


def test_the_view_can_be_said(run, dataset, tmp_path, capsys):
    """Foreign weights do not record the view that they were trained with."""
    out = tmp_path / "f.npy"

    def features(*flags):
        assert call(capsys, "embed", run, dataset, "--out", out, *flags)[0] == 0
        return np.load(out)

    recipe = checkpoints.load(run).recipe
    own, mean, std = features(), recipe.augmentation.mean, recipe.augmentation.std
    same = features("--size", recipe.size, "--mean", *mean, "--std", *std)
    assert np.array_equal(own, same)
    assert not np.allclose(own, features("--size", 2 * recipe.size))
    assert not np.allclose(own, features("--mean", 0.1, 0.2, 0.3))
    for wrong in (["--mean", 0.1], ["--std", 0, 0.2, 0.2], ["--size", -3]):
        assert f"{wrong[0]} {wrong[1]}" in refused(capsys, "knn", run, dataset, *wrong)


def test_linear_prints_its_protocol(run, dataset, capsys):
    argv = ["linear", run, dataset, dataset, "--epochs", 1]
    code, text, _ = call(capsys, *argv, "--per-class")
    assert code == 0 and "official linear protocol, changed: all labels, random crops" in text
    assert "the trunk is unchanged, bit for bit" in text and "labels of 96 of 96 images;" in text
    assert "of those named so" in text
    code, text, _ = call(capsys, *argv, "--quick", "--companions", "--lr", 0.01, 0.1)
    assert code == 0 and "quick linear protocol: " in text
    assert "10 of them held out" in text and "raw pixels" in text and "by lr: 0.01: " in text
    code, text, _ = call(capsys, *argv, "--json")
    found = json.loads(text)
    row = found["rows"][0]
    assert code == 0 and row["rate"] == 30 and row["score"]["images"] == 96


def test_finetune_prints_its_protocol(run, dataset, capsys):
    argv = ["finetune", run, dataset, dataset, "--labels", "10/class", "--epochs", 1]
    code, text, _ = call(capsys, *argv)
    assert code == 0 and "SwAV's semi-supervised protocol: 10/class labels" in text
    assert "labels of 20 of 96 images" in text
    code, text, _ = call(capsys, *argv, "--json", "--companions")
    assert code == 0 and list(json.loads(text)["rows"]) == ["trained", "at step 0"]


def test_embed_writes_the_requested_format(run, dataset, tmp_path, capsys):
    out = tmp_path / "f.npy"
    code, text, _ = call(capsys, "embed", run, dataset, "--out", out,
                         "--neighbours", tmp_path / "n.png", "--count", 4)
    assert code == 0 and "96 vectors of 192 float32" in text and "4 queries" in text
    assert np.load(out).shape == (96, 192) and (tmp_path / "n.png").stat().st_size > 1000
    (kept,) = (tmp_path / "cache" / "fastmoco" / "features").iterdir()
    assert np.array_equal(np.load(kept), np.load(out))


@pytest.fixture(scope="module")
def others(folder, tmp_path_factory):
    """Unsuitable sets: without labels, with another class, with an empty class."""
    root = tmp_path_factory.mktemp("others")
    images = sorted(folder.rglob("*.jpg"))
    for name, classes in {
        "flat": ["."], "foreign": ["ash", "elm"], "hollow": ["ash", "elm", "oak"], "more": ["oak"],
    }.items():
        for i, kind in enumerate(classes):
            (root / "in" / name / kind).mkdir(parents=True, exist_ok=True)
            for n in range(3):
                target = root / "in" / name / kind / f"{n}.jpg"
                broken = name == "hollow" and kind == "elm"
                target.write_bytes(b"" if broken else images[48 * (i % 2) + n].read_bytes())
        prepare(root / "in" / name, root / name)
    return root


@pytest.mark.parametrize("command", [["knn"], ["linear", "--quick"], ["linear"], ["finetune"]])
def test_sets_that_do_not_serve_are_one_line(command, run, dataset, others, capsys):
    words = [command[0], run]
    flags = command[1:]
    flat, foreign, hollow = (others / n for n in ("flat", "foreign", "hollow"))
    assert "without a label" in refused(capsys, *words, flat, dataset, *flags)
    assert "without a label" in refused(capsys, *words, dataset, flat, *flags)
    assert "class 'elm' is not in" in refused(capsys, *words, dataset, foreign, *flags)
    assert "class 'elm' has no image" in refused(capsys, *words, hollow, dataset, *flags)


@pytest.mark.parametrize("command", [
    ["knn"], ["linear", "--quick"], ["linear", "--epochs", 1], ["finetune", "--epochs", 1],
    ["embed", "--out", "f.npy"],
])
def test_weights_that_overflow_are_not_scored(command, dataset, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    saved = untrained()
    huge = {k: v * 1e30 if ".bn" in k and k.endswith(".weight") else v
            for k, v in saved.moco.items()}
    checkpoints.save(dataclasses.replace(saved, moco=huge), tmp_path / "huge.pt")
    sets = [dataset] if command[0] == "embed" else [dataset, dataset]
    text = refused(capsys, command[0], "huge.pt", *sets, *command[1:])
    assert "overflow" in text and not (tmp_path / "f.npy").exists()


@pytest.mark.parametrize("seed", [-1, 2**63, 10**30])
@pytest.mark.parametrize("command", [["linear"], ["linear", "--quick"], ["finetune"], ["embed"]])
def test_a_seed_is_what_a_recipe_may_have(command, seed, run, dataset, tmp_path, capsys):
    sets = [dataset, dataset]
    if command[0] == "embed":
        sets = [dataset, "--neighbours", tmp_path / "n.png"]
    text = refused(capsys, command[0], run, *sets, *command[1:], "--seed", seed)
    assert f"--seed {seed}: give a whole number from 0" in text


def test_odd_values_are_one_line(run, dataset, tmp_path, capsys):
    sets = (run, dataset, dataset)
    for flags, said in (
        (("knn", *sets, "--k", 0), "--k 0"),
        (("knn", *sets, "--T", 0), "--T 0"),
        (("knn", *sets, "--threads", -1), "--threads"),
        (("knn", tmp_path / "none", dataset), "no such checkpoint"),
        (("linear", *sets, "--lr", 0), "--lr"),
        (("linear", *sets, "--epochs", -1), "--epochs"),
        (("linear", *sets, "--labels", "many"), "--labels many: give 1%"),
        (("linear", *sets, "--labels", "99/class"), "a class has 48 images"),
        (("finetune", *sets, "--batch", 1), "--batch"),
        (("finetune", *sets, "--lr", "nan"), "--lr"),
        (("embed", run, dataset), "--out F.npy"),
        (("embed", run, dataset, "--out", tmp_path / "f.txt"), ".npy or .parquet"),
        (("embed", run, dataset, "--neighbours", tmp_path / "f.txt"), "name a .png"),
        (("embed", run, dataset, "--out", tmp_path / "no" / "f.npy"), "no existing folder"),
    ):
        assert said in refused(capsys, *flags)


def test_views_too_small_for_the_encoder_are_one_line(run, dataset, tmp_path, capsys):
    tiny = ["--arch", "resnet-mini", "--batch", 16, "--bn-splits", 2, "--K", 32]
    out = ["--out", tmp_path / "run", "--epochs", 2]
    for argv in (
        ["knn", run, dataset, "--size", 1], ["embed", run, dataset, "--size", 1,
                                             "--out", tmp_path / "e.npy"],
        ["linear", run, dataset, dataset, "--quick", "--size", 1],
        ["finetune", run, dataset, dataset, "--size", 1],
        ["train", dataset, *tiny, *out, "--size", 1],
        ["train", dataset, *tiny, *out, "--size", 1, "--dry-run"],
        ["train", dataset, *tiny, *out, "--size", 16, "--eval-size", 1],
        ["train", dataset, *tiny, *out, "--size", 16, "--progressive", 1, 16],
    ):
        assert "--size 1: resnet-mini needs at least 2 pixels" in refused(capsys, *argv)
    assert not (tmp_path / "run").exists()
    code, _, err = call(capsys, "embed", run, dataset, "--size", 2, "--out", tmp_path / "e.npy")
    assert code == 0, err
