"""kNN against a vote by hand; features; labels by class name."""

import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from data_tools.errors import UserError
from fastmoco.features import Subset, extract, initial_encoder, raw_pixels, shared_labels
from fastmoco.knn import DINO, Protocol, weighted_knn
from fastmoco.recipe import MOCO_CIFAR

RECIPE = dataclasses.replace(
    MOCO_CIFAR, arch="resnet-mini", size=24, batch=16, K=64, precision="float32"
)


def test_it_is_the_vote_by_hand():
    torch.manual_seed(0)
    bank, queries = (F.normalize(torch.randn(n, 6), dim=1) for n in (50, 30))
    labels, truth = torch.randint(0, 4, (50,)), torch.randint(0, 4, (30,))
    protocol = Protocol("test", (1, 7, 200), 0.3)
    got = weighted_knn(bank, labels, queries, truth, 4, protocol)
    for k in protocol.ks:
        right = 0
        for query, answer in zip(queries, truth.tolist(), strict=True):
            near = sorted(range(50), key=lambda j: -float(query @ bank[j]))[:k]
            votes = [0.0] * 4
            for j in near:
                votes[int(labels[j])] += math.exp(float(query @ bank[j]) / 0.3)
            right += votes.index(max(votes)) == answer
        assert got[k] == pytest.approx(right / 30)


def test_features_are_unit_rows_in_order_and_leave_the_encoder_alone(store):
    encoder = initial_encoder(RECIPE, torch.device("cpu"))
    encoder.train()
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    whole = extract(encoder, store, RECIPE, torch.device("cpu"))
    assert whole.shape == (96, encoder.width) and encoder.training
    torch.testing.assert_close(whole.norm(dim=1), torch.ones(96))
    assert all(torch.equal(before[k], v) for k, v in encoder.state_dict().items())
    some = extract(encoder, Subset(store, np.array([90, 3])), RECIPE, torch.device("cpu"))
    torch.testing.assert_close(some, whole[[90, 3]], atol=1e-5, rtol=1e-4)


def test_raw_pixels_are_centred_on_the_bank(store):
    bank, centre = raw_pixels(store, RECIPE)
    assert bank.shape == (96, 3072)
    torch.testing.assert_close(bank.norm(dim=1), torch.ones(96))
    one, _ = raw_pixels(Subset(store, np.array([5])), RECIPE, centre)
    torch.testing.assert_close(one[0], bank[5])


def test_labels_go_by_class_name(store):
    ash_only = Subset(store, np.arange(50, 60))
    ash_only.classes, ash_only.labels = ["oak"], np.zeros(10, np.int64)
    bank, queries, count = shared_labels(store, ash_only)
    assert queries.tolist() == [1] * 10 and count == 2 and bank.tolist() == store.labels.tolist()
    ash_only.classes = ["elm"]
    with pytest.raises(UserError, match="'elm' is not in"):
        shared_labels(store, ash_only)
    ash_only.labels = np.full(10, -1)
    with pytest.raises(UserError, match="without a label"):
        shared_labels(store, ash_only)


def test_the_protocols_are_the_published_ones():
    assert DINO.ks == (10, 20, 100, 200) and DINO.T == 0.07
