"""Scores against counts by hand and a bootstrap that resamples."""

import numpy as np
import pytest

from fastmoco.evaluation.scores import interval, score


def test_counts_by_hand():
    truth = np.array([0, 0, 0, 1, 1, 3])
    predicted = np.array([0, 0, 1, 1, 0, 0])
    found = score(predicted, truth, ["a", "b", "c", "d"])
    assert found.top1 == 0.5 and found.images == 6 and found.low < 0.5 < found.high
    assert [c.images for c in found.classes] == [3, 2, 0, 1]
    assert [c.right for c in found.classes] == [pytest.approx(2 / 3), 0.5, None, 0.0]
    assert [c.precise for c in found.classes] == [0.5, 0.5, None, None]
    assert sorted(found.confusion) == [(0, 0, 2), (0, 1, 1), (1, 0, 1), (1, 1, 1), (3, 0, 1)]


def test_the_interval_is_that_of_resampled_images():
    right = np.zeros(200, bool)
    right[:37] = True
    rng = np.random.default_rng(5)
    shares = right[rng.integers(0, 200, (20_000, 200))].mean(axis=1)
    assert interval(37, 200) == pytest.approx(np.quantile(shares, [0.025, 0.975]), abs=0.006)
    assert interval(37, 200) == interval(37, 200)
    assert interval(0, 50) == (0.0, 0.0) and interval(50, 50) == (1.0, 1.0)
