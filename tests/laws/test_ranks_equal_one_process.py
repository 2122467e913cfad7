"""Ranks are one process with its batch split: gloo processes against ours, in float64."""

import dataclasses
import itertools
import json
import re
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from data_tools.errors import UserError
from fastmoco import draws
from fastmoco.loading.batch import Prepared
from fastmoco.model.build import build_moco, make_optimizer
from fastmoco.recipe import MOCO_V2
from fastmoco.run_options import RunOptions
from fastmoco.runs.events import Noted
from fastmoco.system.ranks import ALONE, Ranks
from fastmoco.training import metrics
from fastmoco.training import train as training
from fastmoco.training.checks import check_parts
from fastmoco.training.step import training_step
from fastmoco.training.train import train
from fastmoco.weights import checkpoint as checkpoints
from tests.support.training_runs import RECIPE, STEPS

CPU = torch.device("cpu")
SAMPLES, BATCH, K = 50, 16, 24  # the ring wraps inside the second batch
LAW = dataclasses.replace(
    MOCO_V2, arch="resnet-mini", size=8, batch=BATCH, bn_splits=2, K=K, dim=8, m=0.9, lr=0.05,
    precision="float32",
)


def steps(ranks, recipe, pieces, count=2):
    """Take `count` steps.

    Returns the mean loss of each step, the gradients, the state that is trained or remembered, and
    the names of the tensors in which the ranks differ."""
    torch.manual_seed(0)
    moco = build_moco(recipe, SAMPLES, CPU, ranks, pieces).double()
    moco.distribute()
    optimizer = make_optimizer(moco, recipe)
    gradients = []
    optimizer.register_step_pre_hook(
        lambda *_: gradients.append([p.grad.clone() for p in moco.trained()])
    )
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    torch.manual_seed(1)
    n, losses = BATCH // ranks.size, []
    mine = slice(ranks.rank * n, (ranks.rank + 1) * n)
    for step in range(count):
        images = torch.randn(2, BATCH, 3, 8, 8).double()
        index, shuffle = torch.randperm(SAMPLES)[:BATCH], torch.randperm(BATCH)
        drawn = torch.from_numpy(draws.bank_negatives(0, step, recipe.K, SAMPLES))
        batch = Prepared(images[:, mine], index[mine], shuffle, drawn)
        out = training_step(moco, optimizer, scaler, batch, recipe, pieces)
        losses.append(out.loss.detach().clone())
    ranks.mean_(losses)
    state = {
        name: x for name, x in moco.state_dict().items()
        if "running" not in name and "num_batches" not in name
    }
    return losses, gradients, state, ranks.differing(moco.state_dict())


@pytest.mark.parametrize(
    ("values", "pieces"),
    [
        ({"mechanism": "queue"}, 1),
        ({"bn_splits": 4}, 1),  # two parts per rank
        ({"symmetric": True, "K": 40}, 1),
        ({"mechanism": "memory-bank"}, 1),
        ({"mechanism": "end-to-end"}, 1),
        ({"mechanism": "end-to-end", "shared": True}, 1),
        ({"mechanism": "end-to-end", "symmetric": True}, 1),
        ({"bn_splits": 4}, 2),
        ({"bn_splits": 4, "symmetric": True, "K": 40}, 2),
        ({"bn_splits": 4, "mechanism": "memory-bank"}, 2),
    ],
    ids=lambda x: " ".join(map(str, x.values())) if isinstance(x, dict) else f"x{x}",
)
def test_ranks_are_the_parts_of_one_process(gloo, values, pieces):
    recipe = dataclasses.replace(LAW, **values)
    check_parts(recipe, Ranks(0, 2), pieces)
    expected = steps(ALONE, recipe, 1)
    for found in gloo.run(steps, recipe, pieces):
        assert len(found[1]) == 2 and found[3] == []
        for ours, theirs in zip(found[:3], expected[:3], strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=0)


def whole_run(ranks, dataset, out, resume=False, stop_at=0):
    """Run; return the ids that this rank trained on, per step, and the events that it reported.

    The last rank gets SIGTERM in step stop_at."""
    seen, told, step = [], [], training.training_step

    def watched(moco, optimizer, scaler, batch, *rest, **named):
        seen.append(batch.index.tolist())
        if len(seen) == stop_at and ranks.rank == ranks.size - 1:
            signal.raise_signal(signal.SIGTERM)
        return step(moco, optimizer, scaler, batch, *rest, **named)

    training.training_step = watched
    try:
        train(dataset, RECIPE, RunOptions(out=out, log_every=4, resume=resume), [told.append])
    finally:
        training.training_step = step
    return seen, [type(e).__name__ for e in told], [e.text for e in told if isinstance(e, Noted)]


def joined(answers):
    """The ids of each whole batch, and the events of the one rank that reported any."""
    parts, told, _ = zip(*answers, strict=True)
    assert told[0] and not any(told[1:])
    return [sum(ids, []) for ids in zip(*parts, strict=True)]


@pytest.mark.parametrize("begun_by", [2, 1])
def test_a_run_goes_on_with_other_ranks_in_the_same_order(gloo, dataset, tmp_path, begun_by):
    out = str(tmp_path / "run")
    order = [
        ids.tolist() for epoch in range(3)
        for ids in np.split(draws.permutation(RECIPE.seed, epoch, 96), 6)
    ]
    if begun_by == 2:
        answers = gloo.run(whole_run, dataset, out, False, 9)
        rest = [whole_run(ALONE, dataset, out, True)]
    else:
        answers = [whole_run(ALONE, dataset, out, False, 9)]
        rest = gloo.run(whole_run, dataset, out, True)
    begun, ended = joined(answers), joined(rest)
    assert len(begun) == (10 if begun_by == 2 else 9)  # ranks learn the vote one step later
    assert begun + ended == order
    assert answers[0][1][-2:] == rest[0][1][-2:] == ["Saved", "Ended"]
    now = 3 - begun_by
    assert f"not to the same bits as before: ranks was {begun_by}, is {now}" in rest[0][2]
    last = checkpoints.load(out)
    assert last.step == STEPS and last.versions["ranks"] == str(now)
    rows = map(json.loads, Path(out, "metrics.jsonl").read_text().splitlines())
    assert [r["step"] for r in rows if r["event"] == "progress"] == [4, 8, 12, 16, 18]


def budgeted_run(ranks, dataset, out):
    """The plan that this rank followed, and its last step."""
    recipe = dataclasses.replace(RECIPE, epochs=100_000)
    options = RunOptions(out=out, budget="10s", val=str(dataset), val_every=20, log_every=4)
    last = train(dataset, recipe, options)
    return last.plan, last.step


def test_a_budget_is_one_plan_for_all_ranks(gloo, dataset, tmp_path):
    """Only rank 0 knows the duration of kNN; all ranks end at the same step nevertheless."""
    first, second = gloo.run(budgeted_run, dataset, str(tmp_path / "run"))
    assert first == second and len(first[0]) > 1 and first[1] == first[0][-1][2]


def test_a_run_ends_where_the_ranks_have_drifted_apart(gloo, dataset, tmp_path):
    out = str(tmp_path / "run")
    for rank, error in enumerate(gloo.run(drifted_run, dataset, out)):
        if isinstance(error, UserError):
            assert re.search(r"the same model at step 6 \(dictionary.keys and \d+ o", str(error))
        else:
            assert isinstance(error, SystemExit) and error.code == 2, rank
    assert checkpoints.load(out).step == 5  # the one before the bit was lost


def drifted_run(ranks, dataset, out):
    """Rank 1's queue loses a bit in the sixth step; checked at every log line."""
    step, count = training.training_step, itertools.count(1)

    def spoiled(moco, *rest, **named):
        if next(count) == 6 and ranks.rank == 1:
            moco.dictionary.keys[3, 3] += 1e-3
        return step(moco, *rest, **named)

    training.training_step, metrics.COMPARE_EVERY = spoiled, 1
    try:
        train(dataset, RECIPE, RunOptions(out=out, log_every=4, checkpoint_minutes=0))
    finally:
        training.training_step, metrics.COMPARE_EVERY = step, 10


@pytest.mark.parametrize(
    ("values", "size", "pieces", "line"),
    [
        ({"batch": 20}, 3, 1, "--batch 20 does not divide into 3 ranks: use 21, or another"),
        ({"batch": 16}, 32, 1, "--batch 16 does not divide into 32 ranks: use 32, or another"),
        ({"bn_splits": 1}, 2, 1, "--bn-splits 1 does not divide into 2 ranks: use 2, or another"),
        ({"bn_splits": 2}, 2, 2, "into 2 ranks times --accumulate 2: use 4, or another multiple"),
        ({"bn_splits": 2}, 1, 4, "--bn-splits 2 does not divide into --accumulate 4: use 4"),
        ({"split": "keys"}, 2, 1, "--split keys works on one device"),
        ({"mechanism": "end-to-end"}, 1, 2, "needs all keys of a batch at once"),
    ],
)
def test_what_does_not_divide_is_one_line(values, size, pieces, line):
    recipe = dataclasses.replace(LAW, **values)
    with pytest.raises(UserError, match=line):
        check_parts(recipe, Ranks(0, size), pieces)
    check_parts(dataclasses.replace(LAW, batch=48, bn_splits=4), Ranks(0, 2), 2)
