"""Each of our text files, damaged in every place: readers accept it, or refuse it in one line."""

import dataclasses
import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from data_tools.errors import UserError
from data_tools.inspection.survey import survey
from data_tools.inspection.survey_text import lines
from data_tools.inspection.verify import verify
from data_tools.manifest import read_manifest, summary
from data_tools.open import open_store
from data_tools.preparation.duplicates import Other
from data_tools.prepare import prepare
from data_tools.safe_reading.json_file import Damaged, read_lines, shown_json, typed
from fastmoco.commands.compare import print_comparison
from fastmoco.measuring.bench import read_report
from fastmoco.recipe import Recipe, from_dict, to_dict
from fastmoco.reporting.compare import compare
from fastmoco.reporting.page import page
from fastmoco.reporting.pictures import Pictures
from fastmoco.reporting.tables import tables, waterfall
from fastmoco.run_options import RunOptions
from fastmoco.runs.directory import RunDir
from fastmoco.runs.health import Watch
from fastmoco.runs.record import read_run
from fastmoco.training.train import train
from fastmoco.weights import checkpoint as checkpoints
from fastmoco.weights.export.model_card import results
from tests.support.command_line import refused
from tests.support.made_files import mutations
from tests.support.training_runs import RECIPE


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A dataset with a quarantine, a duplicate and an odd name."""
    root = tmp_path_factory.mktemp("records")
    (root / "images" / "ash").mkdir(parents=True)
    rng = np.random.default_rng(3)
    for i in range(6):
        pixels = rng.integers(0, 256, (12, 14, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "images" / "ash" / f"{i}.jpg")
    shutil.copy(root / "images" / "ash" / "0.jpg", root / "images" / "ash" / "again.jpg")
    (root / "images" / "ash" / "bad.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut")
    prepare(root / "images", root / "data")
    return root / "data"


@pytest.fixture(scope="module")
def trained(dataset, tmp_path_factory):
    """A run, with an evaluation of each kind and a bench report in it."""
    out = tmp_path_factory.mktemp("records") / "run"
    recipe = dataclasses.replace(RECIPE, epochs=1)
    options = RunOptions(out=str(out), val=str(dataset), val_every=1, log_every=2)
    saved = train(dataset, recipe, options)
    score = {"top1": 0.5, "low": 0.4, "high": 0.6, "top5": None, "images": 10, "classes": []}
    about = {
        "checkpoint": "x", "step": saved.step, "weights": checkpoints.trunk_digest(saved),
        "size": 16, "data": ["a/train", "a/val"],
    }
    rows = {
        "knn": [{"features": "trained", "protocol": "DINO", "k": 20, "T": 0.07, **score}],
        "linear": [{"features": "trained", "rate": 3.0, "held_out": {"3.0": 0.4}, "score": score}],
        "finetune": {"trained": score},
    }
    for name, content in rows.items():
        (out / f"{name}.json").write_text(json.dumps({**about, "protocol": "p", "rows": content}))
    rates = {"decode": 1000, "two views": 500, "augmentation alone": 250, "step alone": 125,
             "two views + augmentation + step": 60}
    (out / "bench.json").write_text(json.dumps({
        "stages": [{"name": n, "images_per_s": r} for n, r in rates.items()], "machine": "m",
        "binds": "b", "advice": "a", "recipe": "moco-v2", "size": 16, "batch": 16,
        "precision": "float32", "cores": 1,
    }))
    return out, saved


def look_at_data(folder):
    """Reads the small files of a dataset as prep, inspect, verify and train do."""
    reports = verify(folder, quick=1, workers=1)
    shown_json([dataclasses.asdict(r) for r in reports])
    summary(read_manifest(folder))
    store = open_store(folder)
    store.key(len(store) - 1)
    found = survey(folder, sample=1, workers=1)
    lines(found), shown_json(dataclasses.asdict(found))
    Other(folder)


def look_at_run(out, saved, name):
    """Reads the small files of a run as report, compare, export and bench --against do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fastmoco.terminal.console.say", str)
        patch.setattr(
            "fastmoco.terminal.console.table", lambda _h, rows: [list(row) for row in rows]
        )
        # Hashing the weights is slow.
        patch.setattr("fastmoco.weights.export.model_card.trunk_digest", lambda _: saved)
        evaluated, bars = tables(out)[0], waterfall(out)
        record = read_run(out)
        results(checkpoints.Checkpoint(record.recipe, {}, {}, {}, 6, "", 96), out)
        if name in ("run.json", "metrics.jsonl"):
            found = compare([out])
            print_comparison(found)
            shown_json(dataclasses.asdict(found))
        page(record, Pictures(), evaluated, bars).encode("utf-8", "backslashreplace")
        if name == "bench.json":
            read_report(out / name)


def tolerated(look, damaged, what):
    """True if `look` accepts the damaged file, False if it refuses it; fails on any other error."""
    try:
        look()
        return True
    except UserError as error:
        assert str(error) and "\n" not in str(error)
        return False
    except Exception as error:
        raise AssertionError(f"{what}: {damaged[:200]!r}") from error


@pytest.mark.parametrize("name", ["manifest.json", "quarantine.jsonl", "duplicates.jsonl",
                                  "keys.txt", "digests.npy"])
def test_a_damaged_file_of_a_dataset_is_one_line(prepared, tmp_path, name):
    folder = tmp_path / "data"
    shutil.copytree(prepared, folder)
    file = folder / name
    plain = file.read_bytes()
    look_at_data(folder)
    taken = []
    for damaged, what in mutations.texts(plain):
        file.write_bytes(damaged)
        taken.append(tolerated(lambda: look_at_data(folder), damaged, what))
    assert taken.count(False) > 10
    if not name.endswith(("json", "jsonl")):
        return
    row = json.loads(plain.splitlines()[0] if name.endswith("l") else plain)
    size = len(plain)
    for text, what in mutations.values(row):
        if name.endswith("l"):  # any other size than the manifest's is refused at once
            text = text[:size].ljust(size - 1) + "\n"
        file.write_text(text)
        tolerated(lambda: look_at_data(folder), text, what)


@pytest.mark.parametrize("name", ["run.json", "metrics.jsonl", "knn.json", "linear.json",
                                  "finetune.json", "bench.json"])
def test_a_damaged_file_of_a_run_is_one_line_or_left_out(trained, tmp_path, name):
    (source, checkpoint), out = trained, tmp_path / "run"
    saved = checkpoints.trunk_digest(checkpoint)
    out.mkdir()
    for path in source.glob("*.json*"):
        shutil.copy(path, out)
    file = out / name
    plain = file.read_bytes()

    def look():
        look_at_run(out, saved, name)

    look()
    for damaged, what in mutations.texts(plain):
        file.write_bytes(damaged)
        tolerated(look, damaged, what)
    rows = plain.decode().splitlines() if name.endswith("l") else [plain.decode()]
    kinds = {json.loads(row).get("event"): i for i, row in enumerate(rows)}
    for at in kinds.values():
        for text, what in mutations.values(json.loads(rows[at])):
            file.write_text("\n".join([*rows[:at], text, *rows[at + 1 :], ""]))
            tolerated(look, text, what)
            if name.endswith("l"):
                tolerated(lambda: resumed(out, file), text, what)


def resumed(out, metrics):
    """Reads metrics.jsonl as --resume does."""
    kept = metrics.read_bytes()
    (out / "checkpoint.pt").touch()
    Watch(RunDir(out, resume=True).open(resumed_at=6))
    metrics.write_bytes(kept)


def test_a_manifest_names_files_of_its_own_folder_only(prepared, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(prepared, folder)
    plain = json.loads((folder / "manifest.json").read_text())
    shutil.copy(folder / "train.beton", tmp_path / "outside.beton")
    absolute = str(tmp_path / "outside.beton")
    for name in (absolute, "../outside.beton", "./train.beton", "..", "a\0b"):
        changed = {**plain, "data": [name], "files": plain["files"] | {
            name: plain["files"]["train.beton"]
        }}
        (folder / "manifest.json").write_text(json.dumps(changed))
        with pytest.raises(UserError, match="is no file in this folder"):
            open_store(folder)


@pytest.mark.parametrize("change, line", [
    ({"samples": "6"}, "samples is text, not a whole number"),
    ({"samples": -1}, "samples is below 0"),
    ({"samples": 2**64}, "samples is a number of more than 64 bits"),
    ({"labelled": 99}, "labelled is above samples"),
    ({"classes": ["a", 1]}, r"classes\[1\] is a whole number, not text"),
    ({"largest": [1]}, "largest is not a height and a width"),
    ({"new": 1}, "new is not known"),
])
def test_the_line_names_the_value_at_fault(prepared, tmp_path, capsys, change, line):
    folder = tmp_path / "data"
    shutil.copytree(prepared, folder)
    plain = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(plain | change))
    with pytest.raises(UserError, match=rf"damaged; remove .* and run prep again \({line}\)"):
        read_manifest(folder)
    for argv in (["inspect", folder], ["verify", folder], ["prep", prepared, folder],
                 ["train", folder], ["views", folder, "--out", tmp_path / "v.png"]):
        assert "manifest.json: damaged" in refused(capsys, *argv)


def test_damaged_rows_of_a_log_are_left_out_and_reported(trained, tmp_path, capsys):
    (source, _), out = trained, tmp_path / "run"
    shutil.copytree(source, out)
    with open(out / "metrics.jsonl", "a") as file:
        file.write('{"event": "evaluated", "step": "7"}\nnot JSON\n')
    record = read_run(out)
    assert [row["step"] for row in record.evaluated] == [0, 6]
    assert "2 damaged lines, the first left out (step is text" in record.damaged
    assert compare([out]).damaged == [record.damaged]
    run = RunDir(out, resume=True)
    kept = run.open(resumed_at=6)
    assert len(kept) == len(record.progress) + 2 + len(record.judged)
    assert "metrics.jsonl: 2 damaged lines" in run.damaged[0]


def test_a_recipe_is_read_back_as_it_was_and_its_types_are_held():
    recipe = dataclasses.replace(RECIPE, progressive=(8, 16))
    assert from_dict(json.loads(json.dumps(to_dict(recipe)))) == recipe
    for name, value in (("K", "64"), ("K", 64.0), ("symmetric", 1), ("stem", "x"), ("lr", "0.1"),
                        ("progressive", ["8"]), ("unknown", 1)):
        with pytest.raises(Damaged, match=f"recipe.{name}"):
            from_dict(to_dict(recipe) | {name: value})
    assert typed(Recipe, recipe) is recipe


def test_a_pipe_in_place_of_a_log_does_not_wait(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(Damaged, match="not a regular file"):
        list(read_lines(tmp_path / "pipe"))
