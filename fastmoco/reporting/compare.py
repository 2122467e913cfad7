"""Compares runs: the differences of their recipes, their results, and the spread over seeds."""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from data_tools.errors import UserError
from fastmoco.recipe import fields_of
from fastmoco.runs.record import RunRecord, read_run

MEASURED = ("loss", "knn_best", "knn_last", "images_per_s", "train_seconds")


@dataclass(frozen=True)
class Compared:
    """One run. A figure that it did not measure is None."""

    run: str
    state: str
    """done, stopped, or not ended."""
    step: int
    epochs: float
    loss: float | None
    """Loss of the last log line."""
    chance: float | None
    """Loss of a guess. It depends on K, so losses of runs with different K do not compare."""
    knn_best: float | None
    """Best top-1, 0..1, measured after the first step."""
    knn_best_epoch: float | None
    knn_last: float | None
    images_per_s: float | None
    """Median over the log lines."""
    train_seconds: float | None
    differs: dict[str, Any]
    """Fields in which the runs differ, by their names in the recipe; also data and device."""


@dataclass(frozen=True)
class Spread:
    """Mean and deviation over runs that differ only in their seed."""

    mean: float
    std: float
    """Standard deviation of the sample (divided by n - 1)."""
    n: int


@dataclass(frozen=True)
class Group:
    """Runs with the same recipe and data, but different seeds."""

    runs: list[str]
    seeds: list[int]
    differs: dict[str, Any]
    """Fields in which the group differs from the other runs."""
    spread: dict[str, Spread] = field(default_factory=dict)
    """Spread per figure that at least two of the runs measured."""


@dataclass(frozen=True)
class Comparison:
    """The result of `fastmoco compare`."""

    runs: list[Compared]
    groups: list[Group]
    damaged: list[str] = field(default_factory=list)
    """A line per run whose metrics.jsonl has damaged rows, which are left out."""


def compare(paths: Sequence[str | os.PathLike[str]]) -> Comparison:
    """Compare the runs in these directories.

    Raises UserError if one is not a run, or is named twice.
    """
    if not paths:
        raise UserError("RUN is missing: give one run directory or more")
    whole = [os.path.realpath(p) for p in paths]
    for i, path in enumerate(whole):
        if path in whole[:i]:
            raise UserError(f"{paths[i]}: the same run twice")
    records = [read_run(p) for p in paths]
    values = [settings(record) for record in records]
    names = [n for n in values[0] if any(v[n] != values[0][n] for v in values)]
    rows = [
        row_of(record, {n: v[n] for n in names})
        for record, v in zip(records, values, strict=True)
    ]
    damaged = [record.damaged for record in records if record.damaged]
    return Comparison(rows, groups(rows, records, values), damaged)


def settings(record: RunRecord) -> dict[str, Any]:
    """The settings of a run: its recipe's fields, its data, its device."""
    about = record.about
    return {
        **fields_of(record.recipe), "data": about.data, "samples": about.samples or None,
        "device": about.device,
    }


def row_of(record: RunRecord, differs: dict[str, Any]) -> Compared:
    best, last = record.best, record.last
    return Compared(
        run=str(record.path), state=record.state, step=record.step, epochs=record.epochs,
        loss=record.loss, chance=record.chance,
        knn_best=best["knn"] if best else None, knn_best_epoch=best["epoch"] if best else None,
        knn_last=last["knn"] if last else None, images_per_s=record.images_per_s,
        train_seconds=record.train_seconds, differs=differs,
    )


def groups(
    rows: list[Compared], records: list[RunRecord], values: list[dict[str, Any]]
) -> list[Group]:
    """Find groups of two or more finished runs that differ only in their seed and machine."""
    found: dict[tuple, list[int]] = {}
    for i, v in enumerate(values):
        if rows[i].state == "done":
            key = tuple((k, x) for k, x in v.items() if k not in ("seed", "device"))
            found.setdefault(key, []).append(i)
    out = []
    for members in found.values():
        seeds = [records[i].recipe.seed for i in members]
        if len(set(seeds)) < 2:
            continue
        differs = {k: v for k, v in rows[members[0]].differs.items() if k not in ("seed", "device")}
        measured = {n: spread(getattr(rows[i], n) for i in members) for n in MEASURED}
        out.append(Group(
            [rows[i].run for i in members], seeds, differs,
            {n: s for n, s in measured.items() if s is not None},
        ))
    return out


def spread(values: Iterable[float | None]) -> Spread | None:
    """Mean and deviation of the values that are not None; None for fewer than two."""
    there = [v for v in values if v is not None]
    if len(there) < 2:
        return None
    return Spread(statistics.fmean(there), statistics.stdev(there), len(there))
