"""A run: it logs, evaluates, saves, resumes to the same bits after a kill, stops when asked."""

import dataclasses
import json
import math
import os
import signal

import pytest
import torch

from data_tools.errors import UserError
from fastmoco.recipe import MOCO_V2
from fastmoco.run_options import RunOptions
from fastmoco.runs.events import Ended, Evaluated, Noted, Progress, Saved, Started
from fastmoco.training.pipeline import Pipeline
from fastmoco.training.train import train
from fastmoco.weights import checkpoint as checkpoints
from tests.support.training_runs import RECIPE, STEPS, assert_equal, metrics, run_python

# Runs with a checkpoint after every step, and kills itself as kill -9 does, in mid-epoch.
KILLED = """
import os, signal, sys, torch
torch.set_num_threads(1)
from fastmoco.run_options import RunOptions
from fastmoco.runs.events import Progress, Saved
from fastmoco.training.pipeline import Pipeline
from fastmoco.training.train import train
from tests.support.training_runs import RECIPE

def kill(event):
    if isinstance(event, Saved) and event.step == 9:
        os.kill(os.getpid(), signal.SIGKILL)

train(sys.argv[1], RECIPE, RunOptions(out=sys.argv[2], log_every=4, checkpoint_minutes=0), [kill])
"""


def test_killed_and_resumed_equals_undisturbed(dataset, tmp_path):
    whole = train(dataset, RECIPE, RunOptions(out=str(tmp_path / "whole"), log_every=4))
    killed = run_python(KILLED, dataset, tmp_path / "killed")
    assert killed.wait() == -signal.SIGKILL
    # 6 steps an epoch, 4 a log line: in the middle of both
    assert checkpoints.load(tmp_path / "killed").step == 9
    options = RunOptions(out=str(tmp_path / "killed"), log_every=4, resume=True)
    train(dataset, RECIPE, options)
    a, b = (vars(checkpoints.load(tmp_path / name)) for name in ("whole", "killed"))
    assert a.pop("clock").keys() == b.pop("clock").keys()
    assert a["step"] == STEPS and len(a["moco"]) > 20
    assert_equal(a, b)
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "killed")
    assert_equal(a["moco"], whole.moco)


def test_sigterm_saves_and_exits_with_0(dataset, tmp_path):
    code = KILLED.replace("signal.SIGKILL", "signal.SIGTERM").replace("minutes=0", "minutes=9")
    code = code.replace("Saved) and event.step == 9", "Progress) and event.step == 8")
    assert run_python(code, dataset, tmp_path / "run").wait() == 0
    assert checkpoints.load(tmp_path / "run").step == 8
    assert metrics(tmp_path / "run")[-1]["event"] == "ended"


def test_what_a_run_tells(dataset, tmp_path):
    told = []
    options = RunOptions(out=str(tmp_path / "run"), log_every=4, val=str(dataset), val_every=2)
    train(dataset, RECIPE, options, [told.append])
    started, ended = told[0], told[-1]
    assert isinstance(started, Started) and started.samples == 96 and started.steps_per_epoch == 6
    assert isinstance(ended, Ended) and ended.finished and ended.step == STEPS
    progress = [e for e in told if isinstance(e, Progress)]
    assert [p.step for p in progress] == [4, 8, 12, 16, 18]
    assert all(p.chance == pytest.approx(math.log(73)) and p.images_per_s > 0 for p in progress)
    assert progress[0].queue_fill == pytest.approx(64 / 72) and progress[1].queue_fill == 1
    assert all(0 <= p.data_wait <= 1 for p in progress) and progress[-1].seconds_left == 0
    assert [e.step for e in told if isinstance(e, Evaluated)] == [0, 12, 18]
    saved = [e.step for e in told if isinstance(e, Saved) and e.path.endswith("checkpoint.pt")]
    assert saved == [18]
    assert json.loads((tmp_path / "run" / "run.json").read_text())["recipe"]["K"] == 72


def test_the_run_learns_the_pretext_task(dataset, tmp_path):
    mild = dataclasses.replace(
        RECIPE.augmentation, scale=(0.5, 1.0), jitter_p=0.0, gray_p=0.0, blur_p=0.0
    )
    recipe = dataclasses.replace(
        RECIPE, head="linear", m=0.99, K=32, T=0.1, size=20, batch=32, epochs=30, lr=0.03,
        augmentation=mild,
    )
    told = []
    train(dataset, recipe, RunOptions(out=str(tmp_path / "run"), log_every=15), [told.append])
    progress = [e for e in told if isinstance(e, Progress)]
    assert progress[-1].loss < 1.5  # chance is ln(33) = 3.5
    assert progress[-1].pretext_accuracy > 0.5  # a guess is 1 in 33


@pytest.mark.parametrize(
    ("precision", "augment"),
    [("float32", "auto"), ("bfloat16", "auto"), ("float16", "auto"), ("float32", "torch"),
     ("float32", "kornia")],
)
def test_every_precision_and_backend_runs(dataset, tmp_path, precision, augment):
    recipe = dataclasses.replace(RECIPE, epochs=1, precision=precision)
    options = RunOptions(out=str(tmp_path / "run"), augment=augment)
    last = train(dataset, recipe, options)
    assert all(v.isfinite().all() for v in last.moco.values() if v.is_floating_point())


def test_a_checkpoint_of_another_recipe_or_dataset_is_refused(dataset, folder, tmp_path):
    from data_tools.prepare import prepare

    out = str(tmp_path / "run")
    train(dataset, dataclasses.replace(RECIPE, epochs=1), RunOptions(out=out))
    with pytest.raises(UserError, match="holds a run"):
        train(dataset, RECIPE, RunOptions(out=out))
    with pytest.raises(UserError, match="trained with epochs 1, not 3"):
        train(dataset, RECIPE, RunOptions(out=out, resume=True))
    prepare(folder / "ash", tmp_path / "ash")
    with pytest.raises(UserError, match="another dataset"):
        train(tmp_path / "ash", dataclasses.replace(RECIPE, epochs=1),
              RunOptions(out=out, resume=True))
    with pytest.raises(UserError, match="nothing to resume"):
        train(dataset, RECIPE, RunOptions(out=str(tmp_path / "none"), resume=True))
    assert not (tmp_path / "none").exists()


def test_a_broken_checkpoint_is_one_line(tmp_path):
    for content in (b"", b"PK\x03\x04 rubbish", b"hello"):
        (tmp_path / "checkpoint.pt").write_bytes(content)
        with pytest.raises(UserError, match="not a checkpoint"):
            checkpoints.load(tmp_path)


def test_a_failed_write_keeps_the_last_checkpoint(dataset, tmp_path, monkeypatch):
    run = tmp_path / "run"
    last = train(dataset, dataclasses.replace(RECIPE, epochs=1), RunOptions(out=str(run)))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match="No space left on device.*--resume"):
        checkpoints.save(last, run / "checkpoint.pt")
    assert checkpoints.load(run).step == 6
    assert not list(run.glob("*.partial"))


def test_a_queue_larger_than_the_dataset_is_refused(dataset, tmp_path):
    recipe = dataclasses.replace(RECIPE, epochs=1, K=97)
    with pytest.raises(UserError, match="--K 97 is larger than the dataset .96.*--K 16 or less"):
        train(dataset, recipe, RunOptions(out=str(tmp_path / "run")))
    train(dataset, recipe, RunOptions(out=str(tmp_path / "run"), force=True))


def test_small_views_leave_the_blur_out_and_say_so(dataset, tmp_path):
    told = []
    recipe = dataclasses.replace(RECIPE, epochs=1, augmentation=MOCO_V2.augmentation)
    train(dataset, recipe, RunOptions(out=str(tmp_path / "run")), [told.append])
    assert ["no blur" in e.text for e in told if isinstance(e, Noted)] == [True]


def test_unlabelled_data_can_be_watched_by_a_labelled_set(dataset, folder, tmp_path):
    from data_tools.prepare import prepare

    prepare(folder / "ash", tmp_path / "flat")
    told = []
    options = RunOptions(out=str(tmp_path / "run"), val=str(dataset))
    train(tmp_path / "flat", dataclasses.replace(RECIPE, epochs=1, K=32), options, [told.append])
    assert any(isinstance(e, Evaluated) and "bank 48" in e.protocol for e in told)


def test_a_stop_at_the_end_of_an_epoch_does_not_wait_for_the_monitor(dataset, tmp_path):
    told = []

    def listen(event):
        told.append(event)
        if isinstance(event, Progress) and event.step == 6:
            os.kill(os.getpid(), signal.SIGTERM)

    options = RunOptions(out=str(tmp_path / "run"), log_every=6, val=str(dataset), val_every=1)
    train(dataset, RECIPE, options, [listen])
    after = told[told.index(next(e for e in told if isinstance(e, Progress))) + 1 :]
    assert [type(e) for e in after] == [Saved, Ended] and not after[-1].finished


def test_a_loss_that_is_no_number_stops_the_run(dataset, tmp_path):
    with pytest.raises(UserError, match="not finite at step .*lower --lr"):
        train(dataset, dataclasses.replace(RECIPE, lr=1e30), RunOptions(out=str(tmp_path / "run"),
                                                                        log_every=2))


def test_a_resume_says_what_differs(dataset, tmp_path):
    options = RunOptions(out=str(tmp_path / "run"))
    train(dataset, dataclasses.replace(RECIPE, epochs=1), options)
    told = []
    options = dataclasses.replace(options, resume=True, augment="torch")
    train(dataset, dataclasses.replace(RECIPE, epochs=1), options, [told.append])
    assert [e.text for e in told if isinstance(e, Noted)] == [
        "not to the same bits as before: augment was numba, is torch"
    ]


def test_signal_handlers_are_given_back(dataset, tmp_path):
    train(dataset, dataclasses.replace(RECIPE, epochs=1), RunOptions(out=str(tmp_path / "run")))
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_set_up_that_fails_closes_its_engine(dataset, tmp_path, monkeypatch):
    closed, close = [], Pipeline.close
    monkeypatch.setattr(Pipeline, "close", lambda self: (closed.append(self), close(self)))

    def fail(event):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train(dataset, RECIPE, RunOptions(out=str(tmp_path / "run")), [fail])
    assert len(closed) == 1
