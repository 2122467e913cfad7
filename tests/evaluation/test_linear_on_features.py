"""Linear evaluation of cached features against scikit-learn's logistic regression, on images."""

import warnings

import numpy as np
import pytest
import torch

from fastmoco.evaluation.feature_cache import Extraction, features_of
from fastmoco.evaluation.labels import held_out
from fastmoco.evaluation.linear import Parts, parts_of
from fastmoco.evaluation.linear_classifiers import Heads
from fastmoco.evaluation.linear_on_features import RATES, moments, quick, row_of
from fastmoco.settings.classifiers import LinearSettings
from fastmoco.weights.encoders import load_encoder
from tests.support.evaluation_parts import CPU, RECIPE, real_task, untrained


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return real_task(tmp_path_factory.mktemp("task"), 1200, 800)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "quick-cache"))


def test_it_is_logistic_regression_to_a_point(task):
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    train, val = task
    ours = quick(untrained(), train, val, Extraction(CPU)).rows[0]

    encoder = load_encoder(untrained(), CPU)
    x, x_val = (features_of(encoder, s, RECIPE, Extraction(CPU)).numpy() for s in (train, val))
    mean, deviation = x.mean(axis=0), x.std(axis=0)
    x, x_val = (x - mean) / deviation, (x_val - mean) / deviation
    fit, held = held_out(train.labels, 0.1, 0)  # the same part chooses

    def trained(C, ids):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            return LogisticRegression(C=C, max_iter=300).fit(x[ids], train.labels[ids])

    grid = (1e-4, 1e-3, 1e-2, 1e-1, 1)
    best = max(grid, key=lambda C: trained(C, fit).score(x[held], train.labels[held]))
    theirs = trained(best, np.arange(len(x))).score(x_val, val.labels)
    chance = np.bincount(val.labels).max() / len(val)
    assert theirs > chance + 0.1  # features of real pictures are useful even untrained
    # Untrained features hardly separate the classes of drawn images, so chance plays a part.
    allowed = 0.01 if "cifar" in str(train.path) else 0.02
    assert abs(ours.score.top1 - theirs) <= allowed + 1 / len(val)


def test_companions_the_choice_and_the_protocol(task):
    train, val = task
    settings = LinearSettings(labels="10/class", epochs=20)
    found = quick(untrained(), train, val, Extraction(CPU), settings, True)
    assert [r.features for r in found.rows] == ["trained", "at step 0", "raw pixels"]
    assert found.labelled == 100 if len(train.classes) == 10 else 120
    assert found.protocol.startswith("quick linear protocol: 10/class labels, ") and not found.trunk
    for row in found.rows:
        assert set(row.held_out) == set(RATES)
        assert row.held_out[row.rate] == max(v for v in row.held_out.values() if v is not None)
        assert row.score.top5 is not None and row.score.top5 > row.score.top1


def test_features_may_lie_on_host_and_be_of_any_scale(task, monkeypatch):
    import fastmoco.evaluation.linear_on_features as quick_module

    train, val = task
    settings = LinearSettings(lr=(0.01, 0.1), epochs=2)
    parts = parts_of(train, val, settings, 2)
    encoder = load_encoder(untrained(), CPU)
    x, y = (features_of(encoder, s, RECIPE, Extraction(CPU)) for s in (train, val))

    def row(x, y):
        return row_of("x", x, y, parts, Extraction(CPU), settings, settings.lr)

    one = row(x, y)
    shifted = row(x * 1000 + 50, y * 1000 + 50)
    assert shifted.score.top1 == pytest.approx(one.score.top1, abs=0.02)
    monkeypatch.setattr(quick_module, "SHARE", 0.0)
    assert row(x, y) == one


def test_moments_are_those_of_the_whole():
    torch.manual_seed(0)
    x = torch.randn(70_000, 3) * torch.tensor([1.0, 5.0, 0.0]) + torch.tensor([0.0, 9.0, 4.0])
    deviation, mean = moments(x)
    torch.testing.assert_close(mean, x.mean(dim=0), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(deviation[:2], x.std(dim=0)[:2], rtol=1e-4, atol=1e-4)
    assert deviation[2] == 1


def test_the_chosen_rate_learns_again_from_all_with_a_cosine(monkeypatch):
    torch.manual_seed(0)
    features, val = torch.randn(40, 6), torch.randn(20, 6)
    labels, val_labels = np.arange(40) % 2, np.arange(20) % 2
    fit, held = held_out(labels, 0.1, 0)
    parts = Parts(["a", "b"], labels, val_labels, np.arange(40), fit, held)
    alone = Parts(["a", "b"], labels, val_labels, np.arange(40), np.arange(40))
    settings, seen, shares = LinearSettings(epochs=2, batch=10), [], []
    predict, step = Heads.predict, Heads.step
    monkeypatch.setattr(Heads, "predict", lambda h, x: (seen.append(h), predict(h, x))[1])
    monkeypatch.setattr(Heads, "step", lambda h, x, y, s: (shares.append(s), step(h, x, y, s))[1])
    row_of("", features, val, alone, Extraction(CPU), settings, (0.1,))
    assert shares == pytest.approx([(1 + np.cos(np.pi * i / 8)) / 2 for i in range(8)])
    found = row_of("", features, val, parts, Extraction(CPU), settings, (0.1, 0.3))
    chosen = seen[-1]
    row_of("", features, val, alone, Extraction(CPU), settings, (found.rate,))
    assert torch.equal(chosen.weight, seen[-1].weight) and chosen is not seen[-1]
