"""A run keeps more than its last checkpoint: the best weights by kNN, the last epochs."""

import dataclasses
import os

import pytest
import torch

from data_tools.errors import UserError
from fastmoco.cli import main
from fastmoco.run_options import RunOptions
from fastmoco.runs.events import Evaluated, Saved
from fastmoco.training.knn_monitor import Monitor
from fastmoco.training.train import train
from fastmoco.weights import checkpoint as checkpoints
from tests.support.training_runs import RECIPE, assert_equal, metrics

ROUND = dataclasses.replace(RECIPE, epochs=4, batch=48)  # 2 steps each


def names(run):
    return sorted(p.name for p in run.glob("checkpoint*"))


def weights(path):
    return checkpoints.load(path).moco


@pytest.fixture
def measured(monkeypatch):
    """kNN figures of a monitor's calls, in turn, in place of what it would measure."""

    def give(*figures):
        given = iter(figures)

        def measure(self, moco, step, per_epoch, *_):
            return Evaluated(step, step / per_epoch, next(given), "given", 0.0)

        monkeypatch.setattr(Monitor, "__call__", measure)

    return give


def run(dataset, out, **options):
    told = []
    options = RunOptions(out=str(out), val=str(dataset), val_every=1, **options)
    train(dataset, ROUND, options, [told.append])
    return told


def test_the_best_weights_by_knn_are_those_of_their_step(dataset, tmp_path, measured):
    measured(0.9, 0.3, 0.5, 0.5, 0.4)  # untrained, then epochs 1 to 4
    told = run(dataset, tmp_path / "run", keep=4)
    best = checkpoints.load(tmp_path / "run" / "checkpoint-best.pt")
    assert best.step == 4
    assert_equal(best.moco, weights(tmp_path / "run" / "checkpoint-00000004.pt"))
    saved = [e.step for e in told if isinstance(e, Saved) and e.path.endswith("-best.pt")]
    assert saved == [2, 4]


def test_without_val_there_is_no_best(dataset, tmp_path):
    train(dataset, dataclasses.replace(ROUND, epochs=1), RunOptions(out=str(tmp_path / "run")))
    assert names(tmp_path / "run") == ["checkpoint.pt"]


def test_a_resumed_run_keeps_the_best_of_the_whole(dataset, tmp_path, measured):
    measured(0.1, 0.6, 0.2)
    out = tmp_path / "run"

    def stop(event):
        if isinstance(event, Evaluated) and event.step == 4:
            raise KeyboardInterrupt

    options = RunOptions(out=str(out), val=str(dataset), val_every=1, keep=2)
    with pytest.raises(KeyboardInterrupt):
        train(dataset, ROUND, options, [stop])
    assert checkpoints.load(out).step == 2
    measured(0.2, 0.5, 0.55)  # epochs 2 to 4
    train(dataset, ROUND, dataclasses.replace(options, resume=True))
    assert checkpoints.load(out / "checkpoint-best.pt").step == 2


def test_the_last_epochs_are_kept_and_the_run_is_the_same(dataset, tmp_path):
    plain, kept = tmp_path / "plain", tmp_path / "kept"
    train(dataset, ROUND, RunOptions(out=str(plain), log_every=3))
    train(dataset, ROUND, RunOptions(out=str(kept), log_every=3, keep=2))
    assert names(kept) == ["checkpoint-00000006.pt", "checkpoint-00000008.pt", "checkpoint.pt"]
    assert names(plain) == ["checkpoint.pt"]
    assert_equal(weights(plain), weights(kept))
    assert_equal(weights(kept), weights(kept / "checkpoint-00000008.pt"))
    assert metrics(plain) == metrics(kept)


def test_a_run_taken_back_to_a_kept_epoch_comes_to_the_same_end(dataset, tmp_path):
    out = tmp_path / "run"
    options = RunOptions(out=str(out), keep=2)
    last = train(dataset, ROUND, options)
    os.replace(out / "checkpoint-00000006.pt", out / "checkpoint.pt")
    again = train(dataset, ROUND, dataclasses.replace(options, resume=True))
    assert_equal(last.moco, again.moco)
    assert_equal(last.optimizer, again.optimizer)


@pytest.mark.parametrize("links", [True, False])
def test_kept_files_go_by_steps_and_outlive_the_next_save(dataset, tmp_path, monkeypatch, links):
    if not links:

        def refuse(*_):
            raise OSError(1, "Operation not permitted")

        monkeypatch.setattr(os, "link", refuse)
    path = tmp_path / "checkpoint.pt"
    for step in (5, 10, 15, 100, 20):  # 100: of before the run was taken back
        checkpoints.save(state(step), path)
        checkpoints.keep(path, step, 2)
    assert names(tmp_path) == [
        f"checkpoint-{n:08}.pt" for n in (15, 20, 100)
    ] + ["checkpoint.pt"]
    assert [int(weights(p)["x"]) for p in sorted(tmp_path.glob("checkpoint-*"))] == [15, 20, 100]


def state(step):
    return checkpoints.Checkpoint(RECIPE, {"x": torch.tensor(step)}, {}, {}, step, "", 0)


def test_a_disk_that_is_full_while_keeping_is_one_line(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.pt"
    checkpoints.save(state(1), path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "link", full)
    monkeypatch.setattr("shutil.copyfile", full)
    with pytest.raises(UserError, match="No space left on device.*--resume"):
        checkpoints.keep(path, 1, 1)
    assert names(tmp_path) == ["checkpoint.pt"]


def test_the_best_weights_are_evaluated_but_not_resumed(dataset, tmp_path, capsys):
    out = tmp_path / "run"
    run(dataset, out)
    argv = ["knn", out / "checkpoint-best.pt", dataset, dataset, "--no-companions"]
    assert main([str(a) for a in argv]) == 0 and "trained" in capsys.readouterr().out
    os.replace(out / "checkpoint-best.pt", out / "checkpoint.pt")
    with pytest.raises(UserError, match="weights alone, which cannot be resumed"):
        run(dataset, out, resume=True)


def test_a_negative_count_is_refused(dataset, tmp_path):
    with pytest.raises(UserError, match="--keep -1"):
        run(dataset, tmp_path / "run", keep=-1)
