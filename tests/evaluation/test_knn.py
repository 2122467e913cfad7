"""kNN against a vote by hand, for any chunk size; leave one out; features."""

import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import fastmoco.evaluation.knn as knn_module
from data_tools.errors import UserError
from data_tools.subset import Subset
from fastmoco.evaluation.features import extract
from fastmoco.evaluation.knn import DINO, Protocol, grid, nearest, vote, weighted_knn
from fastmoco.evaluation.raw_pixels import raw_pixels
from fastmoco.recipe import MOCO_CIFAR
from fastmoco.weights.encoders import initial_encoder

RECIPE = dataclasses.replace(
    MOCO_CIFAR, arch="resnet-mini", size=24, batch=16, K=64, precision="float32"
)


def test_it_is_the_vote_by_hand():
    torch.manual_seed(0)
    bank, queries = (F.normalize(torch.randn(n, 6), dim=1) for n in (50, 30))
    labels, truth = torch.randint(0, 4, (50,)), torch.randint(0, 4, (30,))
    protocol = Protocol("test", (1, 7, 200), 0.3)
    # rows of any length: they are normalised
    got = weighted_knn(3 * bank, labels, queries / 5, truth, 4, protocol, torch.device("cpu"))
    for k in protocol.ks:
        right = 0
        for query, answer in zip(queries, truth.tolist(), strict=True):
            near = sorted(range(50), key=lambda j: -float(query @ bank[j]))[:k]
            votes = [0.0] * 4
            for j in near:
                votes[int(labels[j])] += math.exp(float(query @ bank[j]) / 0.3)
            right += votes.index(max(votes)) == answer
        assert got[k] == pytest.approx(right / 30)


def test_chunks_of_bank_and_queries_change_nothing(monkeypatch):
    torch.manual_seed(1)
    bank, queries = torch.randn(70, 8), torch.randn(23, 8)
    cpu = torch.device("cpu")
    whole = nearest(bank, queries, 9, cpu)
    monkeypatch.setattr(knn_module, "CHUNK", 5)
    monkeypatch.setattr(knn_module, "BANK_CHUNK", 8 * 4)  # four rows: fewer than k
    ticks = []
    parts = nearest(bank, queries, 9, cpu, tick=lambda done, total: ticks.append((done, total)))
    torch.testing.assert_close(parts[0], whole[0])
    assert torch.equal(parts[1], whole[1])
    assert ticks[-1] == (70 * 23, 70 * 23)
    labels = torch.randint(0, 3, (70,))[whole[1]]
    votes = vote(whole[0], labels, 3, 9, 0.1)
    monkeypatch.setattr(knn_module, "CHUNK", 1024)
    assert torch.equal(votes, vote(whole[0], labels, 3, 9, 0.1))


@pytest.mark.parametrize("bank_chunk", [2**20, 8 * 7])
def test_leave_one_out_is_the_search_without_each_row(bank_chunk, monkeypatch):
    torch.manual_seed(2)
    monkeypatch.setattr(knn_module, "CHUNK", 6)
    monkeypatch.setattr(knn_module, "BANK_CHUNK", bank_chunk)
    x, cpu = torch.randn(20, 8), torch.device("cpu")
    similarity, place = nearest(x, x, 5, cpu, leave_one_out=True)
    for i in range(20):
        others = torch.tensor([j for j in range(20) if j != i])
        near, at = nearest(x[others], x[i : i + 1], 5, cpu)
        torch.testing.assert_close(similarity[i], near[0])
        assert place[i].tolist() == others[at[0]].tolist()
    # with k equal to the number of rows, a row still has no vote on itself
    similarity, place = nearest(x, x, 20, cpu, leave_one_out=True)
    labels = torch.zeros(20, dtype=torch.int64)
    labels[3] = 1
    assert vote(similarity, labels[place], 2, 20, 0.07)[3] == 0


def test_grids_of_k_and_T():
    assert [p.T for p in grid((5, 50), (0.02, 0.2))] == [0.02, 0.2]
    assert {p.ks for p in grid((5, 50), (0.02, 0.2))} == {(5, 50)}
    assert grid((), (0.5,))[0].ks == DINO.ks and grid((3,), ())[0].T == DINO.T
    with pytest.raises(UserError, match="--k 0"):
        grid((0,), ())
    with pytest.raises(UserError, match="--T nan"):
        grid((), (float("nan"),))


def test_features_are_the_trunks_in_order_and_leave_the_encoder_alone(store):
    encoder = initial_encoder(RECIPE, torch.device("cpu"))
    encoder.train()
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    whole = extract(encoder, store, RECIPE, torch.device("cpu"))
    assert whole.shape == (96, encoder.width) and encoder.training
    assert all(torch.equal(before[k], v) for k, v in encoder.state_dict().items())
    some = extract(encoder, Subset(store, np.array([90, 3])), RECIPE, torch.device("cpu"))
    torch.testing.assert_close(some, whole[[90, 3]], atol=1e-5, rtol=1e-4)
    shifted = dataclasses.replace(RECIPE, eval_crop=0.5)
    assert not torch.allclose(extract(encoder, store, shifted, torch.device("cpu")), whole)


def test_raw_pixels_are_centred_on_the_bank(store):
    bank, centre = raw_pixels(store, RECIPE)
    assert bank.shape == (96, 3072)
    torch.testing.assert_close(bank.norm(dim=1), torch.ones(96))
    one, _ = raw_pixels(Subset(store, np.array([5])), RECIPE, centre)
    torch.testing.assert_close(one[0], bank[5])


def test_the_protocols_are_the_published_ones():
    assert DINO.ks == (10, 20, 100, 200) and DINO.T == 0.07
