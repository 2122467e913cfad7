"""Labels by class name; few labels and held-out parts are balanced, seeded and nested."""

import numpy as np
import pytest

from data_tools.errors import UserError
from data_tools.subset import Subset
from fastmoco.evaluation.labels import class_names, few_labels, held_out, shared_labels

LABELS = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [100, 400, 30]))


def test_labels_go_by_class_name(store):
    ash_only = Subset(store, np.arange(50, 60))
    ash_only.classes, ash_only.labels = ["oak"], np.zeros(10, np.int64)
    bank, queries, count = shared_labels(store, ash_only)
    assert queries.tolist() == [1] * 10 and count == 2 and bank.tolist() == store.labels.tolist()
    assert class_names(store, ash_only) == ["ash", "oak"]
    ash_only.classes = ["elm"]
    with pytest.raises(UserError, match="'elm' is not in"):
        shared_labels(store, ash_only)
    ash_only.labels = np.full(10, -1)
    with pytest.raises(UserError, match="without a label"):
        shared_labels(store, ash_only)


def test_a_class_without_images_is_named(store):
    ashes = Subset(store, np.flatnonzero(store.labels == 0))
    with pytest.raises(UserError, match="class 'oak' has no image"):
        class_names(ashes, store)
    ashes.classes = []  # datasets of others may have no class names
    assert class_names(ashes, ashes) == ["0"]


def test_few_labels_are_a_share_of_every_class():
    assert np.bincount(LABELS[few_labels(LABELS, "10%", 0)]).tolist() == [10, 40, 3]
    assert np.bincount(LABELS[few_labels(LABELS, "1%", 0)]).tolist() == [1, 4, 1]
    assert np.bincount(LABELS[few_labels(LABELS, "5/class", 0)]).tolist() == [5, 5, 5]
    assert few_labels(LABELS, "all", 0).tolist() == list(range(530))


def test_few_labels_go_by_the_seed_and_lie_inside_each_other():
    one, ten, half = (set(few_labels(LABELS, w, 3).tolist()) for w in ("1%", "10%", "50%"))
    assert one < ten < half
    assert one == set(few_labels(LABELS, "1%", 3).tolist())
    assert one != set(few_labels(LABELS, "1%", 4).tolist())


@pytest.mark.parametrize("wanted", ["0%", "200%", "x", "5/image", "-1/class", "1.5/class", "nan%"])
def test_odd_words_are_one_line(wanted):
    with pytest.raises(UserError, match="give 1%, 10%, 5/class or all"):
        few_labels(LABELS, wanted, 0)


def test_more_than_a_class_has_is_one_line():
    with pytest.raises(UserError, match="a class has 30 images; use --labels 30/class or fewer"):
        few_labels(LABELS, "31/class", 0)


def test_the_held_out_part_is_apart_and_of_every_class():
    fit, held = held_out(LABELS, 0.1, 0)
    assert sorted([*fit, *held]) == list(range(530))
    assert np.bincount(LABELS[held]).tolist() == [10, 40, 3]
    fit, held = held_out(np.array([0, 0, 1]), 0.1, 0)  # the only image of a class is learnt from
    assert len(held) == 1 and held[0] in (0, 1)
