"""bench.training.step: the official way computes what ours does; rounds, promises."""

import dataclasses
import json
import sys
import time

import torch
import torch.nn.functional as F

from bench.shared.rounds import alternate
from bench.training.step import __main__ as step
from bench.training.step.__main__ import judged, sizes
from bench.training.step.sides import CPU, Official, flops_an_image, product_rate
from fastmoco.loading.batch import Prepared
from fastmoco.model.build import build_moco, make_optimizer
from fastmoco.system.device import grad_scaler
from fastmoco.training.step import training_step


def test_the_arithmetic_of_a_step_is_counted():
    """ResNet-50 takes 4.1 G multiply-adds forward; twice that backward; the keys forward alone."""
    photo = sizes(8, quick=False).photo
    assert abs(flops_an_image(photo) / (4 * 2 * 4.09e9) - 1) < 0.05
    assert product_rate("float32", side=64, rounds=1) > 0


def test_the_official_way_computes_what_ours_does():
    """Four steps on the same images: the same losses, keys and weights."""
    recipe = dataclasses.replace(sizes(8, quick=True).photo, precision="float32", m=0.9, lr=0.1)
    torch.manual_seed(0)
    moco, theirs = build_moco(recipe, 50, CPU), Official(recipe)
    theirs.encoder_q.load_state_dict(moco.encoder_q.state_dict())
    theirs.encoder_k.load_state_dict(moco.encoder_q.state_dict())
    theirs.queue.copy_(moco.dictionary.keys.T)
    optimizer, scaler = make_optimizer(moco, recipe), grad_scaler(CPU, "float32")
    their_optimizer = torch.optim.SGD(
        theirs.encoder_q.parameters(), recipe.lr, 0.9, weight_decay=recipe.weight_decay
    )
    for _ in range(4):
        images = torch.randn(2, recipe.batch, 3, 16, 16)
        batch = Prepared(images, torch.arange(recipe.batch), None, None)
        out = training_step(moco, optimizer, scaler, batch, recipe)
        logits = theirs(*images)
        loss = F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.int64))
        their_optimizer.zero_grad()
        loss.backward()
        their_optimizer.step()
        torch.testing.assert_close(out.loss, loss, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(moco.dictionary.keys.T, theirs.queue, atol=1e-3, rtol=1e-3)
    weights = zip(moco.encoder_q.parameters(), theirs.encoder_q.parameters(), strict=True)
    assert all(torch.allclose(a, b, atol=1e-3) for a, b in weights)
    assert theirs.place == 4 * recipe.batch


def test_rounds_are_interleaved_and_end_in_time():
    order = []
    ready = {("x", by): lambda by=by: order.append(by) or 1.0 for by in "ab"}
    found = alternate(ready, 2, end=time.monotonic() + 60)
    assert found == {("x", "a"): [1, 1], ("x", "b"): [1, 1]}
    assert order == ["a", "b", "a", "b"]
    assert alternate(ready, 5, end=time.monotonic() - 1) == {("x", "a"): [1], ("x", "b"): [1]}


def test_a_promise_is_judged_by_the_rounds_ratios():
    """A machine that slows down to a tenth after the first round changes no ratio."""
    what, faster, slower, times = step.PROMISES[0]
    found = {(what, faster): [40.0, 4.0, 4.0], (what, slower): [10.0, 1.0, 1.01]}
    assert judged(found) == [(f"{what}: 4.00 times {slower} ({times:g} promised)", True)]
    found[what, slower] = [10.1, 1.01, 1.0]
    assert [good for _, good in judged(found)] == [False]


def test_the_script_runs_and_writes(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "lightly", None)  # its workers would take too long here
    out = tmp_path / "result.json"
    given = ["--images", str(folder), "--quick", "--rounds", "1", "--steps", "1", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["bench.training.step", *given])
    assert step.main() == 0
    found = json.loads(out.read_text())
    assert len(found["rates"]) == 8 and all(r[0] > 0 for r in found["rates"].values())
    assert len(found["promises"]) == 3  # no word about lightly, which was not measured
    assert all(0 <= share[0] <= 1 for share in found["data_wait"].values())
    printed = capsys.readouterr().out
    assert "no lightly here: left out" in printed and "data wait" in printed
