"""Weighted k-nearest-neighbour classification: the protocols of the CIFAR demo and of DINO."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from data_tools.store import Store
from fastmoco.checkpoint import Checkpoint
from fastmoco.features import (
    Tick,
    extract,
    initial_encoder,
    load_encoder,
    raw_pixels,
    shared_labels,
)

CHUNK = 1024  # queries at a time


@dataclass(frozen=True)
class Protocol:
    """k's and temperature; votes weigh exp(cosine / T)."""

    name: str
    ks: tuple[int, ...]
    T: float


CIFAR_DEMO = Protocol("MoCo CIFAR demo", (200,), 0.1)
DINO = Protocol("DINO", (10, 20, 100, 200), 0.07)
PROTOCOLS = (CIFAR_DEMO, DINO)


@torch.no_grad()
def weighted_knn(
    bank: torch.Tensor,
    bank_labels: torch.Tensor,
    queries: torch.Tensor,
    query_labels: torch.Tensor,
    classes: int,
    protocol: Protocol,
) -> dict[int, float]:
    """Top-1 (0..1) for every k of a protocol; bank [M, D] and queries [N, D] of length 1.

    A k above M is taken as M. Source: colab/moco_cifar10_demo (facebookresearch/moco) and
    eval_knn.py (facebookresearch/dino): the same vote, other k and T.
    """
    bank_labels, query_labels = bank_labels.to(bank.device), query_labels.to(bank.device)
    most = min(max(protocol.ks), len(bank))
    right = dict.fromkeys(protocol.ks, 0)
    for start in range(0, len(queries), CHUNK):
        similarity, place = (queries[start : start + CHUNK] @ bank.T).topk(most, dim=1)
        weight, label = (similarity / protocol.T).exp(), bank_labels[place]
        for k in protocol.ks:
            votes = torch.zeros(len(label), classes, device=bank.device)
            votes.scatter_add_(1, label[:, :k], weight[:, :k])
            right[k] += int((votes.argmax(dim=1) == query_labels[start : start + CHUNK]).sum())
    return {k: count / len(queries) for k, count in right.items()}


@dataclass(frozen=True)
class Row:
    """One line of the table that `fastmoco knn` shows."""

    features: str
    protocol: str
    k: int
    T: float
    top1: float


def knn(
    checkpoint: Checkpoint,
    train: Store,
    val: Store,
    device: torch.device,
    threads: int = 0,
    companions: bool = True,
    tick: Tick | None = None,
) -> list[Row]:
    """Top-1 on val with train as the bank, by every protocol; features are the pooled trunk's.

    With companions: the same encoder at step 0 and centred raw pixels, without which a kNN
    figure says little.
    """
    bank_labels, labels, classes = shared_labels(train, val)
    recipe = checkpoint.recipe
    encoders = {"trained": load_encoder(checkpoint, device)}
    if companions:
        encoders["at step 0"] = initial_encoder(recipe, device)
    rows: list[Row] = []

    def measure(name: str, bank: torch.Tensor, queries: torch.Tensor) -> None:
        for protocol in PROTOCOLS:
            result = weighted_knn(bank, bank_labels, queries, labels, classes, protocol)
            rows.extend(Row(name, protocol.name, k, protocol.T, v) for k, v in result.items())

    for name, encoder in encoders.items():  # one set of features in memory at a time
        measure(name, *(extract(encoder, s, recipe, device, threads, tick) for s in (train, val)))
    if companions:
        bank, centre = raw_pixels(train, recipe, threads=threads)
        measure("raw pixels", bank, raw_pixels(val, recipe, centre, threads)[0])
    return rows
