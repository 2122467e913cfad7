"""Each health rule warns about the history that it is for; a run that learns gets no warning."""

import dataclasses
import math
from dataclasses import replace

import pytest

from fastmoco.recipe import MOCO_CIFAR, MOCO_V2
from fastmoco.run_options import RunOptions
from fastmoco.runs.events import Evaluated, Judged, Progress, Started, from_row, to_row
from fastmoco.runs.health import Watch, verdicts
from fastmoco.training.train import train

RECIPE = replace(MOCO_V2, K=4096, epochs=100)
SAMPLES = 50_000
CHANCE = math.log(4097)
PER_EPOCH = SAMPLES // 256


def line(step, **values):
    """A log line of a run in good health."""
    usual = {
        "step": step, "steps": 100 * PER_EPOCH, "epoch": step / PER_EPOCH, "loss": 0.8 * CHANCE,
        "chance": CHANCE, "pretext_accuracy": 0.3, "queue_fill": min(1.0, step * 256 / 4096),
        "lr": 0.03, "images_per_s": 900.0, "data_wait": 0.01, "seconds_left": 3600.0,
        "alignment": 0.4, "uniformity": -2.5, "feature_std": 0.9, "grad_norm": 1.0, "memory": 4.0,
        "skipped": 0,
    }
    return Progress(**usual | values)


def knn(step, accuracy):
    return Evaluated(step, step / PER_EPOCH, accuracy, "k=200, T=0.1", 3.0)


def found(history, recipe=RECIPE, samples=SAMPLES, shown=()):
    return {v.name: v for v in verdicts(recipe, samples, history, shown)}


def healthy(count=40, first=20):
    """Log lines since the queue filled up, with a falling loss and varying gradients."""
    return [
        line(first + 20 * i, loss=CHANCE * (0.97 - 0.01 * min(i, 20)), grad_norm=1 + i % 3 / 10)
        for i in range(count)
    ]


def test_a_run_in_good_health_gets_no_warning():
    history = [knn(0, 0.33)]
    for p in healthy():
        history.append(p)
        assert found(history) == {}
    assert found([*history, knn(820, 0.36)]) == {}


def test_a_tiny_run_that_learns_only_hears_that_its_queue_fills(dataset, tmp_path):
    aug = replace(MOCO_V2.augmentation, scale=(0.5, 1.0), jitter_p=0.0, gray_p=0.0, blur_p=0.0)
    recipe = replace(
        MOCO_V2, arch="resnet-mini", size=16, batch=32, bn_splits=2, K=48, m=0.99, T=0.1,
        head="linear", epochs=40, lr=0.03, augmentation=aug,
    )
    events = []
    options = RunOptions(out=str(tmp_path / "run"), log_every=2, val=str(dataset), val_every=40)
    train(dataset, recipe, options, [events.append])
    lines = [e for e in events if isinstance(e, Progress)]
    assert len(lines) == 60 and lines[-1].loss < 0.7 * lines[-1].chance  # it does learn
    assert {e.name for e in events if isinstance(e, Judged)} <= {"filling"}


def test_a_rising_loss_is_normal_while_the_queue_fills():
    recipe = replace(RECIPE, K=65536, epochs=100)
    history = [
        line(step, loss=loss, chance=math.log(65537), pretext_accuracy=accuracy,
             queue_fill=step * 256 / 65536)
        for step, loss, accuracy in ((20, 1.9, 0.98), (40, 4.8, 0.81), (60, 6.4, 0.52))
    ]
    for i in (1, 3):
        verdict = found(history[:i], recipe, 1_281_167)["filling"]
        assert verdict.severity == "note" and "normal" in verdict.text
    full = [*history, *healthy(3, first=280)]
    assert found(full, recipe, 1_281_167) == {}


def test_a_pretext_task_solved_early_is_no_leak_while_the_queue_fills():
    history = [line(s, queue_fill=s / 500, pretext_accuracy=0.99, loss=0.1) for s in range(20, 400)]
    assert set(found(history)) == {"filling"}


def test_collapse():
    dead = [line(1000 + 20 * i, feature_std=0.004, uniformity=-1e-4, loss=CHANCE) for i in range(3)]
    verdict = found([*healthy(), *dead])["collapse"]
    assert verdict.severity == "alarm" and "0.004" in verdict.text and "--lr" in verdict.text
    fast = found([*healthy(), *dead], replace(RECIPE, m=0.0))["collapse"]
    assert "--m 0 to 0.99" in fast.text
    assert "collapse" not in found([*healthy(), *dead[:2]])  # two odd lines are no trend
    filling = [replace(p, queue_fill=0.5) for p in dead]
    assert "collapse" not in found(filling)
    back = [replace(p, feature_std=0.08) for p in dead]
    assert "collapse" not in found(back) and "collapse" in found(back, shown={"collapse"})


def test_a_loss_that_stays_at_chance():
    flat = [line(20 * i, loss=CHANCE * (1 + (-1) ** i / 200)) for i in range(1, 40)]
    verdict = found(flat)["stuck"]
    assert verdict.severity == "warning" and f"{CHANCE:.2f}" in verdict.text
    assert "stuck" not in found(flat[:5])  # too early to say
    falling = [line(20 * i, loss=CHANCE * (1.01 - i / 800)) for i in range(1, 25)]
    assert "stuck" not in found(falling)


def test_a_leak_is_a_solved_task_while_knn_does_not_rise():
    solved = [line(2000 + 20 * i, pretext_accuracy=0.985, loss=0.4) for i in range(6)]
    history = [knn(0, 0.33), *healthy(), knn(1000, 0.41), *solved]
    whole = replace(RECIPE, bn_splits=1)
    fell = found([*history, knn(2120, 0.38)], whole)["leak"]
    assert fell.severity == "alarm" and "--bn-splits 8" in fell.text and "3.3" in fell.text
    split = found([*history, knn(2120, 0.41)])["leak"]
    assert split.severity == "alarm" and "--K" in split.text and "--bn-splits 8 " not in split.text
    assert "leak" not in found([*history, knn(2120, 0.45)], whole)  # it rises


def test_a_solved_task_without_knn_is_a_warning():
    solved = [line(2000 + 20 * i, pretext_accuracy=0.99, loss=0.2) for i in range(12)]
    verdict = found([*healthy(), *solved], replace(RECIPE, bn_splits=1))["leak"]
    assert verdict.severity == "warning" and "--val" in verdict.text
    assert "--bn-splits 8" in verdict.text


def test_diverging_by_loss_and_by_gradient():
    worse = [line(1000 + 20 * i, loss=CHANCE + 1.5) for i in range(2)]
    verdict = found([*healthy(), *worse])["diverging"]
    assert verdict.severity == "alarm" and "worse than a guess" in verdict.text
    assert "lower --lr (now 0.03)" in verdict.text
    steep = [line(1000 + 20 * i, grad_norm=400.0 * 3**i) for i in range(2)]
    assert "gradients grow (norm 1.2e+03" in found([*healthy(), *steep])["diverging"].text
    assert "diverging" not in found([*healthy(), steep[0]])


def test_waiting_for_data_clears_at_a_looser_threshold():
    slow = [line(1000 + 20 * i, data_wait=0.4) for i in range(3)]
    verdict = found([*healthy(), *slow])["waiting"]
    assert "40% of the time" in verdict.text and "fastmoco bench" in verdict.text
    between = [replace(p, data_wait=0.15) for p in slow]
    assert "waiting" not in found(between) and "waiting" in found(between, shown={"waiting"})


def test_skipped_steps():
    history = [*healthy(), line(1000, skipped=2), line(1020)]
    assert "2 of the last steps were not finite" in found(history)["skipping"].text
    assert "skipping" not in found([*history, *healthy(6, first=1040)])


def test_knn_below_the_untrained_encoders():
    late = line(30 * PER_EPOCH)
    history = [knn(0, 0.327), *healthy(), late, knn(late.step, 0.305)]
    verdict = found(history)["below-start"]
    assert "30.5%, below the 32.7% of the untrained encoder" in verdict.text
    assert "below-start" not in found([*history[:-1], knn(late.step, 0.34)])
    early = [knn(0, 0.327), *healthy(), knn(820, 0.305)]
    assert "below-start" not in found(early)


@pytest.mark.parametrize(
    ("change", "samples", "name", "words"),
    [
        ({"K": 40_000}, 50_000, "queue-size", "80% of the dataset"),
        ({"K": 256}, 50_000, "queue-size", "small for 50,000 images"),
        ({"lr": 0.5}, 50_000, "learning-rate", "16.7 times the usual 0.03"),
        ({"lr": 0.03, "batch": 8}, 50_000, "learning-rate", "32 times the usual 0.00094"),
        ({"lr": 1e-4}, 50_000, "learning-rate", "300 times below"),
    ],
)
def test_what_the_recipe_alone_says(change, samples, name, words):
    recipe = replace(RECIPE, **change)
    assert words in found([], recipe, samples)[name].text


@pytest.mark.parametrize("recipe", [MOCO_CIFAR, MOCO_V2, replace(MOCO_V2, lr=0.015, batch=128)])
def test_the_papers_recipes_get_no_warning(recipe):
    assert found([], recipe, 1_281_167 if recipe.size == 224 else 50_000) == {}


def test_one_line_with_a_pause_is_not_waiting_for_data():
    """The process was stopped while it waited for a batch, and continued."""
    watch = Watch()
    paused = [line(1000 + 20 * i, data_wait=0.99 if i == 3 else 0.01) for i in range(8)]
    started = Started(RECIPE, SAMPLES, PER_EPOCH, 0, "cpu", "threads", 10**6, "runs/a", "data")
    assert not [j for event in [started, *healthy(), *paused] for j in watch(event)
                if j.name == "waiting"]


def test_each_warning_is_reported_when_it_appears_and_when_it_clears():
    watch = Watch()
    started = Started(RECIPE, SAMPLES, PER_EPOCH, 0, "cpu", "threads", 10**6, "runs/a", "data")
    slow = [line(1000 + 20 * i, data_wait=0.4) for i in range(6)]
    judged = [
        j for event in [started, *healthy(), *slow, *healthy(6, first=1120)]
        for j in watch(event)
    ]
    assert [(j.name, j.step, j.over) for j in judged] == [
        ("waiting", 1020, False), ("waiting", 1140, True)
    ]
    assert judged[0].text == judged[1].text and judged[0].severity == "warning"


def test_a_resumed_run_reports_no_warning_twice():
    recipe = replace(RECIPE, lr=1.0)
    started = Started(recipe, SAMPLES, PER_EPOCH, 0, "cpu", "threads", 1, "a", "data")
    events = [started, *healthy(), *[line(1000 + 20 * i, data_wait=0.4) for i in range(3)]]
    watch, history = Watch(), []
    for event in events:
        history += [event, *watch(event)]
    assert [e.name for e in history if isinstance(e, Judged)] == ["learning-rate", "waiting"]
    rows = [to_row(e) for e in history if not isinstance(e, Started)]
    again = Watch([from_row(row) for row in rows])
    assert again(dataclasses.replace(started, first_step=1040)) == []
    assert [j.over for e in healthy(3, first=1060) for j in again(e)] == [True]
    # killed before the warning about the last line was on disk: reported now
    cut = Watch([from_row(row) for row in rows if row.get("name") != "waiting"])
    assert [j.name for j in cut(started)] == ["waiting"]
