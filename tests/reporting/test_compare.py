"""Compared runs: their differences, their results, the spread over seeds."""

import dataclasses
import json
import shutil
import statistics

import pytest

from data_tools.errors import UserError
from fastmoco.reporting.compare import compare
from fastmoco.run_options import RunOptions
from fastmoco.training.train import train
from tests.support.command_line import refused, run
from tests.support.training_runs import RECIPE


@pytest.fixture(scope="module")
def runs(dataset, tmp_path_factory):
    """Three runs: two seeds of one recipe with kNN, and one with another T and no kNN."""
    root = tmp_path_factory.mktemp("runs")
    small = dataclasses.replace(RECIPE, batch=48, epochs=2)
    for name, seed in (("one", 1), ("two", 2)):
        options = RunOptions(out=str(root / name), val=str(dataset), val_every=1, log_every=1)
        train(dataset, dataclasses.replace(small, seed=seed), options)
    train(dataset, dataclasses.replace(small, T=0.5), RunOptions(out=str(root / "warm")))
    return root


def rows(path, event):
    found = map(json.loads, (path / "metrics.jsonl").read_text().splitlines())
    return [row for row in found if row["event"] == event]


def test_a_row_has_the_figures_of_its_run(runs):
    one = compare([runs / "one"]).runs[0]
    knn = [row["knn"] for row in rows(runs / "one", "evaluated")]
    assert len(knn) == 3 and one.knn_best == max(knn[1:]) and one.knn_last == knn[-1]
    assert one.knn_best_epoch in (1.0, 2.0)
    lines = rows(runs / "one", "progress")
    assert one.loss == lines[-1]["loss"] and one.chance == lines[-1]["chance"]
    assert one.images_per_s == statistics.median(r["images_per_s"] for r in lines)
    assert one.train_seconds == rows(runs / "one", "ended")[0]["train_seconds"]
    assert (one.state, one.step, one.epochs, one.differs) == ("done", 4, 2.0, {})


def test_untrained_weights_are_not_the_best(runs, tmp_path):
    shutil.copytree(runs / "one", tmp_path / "one")
    path = tmp_path / "one" / "metrics.jsonl"
    found = [json.loads(line) for line in path.read_text().splitlines()]
    first = next(row for row in found if row["event"] == "evaluated")
    assert first["step"] == 0
    first["knn"] = 1.0
    path.write_text("".join(json.dumps(row) + "\n" for row in found))
    assert compare([tmp_path / "one"]).runs[0] == dataclasses.replace(
        compare([runs / "one"]).runs[0], run=str(tmp_path / "one")
    )


def test_only_differing_fields_are_reported(runs):
    found = compare([runs / "one", runs / "two", runs / "warm"])
    assert [r.differs for r in found.runs] == [
        {"T": 0.2, "seed": 1}, {"T": 0.2, "seed": 2}, {"T": 0.5, "seed": 0}
    ]
    assert found.runs[2].knn_best is None


def test_seeds_give_mean_and_deviation(runs):
    found = compare([runs / "warm", runs / "two", runs / "one"])
    (group,) = found.groups
    assert group.seeds == [2, 1] and group.differs == {"T": 0.2}
    losses = [compare([runs / n]).runs[0].loss for n in ("one", "two")]
    spread = group.spread["loss"]
    assert spread.mean == pytest.approx(sum(losses) / 2)
    assert spread.std == pytest.approx(abs(losses[0] - losses[1]) / 2**0.5) and spread.n == 2
    assert set(group.spread) == {"loss", "knn_best", "knn_last", "images_per_s", "train_seconds"}


def test_a_run_without_an_end_is_in_no_group(runs, tmp_path):
    shutil.copytree(runs / "two", tmp_path / "killed")
    path = tmp_path / "killed" / "metrics.jsonl"
    lines = path.read_text().splitlines()
    assert '"ended"' in lines[-1]
    path.write_text("\n".join(lines[:-2]) + '\n{"event": "prog')  # cut short by the kill
    found = compare([runs / "one", tmp_path / "killed"])
    assert found.groups == [] and found.runs[1].state == "not ended"
    assert found.runs[1].train_seconds is None and found.runs[1].step == 4


def test_the_command(runs, capsys):
    argv = [runs / "one", runs / "two", runs / "warm"]
    code, text, _ = run(capsys, "compare", *argv)
    lines = text.splitlines()
    assert code == 0 and lines[0] == "3 runs" and "state" not in lines[1]
    assert lines[1].split()[:3] == ["run", "T", "seed"]  # the two fields fit beside
    assert "warm" in lines[4] and " - " in lines[4]
    assert lines[5].startswith("over seeds 1, 2 (T 0.2): loss ") and " +- " in lines[5]
    code, text, _ = run(capsys, "compare", *argv, "--json")
    found = json.loads(text)
    assert code == 0 and len(found["runs"]) == 3 and found["groups"][0]["seeds"] == [1, 2]


def test_many_differences_get_their_own_table_with_a_column_per_run(runs, tmp_path, capsys):
    shutil.copytree(runs / "warm", tmp_path / "other")
    path = tmp_path / "other" / "run.json"
    about = json.loads(path.read_text())
    about["recipe"] |= {"lr": 0.5, "m": 0.9}
    path.write_text(json.dumps(about))
    code, text, _ = run(capsys, "compare", runs / "one", tmp_path / "other")
    lines = [line.split() for line in text.splitlines()]
    assert code == 0 and lines[1][:2] == ["run", "epochs"]
    assert lines[4:] == [
        ["differs", "one", "other"], ["m", str(RECIPE.m), "0.9"], ["T", "0.2", "0.5"],
        ["lr", str(RECIPE.lr), "0.5"], ["seed", "1", "0"],
    ]


def test_a_folder_that_is_not_a_run_is_one_line(runs, tmp_path, capsys):
    assert "no run here" in refused(capsys, "compare", tmp_path)
    assert "the same run twice" in refused(capsys, "compare", runs / "one", runs / "two/../one")
    shutil.copytree(runs / "one", tmp_path / "bad")
    (tmp_path / "bad" / "run.json").write_text('{"recipe": {"name": "x"')
    assert "damaged" in refused(capsys, "compare", tmp_path / "bad")
    with pytest.raises(UserError, match="RUN is missing"):
        compare([])


@pytest.mark.parametrize(("name", "value"), [
    ("loss", -1e308), ("loss", 1e308), ("chance", -1.0), ("images_per_s", -1e308),
    ("images_per_s", 1e300), ("pretext_accuracy", 7.0), ("data_wait", 1e9), ("lr", -1.0),
])
def test_impossible_figures_are_left_out(name, value, runs, tmp_path, capsys):
    shutil.copytree(runs / "warm", tmp_path / "run")
    line = rows(tmp_path / "run", "progress")[-1]
    with open(tmp_path / "run" / "metrics.jsonl", "a") as file:
        file.write(json.dumps(line | {name: value}) + "\n")
    found = compare([tmp_path / "run"])
    assert found.runs[0].loss == line["loss"] and f"{name} is not from" in found.damaged[0]
    assert max(map(len, run(capsys, "compare", tmp_path / "run")[1].split("\n")[:3])) < 150


def test_an_impossible_time_is_left_out(runs, tmp_path):
    shutil.copytree(runs / "warm", tmp_path / "run")
    with open(tmp_path / "run" / "metrics.jsonl", "a") as file:
        file.write(json.dumps(rows(runs / "warm", "ended")[-1] | {"train_seconds": -1e308}) + "\n")
    assert compare([tmp_path / "run"]).runs[0].train_seconds >= 0


def test_a_number_with_too_many_digits_does_not_advise_on_python(runs, tmp_path, capsys):
    shutil.copytree(runs / "warm", tmp_path / "run")
    about = (tmp_path / "run" / "run.json").read_text()
    (tmp_path / "run" / "run.json").write_text('{"samples": ' + "9" * 10_000 + "," + about[1:])
    text = refused(capsys, "compare", tmp_path / "run")
    assert "run.json: damaged" in text and "too many digits" in text and "sys." not in text
