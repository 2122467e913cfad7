"""A run on disk: atomic, loaded without unpickling code, with all that resume needs."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from data_tools.errors import UserError
from fastmoco import __version__
from fastmoco.recipe import Recipe, from_dict, to_dict
from fastmoco.weights_file import read_weights, tensors_digest

FORMAT = 2


@dataclass
class Checkpoint:
    """What a checkpoint holds. Clock fields are the only ones that differ between a run that was
    interrupted and one that was not."""

    recipe: Recipe
    """With its precision resolved."""
    moco: dict[str, torch.Tensor]
    """Encoders, their BatchNorm buffers, the dictionary (the queue [K, dim] and its pointer)."""
    optimizer: dict[str, Any]
    """Empty in a checkpoint of weights alone: the best by kNN."""
    scaler: dict[str, Any]
    step: int
    """Steps done, over the whole run: with recipe.batch, the cursor in samples."""
    dataset: str
    """Fingerprint of the store."""
    samples: int
    plan: list[tuple[int, float, int]] = field(default_factory=list)
    """The schedule's lines: see fastmoco.budget.Plan."""
    window: dict[str, Any] = field(default_factory=dict)
    """Sums for the next log line."""
    threads: int = 0
    """torch's threads: they decide the order of sums on the CPU."""
    versions: dict[str, str] = field(default_factory=dict)
    clock: dict[str, float] = field(default_factory=dict)
    """train_seconds so far."""
    origin: str = ""
    """What its weights came from or began as, in a line, where that was another checkpoint."""
    epoch: int | None = None
    """Epochs of training, if the file is the official code's and says so."""


def versions() -> dict[str, str]:
    """What the bits of a run depend on besides the recipe."""
    names = ("torch", "torchvision", "numpy", "numba", "simplejpeg", "pillow")
    found = {name: importlib.metadata.version(name) for name in names}
    return {
        "fastmoco": __version__,
        "python": platform.python_version(),
        "instruction_set": torch.backends.cpu.get_cpu_capability(),
        **found,
    }


def save(checkpoint: Checkpoint, path: Path) -> None:
    """Write beside, sync, rename: at every instant the old file or the new one is whole."""
    content = {**vars(checkpoint), "recipe": to_dict(checkpoint.recipe), "format": FORMAT}
    partial = path.with_name(path.name + ".partial")
    try:
        with open(partial, "wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except (OSError, RuntimeError) as error:  # torch's zip writer reports a full disk as the latter
        partial.unlink(missing_ok=True)
        remedy = "the last one is whole: make room and go on with --resume"
        raise UserError(
            f"{path}: cannot write the checkpoint ({str(error).splitlines()[0]}); "
            f"{remedy if path.exists() else 'make room and start again'}"
        ) from None


def keep(path: Path, step: int, count: int) -> Path:
    """The checkpoint at `path` also as PATH-STEP.pt, beside the last `count` of these.

    It is a second name for the same bytes where the file system has such: `save` renames over the
    first and leaves the other. Later steps, which a run that was taken back will reach again, stay.
    """
    kept = path.with_name(f"{path.stem}-{step:08}.pt")
    partial = kept.with_name(kept.name + ".partial")
    try:
        partial.unlink(missing_ok=True)
        try:
            os.link(path, partial)
        except OSError:  # no hard links here
            shutil.copyfile(path, partial)
        os.replace(partial, kept)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise UserError(f"{kept}: cannot be written ({error.strerror}); make room and go on with "
                        "--resume") from None
    so_far = sorted(p for p in path.parent.glob(f"{path.stem}-{'[0-9]' * 8}.pt") if p <= kept)
    for old in so_far[:-count]:
        old.unlink()
    return kept


def load(path: str | os.PathLike[str], device: torch.device | str = "cpu") -> Checkpoint:
    """Read a checkpoint (nothing in it is run); UserError if it is none of ours."""
    path = Path(path)
    if path.is_dir():
        path = path / "checkpoint.pt"
    return from_content(read_weights(path, device), path)


def is_ours(content: Any) -> bool:
    """Whether the content of a file looks like a checkpoint of fastmoco, of any version."""
    return isinstance(content, dict) and {"format", "recipe", "moco"} <= content.keys()


def from_content(content: Any, path: Path) -> Checkpoint:
    """The content of a file as a checkpoint; UserError if it is none of ours."""
    if not is_ours(content):
        raise UserError(f"{path}: not a checkpoint of fastmoco, or cut short")
    if content.pop("format") != FORMAT:
        raise UserError(f"{path}: written by another version of fastmoco")
    try:
        saved = Checkpoint(recipe=from_dict(content.pop("recipe")), **content)
        saved.recipe.check()
        if not all(isinstance(t, torch.Tensor) for t in saved.moco.values()):
            raise TypeError
    except (KeyError, TypeError, AttributeError, ValueError):
        raise UserError(f"{path}: not a checkpoint of fastmoco, or cut short") from None
    except UserError as error:
        raise UserError(f"{path}: its recipe cannot be one ({error})") from None
    return saved


def trunk_digest(saved: Checkpoint) -> str:
    """Of the query encoder's trunk: what evaluations of it can be known by."""
    prefix = "encoder_q.trunk."
    return tensors_digest({
        k[len(prefix) :]: v for k, v in saved.moco.items() if k.startswith(prefix)
    })
