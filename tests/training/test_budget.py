"""A run that must be done by a certain time: its plan, its schedule, and when it ends."""

import dataclasses
import os
import signal
import time
import types

import pytest

from data_tools.errors import UserError
from fastmoco.recipe import MOCO_CIFAR
from fastmoco.run_options import RunOptions
from fastmoco.runs.events import Ended, Noted, Progress
from fastmoco.system.ranks import ALONE
from fastmoco.training import budget as budgets
from fastmoco.training.budget import Budget, Plan
from fastmoco.training.schedule import learning_rate
from fastmoco.training.train import train
from tests.support.training_runs import RECIPE

PER_EPOCH = 100
LONG = dataclasses.replace(MOCO_CIFAR, schedule_by="step", warmup=2.0)  # 200 epochs


def drawn_anew(*renewals):
    """A plan that began without an end, renewed at (step, steps)."""
    plan = Plan([(0, 0.0, 0)])
    for step, steps in renewals:
        plan.renew(step, steps)
    return plan


RENEWED = [
    drawn_anew((2, 500)),
    drawn_anew((2, 500), (250, 300)),
    drawn_anew((2, 500), (250, 900), (700, 760), (755, 758)),
    drawn_anew((9, 40), (30, 31)),
    drawn_anew((9, 400), (200, 100)),  # more is done than it should be: one step is left
]


@pytest.mark.parametrize("plan", RENEWED)
def test_the_share_behind_grows_from_0_to_1(plan):
    shares = [plan.done(step) for step in range(plan.steps + 1)]
    assert shares[0] == 0 and shares[-1] == 1 and shares[-2] < 1
    assert all(a <= b for a, b in zip(shares, shares[1:], strict=False))
    assert plan.budgeted and Plan(list(plan.lines)) == plan
    for step, share, _ in plan.lines:  # a new line begins where the old one was
        assert plan.done(step) == pytest.approx(share)


def test_what_is_behind_stays_as_it_was():
    plan = drawn_anew((2, 500), (250, 900))
    before = [plan.done(step) for step in range(600)]
    plan.renew(600, 650)
    assert [plan.done(step) for step in range(600)] == before
    assert plan.steps == 650


def test_without_a_budget_it_is_a_straight_line():
    plan = Plan([(0, 0.0, 400)])
    assert [plan.done(s) for s in (0, 100, 400, 500)] == [0, 0.25, 1, 1] and not plan.budgeted


@pytest.mark.parametrize("plan", RENEWED[:4])
def test_the_cosine_is_complete_however_often_it_is_stretched(plan):
    rates = [
        learning_rate(LONG, plan.done(step), PER_EPOCH, plan.budgeted)
        for step in range(plan.steps + 1)
    ]
    top = rates.index(max(rates))
    assert 0.99 * LONG.lr < rates[top] <= LONG.lr
    assert rates[:top] == sorted(rates[:top]) and rates[top:] == sorted(rates[top:], reverse=True)
    assert rates[-1] == pytest.approx(0, abs=1e-9)  # of the step that would come next


def test_steps_drop_in_a_budget_where_they_should():
    recipe = dataclasses.replace(LONG, schedule="step", warmup=0.0)
    plan = drawn_anew((0, 1000))
    rates = [learning_rate(recipe, plan.done(s), PER_EPOCH, True) for s in (0, 599, 600, 799, 800)]
    assert rates == pytest.approx([0.06, 0.06, 0.006, 0.006, 0.0006])


class Machine:
    """A clock that steps move: `cost(done)` seconds a step, where `done` of the budget is gone."""

    def __init__(self, cost, budget, monkeypatch):
        self.cost, self.budget, self.now = cost, budget, 0.0
        clock = types.SimpleNamespace(monotonic=lambda: self.now)
        monkeypatch.setattr(budgets, "time", clock)


def run_on(machine, recipe=LONG, knn=0.0, cost=None):
    """The loop of train as far as the budget sees it; returns the plan."""
    every = 10 if knn else 0
    budget = Budget(
        machine.budget, "--budget", recipe, PER_EPOCH, 0.0, RunOptions(log_every=50), every
    )
    budget.aside = knn
    plan, step, log_every, since, count = drawn_anew(), 0, 1, 0.0, 0
    while step != plan.steps or not plan.steps:
        due = (step + 1) % log_every == 0 or step + 1 == plan.steps
        took = cost(plan, step) if cost else machine.cost(machine.now / machine.budget)
        machine.now += took
        since, step, count = since + took, step + 1, count + 1
        if due:
            log_every, _ = budget.renew(plan, step, since / count, ALONE.share)
            since, count = 0.0, 0
        if every and step % (every * PER_EPOCH) == 0:
            machine.now += knn
    machine.now += knn
    return plan


def once(cost):
    """Make a cost with one slow step (above a second); later slow ones take 0.1 seconds."""
    stopped = []

    def step(done):
        if stopped or cost(done) <= 1:
            return 0.1
        stopped.append(done)
        return cost(done)

    return step


@pytest.mark.parametrize(
    "cost",
    [
        lambda done: 0.1,
        lambda done: 0.1 if done < 0.5 else 0.3,  # other work comes
        lambda done: 0.3 if done < 0.5 else 0.1,  # and goes
        lambda done: 0.1 if done < 0.9 else 0.4,
        lambda done: 0.1 if done < 0.95 else 0.8,
        lambda done: 0.1 + 0.1 * (int(1000 * done) % 7 == 0),
        lambda done: 5.0 if done < 0.02 else 0.1,  # the first steps compile
        once(lambda done: 60.0 if done > 0.3 else 0.1),  # SIGSTOP, SIGCONT a minute later
        once(lambda done: 10.0 if done > 0.9 else 0.1),
    ],
    ids=["steady", "slower", "faster", "slower late", "at the end", "uneven", "slow start",
         "stopped", "stopped late"],
)
def test_a_run_ends_inside_its_budget_whatever_the_machine_does(cost, monkeypatch):
    machine = Machine(cost, 300.0, monkeypatch)
    plan = run_on(machine)
    assert 0.92 * 300 <= machine.now <= 300
    assert plan.done(plan.steps) == 1
    last = learning_rate(LONG, plan.done(plan.steps - 1), PER_EPOCH, True)
    assert last < 0.01 * LONG.lr


def test_a_stopped_process_does_not_hurry_its_schedule(monkeypatch):
    """A minute's stop in a budget of five leaves four: a step's share of the training may grow by
    half, not by hundreds of times."""
    machine, shares = Machine(None, 300.0, monkeypatch), []

    def cost(plan, step):
        shares.append(plan.done(step + 1) - plan.done(step))
        return 60.0 if step == 800 else 0.1

    plan = run_on(machine, cost=cost)
    assert 0.92 * 300 <= machine.now <= 300 and plan.steps > 2200
    assert max(shares[100:]) < 1.5 * min(s for s in shares[100:] if s)


def test_the_time_of_knn_is_kept_free(monkeypatch):
    machine = Machine(lambda done: 0.1, 300.0, monkeypatch)
    run_on(machine, knn=12.0)
    assert 0.85 * 300 <= machine.now <= 300


def test_later_larger_views_are_reckoned_with(monkeypatch):
    recipe = dataclasses.replace(LONG, size=32, progressive=(16, 24, 32))
    machine = Machine(None, 300.0, monkeypatch)
    lengths = []

    def cost(plan, step):
        lengths.append(plan.steps)
        return 0.1 * (recipe.size_at(plan.done(step)) / 16) ** 2

    plan = run_on(machine, recipe, cost=cost)
    assert 0.92 * 300 <= machine.now <= 300 and plan.done(plan.steps) == 1
    known = [n for n in lengths if n]
    assert max(known) < 1.15 * min(known)  # foreseen from the first on


BUSY = 4.0  # seconds that a step may hang on a machine with much else to do; Machine is exact


def test_a_real_run_ends_inside_its_budget(dataset, tmp_path):
    told, begun = [], time.monotonic()
    recipe = dataclasses.replace(RECIPE, epochs=100_000)  # far more than there is time for
    options = RunOptions(out=str(tmp_path / "run"), budget="12s", val=str(dataset))
    last = train(dataset, recipe, options, [told.append])
    seconds = time.monotonic() - begun
    assert 6 < seconds <= 12 + BUSY
    ended, progress = told[-1], [e for e in told if isinstance(e, Progress)]
    assert isinstance(ended, Ended) and ended.finished and ended.step == ended.steps == last.step
    assert 0 <= progress[-1].lr < 0.05 * recipe.lr < max(p.lr for p in progress)
    assert Plan(last.plan).done(last.step) == 1
    notes = [e.text for e in told if isinstance(e, Noted) and "--budget 12s" in e.text]
    assert notes and "epochs" in notes[0] and "done at about" in notes[0]
    assert progress[len(progress) // 2].budget_left < 12


def stopping(at):
    """A listener that asks the run to stop, as a job that ends does, from a step on."""

    def listen(event):
        if isinstance(event, Progress) and event.step >= at:
            os.kill(os.getpid(), signal.SIGTERM)

    return listen


def test_a_resumed_run_has_what_is_left_and_the_same_rates_behind_it(dataset, tmp_path):
    recipe = dataclasses.replace(RECIPE, epochs=1000)
    options = RunOptions(out=str(tmp_path / "run"), budget="60s")
    begun = time.monotonic()
    first = train(dataset, recipe, options, [stopping(30)])
    assert first.step >= 30 and Plan(first.plan).steps > first.step
    options = dataclasses.replace(options, resume=True)
    second = train(dataset, recipe, options, [stopping(first.step + 1)])
    used = time.monotonic() - begun
    assert second.plan[: len(first.plan)] == first.plan
    spent = second.clock["budget_seconds"]
    assert first.clock["budget_seconds"] < spent <= used  # of both sessions
    assert spent > 0.6 * used
    told, begun = [], time.monotonic()
    options = dataclasses.replace(options, budget=f"{spent + 8:.3f}s")
    last = train(dataset, recipe, options, [told.append])
    assert time.monotonic() - begun <= 8 + BUSY
    assert last.plan[: len(second.plan)] == second.plan
    assert told[-1].finished and last.step > second.step
    assert spent < last.clock["budget_seconds"] <= spent + 8 + BUSY
    progress = [e for e in told if isinstance(e, Progress)]
    assert progress[-1].lr < 0.05 * recipe.lr


def test_a_run_goes_on_without_its_budget_by_its_last_plan(dataset, tmp_path):
    out, recipe = tmp_path / "run", dataclasses.replace(RECIPE, epochs=1000)
    stopped = train(dataset, recipe, RunOptions(out=str(out), budget="8s"), [stopping(9)])
    steps = Plan(stopped.plan).steps
    assert steps > stopped.step >= 9
    last = train(dataset, recipe, RunOptions(out=str(out), resume=True))
    assert last.step == steps and last.plan == stopped.plan


def test_too_short_for_one_epoch_is_one_line(dataset, tmp_path):
    recipe = dataclasses.replace(RECIPE, batch=2, bn_splits=1)  # 48 steps an epoch
    with pytest.raises(UserError) as raised:
        train(dataset, recipe, RunOptions(out=str(tmp_path / "run"), budget="0.2s"))
    line = str(raised.value)
    assert line.startswith("--budget 0.2s is too short for one epoch, which takes ")
    assert "images/s: give " in line and "\n" not in line
    assert not (tmp_path / "run" / "checkpoint.pt").exists()


def test_what_came_before_training_counts(dataset, tmp_path):
    """The command's imports and preparations count, which are before the call of train."""
    started = time.monotonic() - 40
    recipe = dataclasses.replace(RECIPE, epochs=1000)
    options = RunOptions(out=str(tmp_path / "run"), budget="48s")
    last = train(dataset, recipe, options, [], started)
    assert 40 < last.clock["budget_seconds"] <= time.monotonic() - started <= 48 + BUSY
    assert last.clock["train_seconds"] < 8 + BUSY
