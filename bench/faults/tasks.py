"""The commands to try faults on, with their output and the moments for a kill."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.prep.kills import digests
from bench.training.kills import FLAGS, found
from bench.training.kills import images as blobs
from fastmoco.weights.read import read_weights

SHORT = ["--epochs", "3", "--val-every", "1"]


@dataclass(frozen=True)
class Aim:
    """A moment of a run: an event that Python's audit hooks report, on a file with some name."""

    event: str
    """The audit event: open, os.remove, or os.rename, which counts by the new name."""
    part: str
    """Part of the file's path."""


@dataclass(frozen=True)
class Task:
    """A command that writes into one folder."""

    name: str
    argv: Callable[[Path, Path], list[str]]
    """(input folder, output folder) -> the command's arguments."""
    left: Callable[[Path, str], Any]
    """(output folder, printed text) -> the content that must equal that of an undisturbed run."""
    aims: tuple[Aim, ...]


def prep(inputs: Path, place: Path) -> list[str]:
    return ["prep", str(inputs / "images"), str(place / "out"), "--format", "beton", "tfrecord",
            "webdataset", "--shard-size", "0.02", "--workers", "1"]


def prepared(place: Path, printed: str) -> Any:
    return digests(place / "out")


def train(inputs: Path, place: Path) -> list[str]:
    again = ["--resume"] if (place / "run" / "checkpoint.pt").exists() else []
    data = str(inputs / "data")
    return ["train", data, "--val", data, "--out", str(place / "run"), *FLAGS, *SHORT, *again]


def trained(place: Path, printed: str) -> Any:
    return found(place / "run")


def knn(inputs: Path, place: Path) -> list[str]:
    return ["knn", str(inputs / "run" / "checkpoint.pt"), str(inputs / "data"), "--json",
            "--threads", "1", "--device", "cpu"]


def measured(place: Path, printed: str) -> Any:
    """Return the figures and the cache's files, so that a partial file counts as a difference."""
    lines = printed[printed.index("{") :]
    cache = place / "cache" / "fastmoco" / "features"
    return json.loads(lines), {p.name: p.read_bytes() for p in sorted(cache.iterdir())}


def export(inputs: Path, place: Path) -> list[str]:
    return ["export", str(inputs / "run"), "--to", "safetensors", "--out", str(place / "export")]


def exported(place: Path, printed: str) -> Any:
    """Return the card's bytes and the weights' content, since safetensors writes its metadata in a
    random order."""
    out = place / "export"
    mark = json.loads((out / "export.json").read_text())
    for name, digest in mark.pop("sha256").items():
        assert hashlib.sha256((out / name).read_bytes()).hexdigest() == digest
    card = (out / "README.md").read_text()
    return mark, card, read_weights(out / "model.safetensors").content


def report(inputs: Path, place: Path) -> list[str]:
    return ["report", str(inputs / "run"), "--out", str(place / "report.html"), "--threads", "1",
            "--device", "cpu", "--count", "50"]


def reported(place: Path, printed: str) -> Any:
    assert not [*place.glob("report.html.*")], "a partial page was left behind"
    return digests(place)["report.html"]


TASKS = (
    Task("prep", prep, prepared, (
        Aim("open", "index.npy"), Aim("open", "keys.txt"), Aim("open", "duplicates.jsonl"),
        Aim("open", ".tfrecord.idx"), Aim("os.rename", "train.beton"),
        Aim("open", "manifest.json.new"), Aim("os.rename", "manifest.json"),
        Aim("os.rename", "journal/"), Aim("os.remove", "header.json"),
        Aim("os.remove", "manifest.json.partial"),
    )),
    Task("train", train, trained, (
        Aim("open", "checkpoint.pt.partial"), Aim("os.rename", "checkpoint.pt"),
        Aim("os.rename", "checkpoint-best.pt"), Aim("open", "metrics.jsonl"),
        Aim("open", "run.json."), Aim("os.rename", "run.json"), Aim("open", "tfevents"),
    )),
    Task("knn", knn, measured, (
        Aim("open", "features/"), Aim("os.rename", "features/"),
    )),
    Task("export", export, exported, (
        Aim("open", "README.md"), Aim("open", "export.json"),
        Aim("os.rename", "/export"),
    )),
    Task("report", report, reported, (
        Aim("open", "report.html."), Aim("os.rename", "report.html"),
    )),
)


def make_inputs(folder: Path, run: Callable[[list[str], Path], int]) -> None:
    """Make images, a dataset of them and a finished run on it. run(command, folder) returns the
    command's exit code."""
    from data_tools.prepare import prepare

    blobs(folder / "images", 48)
    (folder / "images" / "a" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut off")
    shutil.copy2(folder / "images" / "a" / "000.jpg", folder / "images" / "b" / "again.jpg")
    prepare(folder / "images", folder / "data")
    place = folder / "trained"
    place.mkdir()
    if run(train(folder, place), place):
        raise RuntimeError("the run that the other commands read failed")
    (place / "run").rename(folder / "run")
