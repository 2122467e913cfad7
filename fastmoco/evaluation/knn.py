"""Weighted k-nearest-neighbour classification by the protocols of MoCo's CIFAR demo and of DINO.

The bank is the set of labelled features in which neighbours are searched; queries are classified.
Both are in host memory, possibly mapped from a file. The device holds one chunk of the bank, one
chunk of the queries, and the k nearest so far of these queries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from data_tools.errors import UserError
from data_tools.progress import Tick
from data_tools.store import Store
from fastmoco.evaluation.feature_cache import Extraction, features_of
from fastmoco.evaluation.labels import class_names, shared_labels
from fastmoco.evaluation.raw_pixels import raw_pixels
from fastmoco.evaluation.scores import Score, score
from fastmoco.weights.checkpoint import Checkpoint
from fastmoco.weights.encoders import beginning, initial_encoder, load_encoder

CHUNK = 1024  # queries at a time
BANK_CHUNK = 2**26  # values of the bank at a time: 256 MB


@dataclass(frozen=True)
class Protocol:
    """Values of k, and the temperature T: a neighbour's vote has the weight exp(cosine / T)."""

    name: str
    ks: tuple[int, ...]
    T: float


CIFAR_DEMO = Protocol("MoCo CIFAR demo", (200,), 0.1)
DINO = Protocol("DINO", (10, 20, 100, 200), 0.07)
PROTOCOLS = (CIFAR_DEMO, DINO)
GRID = "grid"


def grid(ks: Sequence[int], temperatures: Sequence[float]) -> tuple[Protocol, ...]:
    """One protocol per temperature, for the user's own values; an empty list stands for DINO's.

    Raises UserError for a k or a T that is not above 0.
    """
    for flag, values in (("k", ks), ("T", temperatures)):
        if any(not 0 < v < float("inf") for v in values):
            raise UserError(f"--{flag} {' '.join(map(str, values))}: give numbers above 0")
    return tuple(Protocol(GRID, tuple(ks) or DINO.ks, T) for T in temperatures or (DINO.T,))


@torch.no_grad()
def nearest(
    bank: torch.Tensor,
    queries: torch.Tensor,
    k: int,
    device: torch.device,
    leave_one_out: bool = False,
    tick: Tick | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Find the k rows of bank [M, D] nearest to each row of queries [N, D] by cosine.

    Returns similarities float32 [N, k] and row numbers int64 [N, k] in host memory, nearest first.
    Rows need not be normalised. A k above M becomes M. leave_one_out: the queries are the bank, and
    no row finds itself; if k reaches M, the last entry is no neighbour, and its similarity is minus
    infinity.
    """
    k, rows = min(k, len(bank)), max(1, BANK_CHUNK // bank.shape[1])
    best = torch.full((len(queries), k), -torch.inf)
    place = torch.zeros(len(queries), k, dtype=torch.int64)
    done, work = 0, len(queries) * len(bank)
    for begin in range(0, len(bank), rows):
        part = F.normalize(bank[begin : begin + rows].to(device), dim=1)
        for first in range(0, len(queries), CHUNK):
            query = F.normalize(queries[first : first + CHUNK].to(device), dim=1)
            similarity = query @ part.T
            if leave_one_out:  # own: the place of each query in this chunk of the bank
                own = torch.arange(first, first + len(query)) - begin
                row = torch.arange(len(query))[(own >= 0) & (own < len(part))]
                similarity[row.to(device), own[row].to(device)] = -torch.inf
            # the k nearest of this chunk compete with the k nearest so far
            near, at = similarity.topk(min(k, len(part)), dim=1)
            chunk = slice(first, first + len(query))
            near = torch.cat([best[chunk].to(device), near], dim=1)
            at = torch.cat([place[chunk].to(device), at + begin], dim=1)
            near, order = near.topk(k, dim=1)
            best[chunk], place[chunk] = near, at.gather(1, order)
            done += len(query) * len(part)
            if tick is not None:
                tick(done, work)
    return best, place


def vote(
    similarity: torch.Tensor, labels: torch.Tensor, classes: int, k: int, T: float
) -> torch.Tensor:
    """Classes int64 [N] with the largest sum of votes of the k nearest neighbours. similarity and
    labels: [N, at least k], nearest first.

    Source: colab/moco_cifar10_demo (facebookresearch/moco) and eval_knn.py
    (facebookresearch/dino): the same vote with other k and T.
    """
    found = torch.empty(len(labels), dtype=torch.int64)
    for first in range(0, len(labels), CHUNK):
        chunk = slice(first, first + CHUNK), slice(0, k)
        votes = torch.zeros(len(labels[chunk]), classes)
        votes.scatter_add_(1, labels[chunk], (similarity[chunk] / T).exp())
        found[first : first + CHUNK] = votes.argmax(dim=1)
    return found


def weighted_knn(
    bank: torch.Tensor,
    bank_labels: torch.Tensor,
    queries: torch.Tensor,
    query_labels: torch.Tensor,
    classes: int,
    protocol: Protocol,
    device: torch.device,
) -> dict[int, float]:
    """Top-1 (0..1) for every k of a protocol. bank [M, D] and queries [N, D] need not be
    normalised."""
    similarity, place = nearest(bank, queries, max(protocol.ks), device)
    labels = bank_labels[place]
    return {
        k: float((vote(similarity, labels, classes, k, protocol.T) == query_labels).float().mean())
        for k in protocol.ks
    }


@dataclass(frozen=True)
class Row:
    """One row of the table that `fastmoco knn` prints."""

    features: str
    protocol: str
    k: int
    T: float
    score: Score

    @property
    def top1(self) -> float:
        return self.score.top1


def knn(
    checkpoint: Checkpoint,
    train: Store,
    val: Store | None,
    device: torch.device,
    threads: int = 0,
    companions: bool = True,
    protocols: Sequence[Protocol] = PROTOCOLS,
    how: Extraction | None = None,
) -> list[Row]:
    """Classify val with train as the bank, by every protocol. Features are the pooled trunk
    outputs. If val is None, each image of train is classified by all others (leave one out).

    With companions, also score the same encoder at step 0 and centred raw pixels, as baselines.
    Nothing is kept in the cache unless `how` says so. Raises UserError for a k of grid() above the
    number of neighbours; in the published protocols, all neighbours vote in that case.
    """
    how = how or Extraction(device, threads, keep=False)
    there = len(train) - (val is None)
    for k in (k for protocol in protocols if protocol.name == GRID for k in protocol.ks):
        if k > there:
            raise UserError(f"--k {k}: an image has {there} neighbours here; give fewer")
    names = class_names(train, val or train)
    bank_labels, labels, _ = shared_labels(train, val or train)
    recipe, truth = checkpoint.recipe, labels.numpy()
    encoders = {"trained": load_encoder(checkpoint, device)}
    if companions:
        encoders[beginning(checkpoint)] = initial_encoder(recipe, device)
    rows: list[Row] = []

    def measure(features: str, bank: torch.Tensor, queries: torch.Tensor) -> None:
        most = max(k for protocol in protocols for k in protocol.ks)
        with how.progress(f"neighbours by {features}", "pairs") as tick:
            similarity, place = nearest(bank, queries, most, device, val is None, tick)
        near = bank_labels[place]
        for protocol in protocols:
            for k in protocol.ks:
                predicted = vote(similarity, near, len(names), k, protocol.T).numpy()
                found = score(predicted.astype(np.int64), truth, names)
                rows.append(Row(features, protocol.name, k, protocol.T, found))

    for name, encoder in encoders.items():  # one set of features in memory at a time
        bank = features_of(encoder, train, recipe, how)
        measure(name, bank, bank if val is None else features_of(encoder, val, recipe, how))
    if companions:
        bank, centre = raw_pixels(train, recipe, threads=threads)
        queries = bank if val is None else raw_pixels(val, recipe, centre, threads)[0]
        measure("raw pixels", bank, queries)
    return rows
