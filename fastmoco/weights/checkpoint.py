"""A run on disk: written in one piece, read without running code, complete for a resume."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from data_tools.errors import UserError
from data_tools.files import atomic
from data_tools.quantities import human
from fastmoco.recipe import Recipe, from_dict, to_dict
from fastmoco.weights.read import WeightsFile, read_weights, tensors_digest
from fastmoco.weights.write import write_weights

FORMAT = 2
# Types of a line of the plan; see Checkpoint.plan.
PLAN_LINES = ([int, float, int], [int, int, int])
SETTINGS_BYTES = 1 << 20  # most bytes of a checkpoint in addition to its tensors
NO_DIGESTS = (
    "written by a release without digests of tensors: only the checksums of its zip were verified"
)
NO_CHECKSUMS = "holds no checksums of its tensors: damage in them cannot be detected"


@dataclass
class Checkpoint:
    """Content of a checkpoint. Only its clock fields differ between a run that was interrupted and
    one that was not."""

    recipe: Recipe
    """With its precision resolved."""
    moco: dict[str, torch.Tensor]
    """Encoders, their BatchNorm buffers, the dictionary (the queue [K, dim] and its pointer)."""
    optimizer: dict[str, Any]
    """Empty in a checkpoint that holds only weights: the best by kNN."""
    scaler: dict[str, Any]
    step: int
    """Number of steps done over the whole run. Times recipe.batch it is the number of samples."""
    dataset: str
    """Fingerprint of the store."""
    samples: int
    plan: list[tuple[int, float, int]] = field(default_factory=list)
    """The schedule's lines: see fastmoco.training.budget.Plan."""
    window: dict[str, Any] = field(default_factory=dict)
    """Sums since the last log line."""
    threads: int = 0
    """Number of torch's threads, which decides the order of sums on the CPU."""
    versions: dict[str, str] = field(default_factory=dict)
    clock: dict[str, float] = field(default_factory=dict)
    """Seconds of training so far, as train_seconds."""
    origin: str = ""
    """Line on the other checkpoint that the weights came from or started as; empty if none."""
    note: str = ""
    """Line on the file that this was read from. It is not written."""
    epoch: int | None = None
    """Epochs of training, if the file is the official code's and says so."""

    def __repr__(self) -> str:
        """Return a few lines: recipe, step and epoch, data, and the origin of the weights."""
        r = self.recipe
        lines = [f"Checkpoint of {r.name}: {r.arch}, {r.head} head of {r.dim}, {r.size} pixels"]
        if self.samples:
            epoch = self.step / max(1, self.samples // r.batch)
            lines += [f"step {self.step:,}, epoch {epoch:.4g} of {r.epochs}",
                      f"data {self.dataset[:12]}, {self.samples:,} images"]
        elif self.epoch is not None:
            lines.append(f"epoch {self.epoch}")
        made_by = [f"{n} {self.versions[n]}" for n in ("fastmoco", "torch") if n in self.versions]
        source = self.origin or (f"trained by {', '.join(made_by)}" if made_by else "")
        lines += [line for line in (source, self.note) if line]
        return "\n  ".join(lines)


def save(checkpoint: Checkpoint, path: Path) -> None:
    """Write a checkpoint with digests. At every moment the old file or the new one is whole."""
    content = {**vars(checkpoint), "recipe": to_dict(checkpoint.recipe), "format": FORMAT}
    del content["note"]
    try:
        write_weights(content, path)
    except OSError as error:
        remedy = "the last one is whole: make room and go on with --resume"
        raise UserError(
            f"{path}: cannot write the checkpoint ({reason(error)}); "
            f"{remedy if path.exists() else 'make room and start again'}"
        ) from None


def reason(error: OSError) -> str:
    """Return the system's reason for a failed write."""
    return error.strerror or str(error).splitlines()[0]


def refuse_full_disk(path: Path, tensors: Iterable[torch.Tensor], keep: int) -> None:
    """Raise UserError, before a run starts, if the disk has no room for its checkpoints.

    It needs room for `keep` old ones and two more, since a new one is written before the last one
    is removed. tensors: the tensors of a checkpoint, as far as they are known.
    """
    each = sum(t.numel() * t.element_size() for t in tensors) + SETTINGS_BYTES
    folder = next(p for p in (path.parent, *path.parent.absolute().parents) if p.is_dir())
    there = sum(p.stat().st_size for p in path.parent.glob(f"{path.stem}*.pt"))
    try:
        disk = shutil.disk_usage(folder)
    except OSError:
        return
    if disk.total and disk.free + there < (2 + keep) * each:  # some network disks report 0 bytes
        raise UserError(
            f"{path.parent}: {2 + keep} checkpoints of {human(each)} need more than the "
            f"{human(disk.free)} that are free there: no space left on device; make room, "
            "or give another --out"
        )


def keep(path: Path, step: int, count: int) -> Path:
    """Keep the checkpoint at `path` also as PATH-STEP.pt, and the last `count` of these files.

    It is a second name for the same bytes (a hard link) if the file system can: `save` renames over
    the first name and leaves the second. Files of later steps stay, because a run that was set back
    reaches these steps again. Returns the new path.
    """
    kept = path.with_name(f"{path.stem}-{step:08}.pt")
    try:
        with atomic(kept, kept.with_name(kept.name + ".partial")) as partial:
            partial.unlink(missing_ok=True)
            try:
                os.link(path, partial)
            except OSError:  # no hard links here
                shutil.copyfile(path, partial)
    except OSError as error:
        raise UserError(f"{kept}: cannot be written ({reason(error)}); make room and go on with "
                        "--resume") from None
    so_far = sorted(p for p in path.parent.glob(f"{path.stem}-{'[0-9]' * 8}.pt") if p <= kept)
    for old in so_far[:-count]:
        old.unlink()
    return kept


def load(path: str | os.PathLike[str], device: torch.device | str = "cpu") -> Checkpoint:
    """Read a checkpoint of fastmoco from its file or run directory, without running code in it.
    Raises UserError for any other file."""
    path = Path(path)
    if path.is_dir():
        path = path / "checkpoint.pt"
    return from_file(read_weights(path, device), path)


def is_ours(content: Any) -> bool:
    """Return True if the content of a file looks like a checkpoint of fastmoco, of any version."""
    return isinstance(content, dict) and {"format", "recipe", "moco"} <= content.keys()


def from_file(file: WeightsFile, path: Path) -> Checkpoint:
    """Return the content of a file as a checkpoint. Raises UserError if it is none of fastmoco."""
    content = file.content
    if not is_ours(content):
        raise UserError(f"{path}: not a checkpoint of fastmoco, or cut short")
    form = content.pop("format")
    if type(form) is not int or form != FORMAT:
        raise UserError(f"{path}: written by another version of fastmoco")
    try:
        saved = Checkpoint(recipe=from_dict(content.pop("recipe")), **content)
        saved.recipe.check()
    except (KeyError, TypeError, AttributeError, ValueError):
        raise UserError(f"{path}: not a checkpoint of fastmoco, or cut short") from None
    except UserError as error:
        raise UserError(f"{path}: its recipe cannot be one ({error})") from None
    return replace(check_types(saved, path), note=digests_note(file))


def digests_note(file: WeightsFile) -> str:
    """Return a line if the tensors of a file were not compared with digests, or nothing. torch's
    layout before 1.6, and safetensors files without our digest, have no checksums at all."""
    if file.digests:
        return ""
    return NO_DIGESTS if file.zipped else NO_CHECKSUMS


def check_types(saved: Checkpoint, path: Path | str) -> Checkpoint:
    """Return the checkpoint itself if its fields have their declared types. Raises UserError, which
    names the first field that does not."""
    fields = {
        "moco": _maps(saved.moco, torch.Tensor),
        "optimizer": isinstance(saved.optimizer, dict), "scaler": isinstance(saved.scaler, dict),
        "window": isinstance(saved.window, dict), "versions": _maps(saved.versions, str),
        "clock": _maps(saved.clock, (int, float)),
        "plan": isinstance(saved.plan, list) and all(
            isinstance(line, (tuple, list)) and [type(v) for v in line] in PLAN_LINES
            for line in saved.plan
        ),
    }
    for name in ("step", "samples", "threads"):
        value = getattr(saved, name)
        fields[name] = type(value) is int and 0 <= value < 1 << 60
    epoch = saved.epoch
    fields["epoch"] = epoch is None or (type(epoch) is int and 0 <= epoch < 1 << 60)
    for name in ("dataset", "origin", "note"):
        fields[name] = isinstance(getattr(saved, name), str)
    wrong = [name for name, fits in fields.items() if not fits]
    if wrong:
        raise UserError(f"{path}: not a checkpoint of fastmoco: its {wrong[0]} is not of its type")
    return saved


def _maps(value: object, to: type | tuple[type, ...]) -> bool:
    """Return True if a value is a dict from text to values of a type."""
    return isinstance(value, dict) and all(
        isinstance(k, str) and isinstance(v, to) for k, v in value.items()
    )


def trunk_digest(saved: Checkpoint) -> str:
    """Return the digest of the query encoder's trunk. Evaluations of it are found by it."""
    prefix = "encoder_q.trunk."
    return tensors_digest({
        k[len(prefix) :]: v for k, v in saved.moco.items() if k.startswith(prefix)
    })
