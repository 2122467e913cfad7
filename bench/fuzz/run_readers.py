"""Checkpoints, foreign weights, the feature cache, and the files of a run that report, compare,
export and --resume read."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import json
import os
import shutil
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from bench.fuzz import containers
from bench.fuzz.dataset_readers import HEADERS, attempt, images
from bench.fuzz.mutations import edit_json, edit_json_line
from bench.fuzz.reader import Edit, Reader, equal
from data_tools.open import open_store
from data_tools.prepare import prepare
from fastmoco import cli
from fastmoco.commands.compare import print_comparison
from fastmoco.evaluation.feature_cache import Extraction, features_of
from fastmoco.measuring.bench import read_report
from fastmoco.recipe import MOCO_V2
from fastmoco.reporting.compare import compare
from fastmoco.reporting.report import report
from fastmoco.run_options import RunOptions
from fastmoco.training.train import train
from fastmoco.weights.encoders import load_encoder
from fastmoco.weights.export.directory import export
from fastmoco.weights.open import open_checkpoint

RECIPE = dataclasses.replace(
    MOCO_V2, arch="resnet-mini", size=16, batch=8, bn_splits=2, K=16, epochs=2, lr=0.01,
    precision="float32",
)
CPU = torch.device("cpu")
WEIGHTS: tuple[Edit, ...] = (containers.edit_zip((".pkl", containers.edit_pickle)),)


@functools.cache
def made_run(parent: Path) -> Path:
    """Make a folder with a prepared dataset, a run on it, its evaluations and an export."""
    folder = parent / "made-run"
    images(folder / "images", 24)
    prepare(folder / "images", folder / "data")
    run = folder / "run"
    train(folder / "data", RECIPE, RunOptions(
        out=str(run), val=str(folder / "data"), val_every=1, log_every=1, threads=1, device="cpu",
        engine="threads",
    ))
    (run / "skipped.jsonl").write_text('{"event": "skipped", "step": 2, "ids": [1], "keys": []}\n')
    data, checkpoint = str(folder / "data"), str(run / "checkpoint.pt")
    how = ["--json", "--threads", "1", "--device", "cpu"]
    printed(run / "knn.json", ["knn", checkpoint, data, *how])
    printed(run / "linear.json", ["linear", checkpoint, data, data, "--quick", *how])
    recipe = ["--arch", "resnet-mini", "--size", "16", "--batch", "8", "--bn-splits", "2",
              "--K", "16", "--precision", "float32"]
    quick = ["--rounds", "1", "--seconds", "0.01"]
    printed(run / "bench.json", ["bench", data, *recipe, *how, *quick])
    export(open_checkpoint(run), run, "safetensors", run / "export-safetensors")
    return folder


def printed(path: Path, argv: list[str]) -> None:
    """Write a command's output to a file."""
    out = io.StringIO()
    os.environ["XDG_CACHE_HOME"] = str(path.parent / "cache")
    with contextlib.redirect_stdout(out):
        code = cli.main(argv)
    shutil.rmtree(path.parent / "cache", ignore_errors=True)
    if code:
        raise RuntimeError(f"fastmoco {' '.join(argv)}: {code}")
    path.write_text(out.getvalue())


def build_run(*names: str) -> Callable[[Path], list[str]]:
    """Copy that run; its named files are to be changed."""
    def build(folder: Path) -> list[str]:
        shutil.copytree(made_run(folder.parent), folder, dirs_exist_ok=True)
        return list(names)

    return build


def build_run_without_data(*names: str) -> Callable[[Path], list[str]]:
    """Copy that run and remove its dataset."""
    def build(folder: Path) -> list[str]:
        found = build_run(*names)(folder)
        shutil.rmtree(folder / "data")
        path = folder / "run" / "run.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "data": "/gone"}))
        return found

    return build


def build_checkpoint(folder: Path) -> list[str]:
    shutil.copy(made_run(folder.parent) / "run" / "checkpoint.pt", folder)
    return ["checkpoint.pt"]


def read_weights(folder: Path, name: str) -> Any:
    return vars(open_checkpoint(folder / name))


def official(width: int) -> dict[str, Any]:
    """Write a checkpoint of a ResNet-18 in the released code's layout. With fewer than 64 channels
    it is small: its names are right, and its shapes are refused."""
    from torchvision.models import ResNet
    from torchvision.models.resnet import BasicBlock

    with torch.random.fork_rng():
        state = ResNet(BasicBlock, [2, 2, 2, 2], num_classes=16).half().state_dict()
    for name, tensor in state.items():
        if width < 64 and tensor.ndim:
            state[name] = tensor[tuple(slice(width) for _ in tensor.shape)].clone()
    named = {f"module.encoder_q.{name}": tensor for name, tensor in state.items()}
    named |= {"module.queue": torch.zeros(16, 8), "module.queue_ptr": torch.zeros(1).long()}
    return {"epoch": 3, "arch": "resnet18", "state_dict": named, "optimizer": {}}


def build_foreign(folder: Path) -> list[str]:
    torch.save(official(64), folder / "official.pth.tar")
    settings = {"hyper_parameters": Namespace(lr=0.1, path=Path("x"))}
    torch.save({**official(4), **settings}, folder / "settings.ckpt")
    return ["official.pth.tar", "settings.ckpt"]


def build_legacy(folder: Path) -> list[str]:
    torch.save(official(4), folder / "legacy.pth", _use_new_zipfile_serialization=False)
    return ["legacy.pth"]


def read_foreign(folder: Path, name: str) -> Any:
    """Return None if the shapes are no encoder's: then it was read, and refused by its content."""
    return attempt(lambda: vars(open_checkpoint(folder / name)))


def build_safetensors(folder: Path) -> list[str]:
    exported = made_run(folder.parent) / "run" / "export-safetensors"
    shutil.copy(exported / "model.safetensors", folder)
    return ["model.safetensors"]


def build_features(folder: Path) -> list[str]:
    shutil.copytree(made_run(folder.parent) / "data", folder / "data")
    shutil.copy(made_run(folder.parent) / "run" / "checkpoint.pt", folder)
    return []


@functools.cache
def encoder_of(path: Path) -> Any:
    return load_encoder(open_checkpoint(path), CPU)


def read_features(folder: Path, name: str) -> Any:
    """Return cached features. A damaged file counts as absent, so they are extracted again."""
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    how = Extraction(CPU, threads=1, engine="threads")
    encoder = encoder_of(folder / "checkpoint.pt")
    found = features_of(encoder, open_store(folder / "data"), RECIPE, how)
    return found.clone()  # it maps the file, which is restored before the comparison


def settle_features(folder: Path) -> list[str]:
    read_features(folder, "")
    cache = folder / "cache"
    return [str(p.relative_to(folder)) for p in cache.rglob("*") if p.is_file()]


def read_report_page(folder: Path, name: str) -> Any:
    """Return the report of a run whose dataset was removed."""
    out, lacking = report(folder / "run", folder / "page.html", device="cpu", threads=1)
    return out.stat().st_size


def read_report_pictures(folder: Path, name: str) -> Any:
    out, lacking = report(folder / "run", folder / "page.html", folder / "data", 8, "cpu", 1)
    return out.stat().st_size


def read_comparison(folder: Path, name: str) -> Any:
    other = folder / "other"
    if not other.exists():
        shutil.copytree(folder / "run", other)
    found = compare([folder / "run", other])
    json.dumps(dataclasses.asdict(found))
    print_comparison(found)
    return True


def read_export(folder: Path, name: str) -> Any:
    """Export with a card, over an earlier export."""
    run = folder / "run"
    saved = saved_of(made_checkpoint(folder))
    attempt(lambda: export(saved, run, "safetensors", run / "export-safetensors"))
    return len(export(saved, run, "safetensors", folder / "fresh"))


def made_checkpoint(folder: Path) -> Path:
    return folder / "run" / "checkpoint.pt"


@functools.cache
def saved_of(path: Path) -> Any:
    return open_checkpoint(path)


def read_bench(folder: Path, name: str) -> Any:
    return read_report(folder / name)


def read_resume(folder: Path, name: str) -> Any:
    """Resume a run that has ended: it reads all its files and ends at once."""
    options = RunOptions(out=str(folder / "run"), resume=True, log_every=1, threads=1,
                         device="cpu", engine="threads")
    torch.manual_seed(0)
    return train(folder / "data", RECIPE, options).step


def either(rng: Any, data: bytes) -> bytes:
    """Edit a JSON document, or a file with a JSON document per line."""
    try:
        return edit_json(rng, data)
    except ValueError:
        return edit_json_line(rng, data)


def of_run(
    name: str, read: Callable[[Path, str], Any], *files: str, writes: bool = False,
    mending: tuple[Edit, ...] = (), build: Any = build_run, slow: bool = False,
) -> Reader:
    return Reader(name, build(*(f"run/{file}" for file in files)), read, (either,), mending,
                  writes=writes, slow=slow)


READERS = [
    Reader("checkpoint", build_checkpoint, read_weights, HEADERS, WEIGHTS, equal, slow=True),
    Reader("weights-foreign", build_foreign, read_foreign, HEADERS, WEIGHTS, slow=True),
    Reader("weights-legacy", build_legacy, read_foreign, (containers.edit_pickle,), slow=True),
    Reader("weights-safetensors", build_safetensors, read_weights,
           (containers.edit_safetensors,)),
    Reader("feature-cache", build_features, read_features, (), (containers.edit_npy,), equal,
           settle=settle_features, writes=True, slow=True),
    of_run("report", read_report_page, "run.json", "metrics.jsonl", "knn.json", "linear.json",
           "bench.json", build=build_run_without_data),
    of_run("report-pictures", read_report_pictures, "run.json", "metrics.jsonl", "checkpoint.pt",
           mending=WEIGHTS, slow=True),
    of_run("compare", read_comparison, "run.json", "metrics.jsonl"),
    of_run("export", read_export, "run.json", "metrics.jsonl", "knn.json", "linear.json",
           "export-safetensors/export.json", writes=True, slow=True),
    of_run("bench-report", read_bench, "bench.json"),
    of_run("resume", read_resume, "run.json", "metrics.jsonl", "skipped.jsonl", "checkpoint.pt",
           writes=True, mending=WEIGHTS, slow=True),
]
