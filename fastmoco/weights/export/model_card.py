"""Writes the model card of an export: usage, training, results, limits."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

from data_tools.errors import UserError, escaped
from data_tools.safe_reading.json_file import Damaged
from fastmoco.recipe import RECIPES, Recipe, flag
from fastmoco.runs.evaluation_file import read_evaluation
from fastmoco.runs.metrics_file import read_metrics
from fastmoco.runs.record import read_about
from fastmoco.weights.checkpoint import Checkpoint, trunk_digest
from fastmoco.weights.export.detectron2 import HOW_TO
from fastmoco.weights.export.usage import usage

LIBRARIES = {"timm": "timm", "huggingface": "transformers", "onnx": "onnx"}
TRAINED = "trained"  # the name of the checkpoint's own features in evaluation files


def model_card(
    saved: Checkpoint, source: Path, to: str, files: list[str], detection: bool = False
) -> str:
    """The card of an export to the format `to`, in markdown. source: the checkpoint's file or run
    directory, in whose folder results are searched."""
    recipe = saved.recipe
    library = f"library_name: {LIBRARIES[to]}\n" if to in LIBRARIES else ""
    sections = [
        f"---\n{library}tags: [moco, self-supervised-learning, image-feature-extraction]\n---",
        f"# {recipe.arch}, pre-trained with {_inline(recipe.name)}",
        f"An image encoder trained without labels by momentum contrast ({paper(recipe)}), exported "
        f"for {to}: the query encoder's trunk"
        + (", with all of MoCo's state." if to == "official" else ", without the projection head."),
        f"## Use\n\n{usage(recipe, to).rstrip()}",
        *([HOW_TO.rstrip()] if detection else []),
        f"## Training\n\n{training(saved)}",
        f"## Results\n\n{results(saved, source)}",
        "## Limits\n\nFeatures reflect the training images, and ignore the differences that the "
        "augmentation removes, mainly colour and crop. The encoder does not classify by itself. "
        "The licence of the training images applies to it as far as it does to any model.",
        "Files: " + ", ".join(f"`{name}`" for name in files) + ".",
    ]
    return "\n\n".join(sections) + "\n"


def paper(recipe: Recipe) -> str:
    """A link to the paper: v1 has a linear head, v2 an MLP."""
    number = "1911.05722" if recipe.head == "linear" else "2003.04297"
    return f"[arXiv:{number}](https://arxiv.org/abs/{number})"


def training(saved: Checkpoint) -> str:
    """Data, length, command and versions of the training. The command lists the fields in which the
    recipe differs from the named one."""
    recipe = saved.recipe
    lines = []
    if saved.samples:
        epochs = saved.step * recipe.batch / saved.samples
        lines.append(
            f"- data: {saved.samples:,} images, fingerprint `{_inline(saved.dataset)}`\n"
            f"- length: {saved.step:,} steps of {recipe.batch} images ({epochs:.1f} epochs)"
        )
    if saved.origin:
        lines.append(f"- weights: {_inline(saved.origin)}")
    named = RECIPES.get(recipe.name)
    differs = []
    if named is not None:
        for field in dataclasses.fields(recipe):
            ours, usual = getattr(recipe, field.name), getattr(named, field.name)
            if ours != usual and field.name not in ("augmentation", "precision", "order"):
                differs.append(f"--{flag(field.name)} {_words(ours)}")
        for field in dataclasses.fields(recipe.augmentation):
            ours = getattr(recipe.augmentation, field.name)
            if ours != getattr(named.augmentation, field.name):
                differs.append(f"--augmentation.{flag(field.name)} {_words(ours)}")
    lines.append(
        f"- command: `fastmoco train DATA --recipe {' '.join([_inline(recipe.name), *differs])}`"
        + (", its length set by a budget" if len(saved.plan) > 1 else "")
    )
    lines.append("- to evaluate: `fastmoco knn CHECKPOINT TRAIN VAL`, or `linear`, or `finetune`")
    lines.append(f"- precision: {recipe.precision}")
    if saved.versions:
        versions = ", ".join(f"{k} {v}" for k, v in saved.versions.items())
        lines.append(f"- made with: {_inline(versions)}")
    return "\n".join(lines)


def results(saved: Checkpoint, source: Path) -> str:
    """A table of the results of this checkpoint in its run directory: the kNN during training, and
    the files that evaluating commands wrote there with --json."""
    run = source if source.is_dir() else source.parent
    rows = [*_while_training(saved, run)]
    for path in sorted(run.glob("*.json")):
        rows += _of_json(saved, path)
    if not rows:
        return "No results of this checkpoint were found in its folder."
    head = ("| what | protocol | top-1 |", "|---|---|---|")
    return "\n".join([*head, *(f"| {a} | {b} | {c} |" for a, b, c in rows)])


def _while_training(saved: Checkpoint, run: Path) -> list[tuple[str, str, str]]:
    """The kNN at the checkpoint's own step, if the run in this directory has its recipe."""
    try:
        recipe, _ = read_about(run)
        rows, _ = read_metrics(run / "metrics.jsonl")
    except UserError:
        return []
    measured = [row for row in rows["evaluated"] if row["step"] == saved.step]
    if recipe != saved.recipe or not measured:
        return []
    row = measured[-1]
    name = f"kNN while training, epoch {row['epoch']:g}"
    return [(name, _inline(row["protocol"]), f"{row['knn']:.1%}")]


def _of_json(saved: Checkpoint, path: Path) -> list[tuple[str, str, str]]:
    """The rows of the trained encoder in a file of knn, linear or finetune, if it evaluates this
    checkpoint."""
    try:
        content = read_evaluation(path)
    except (OSError, Damaged):
        return []  # a file of another kind
    if content.weights != trunk_digest(saved):
        return []
    sets = " and ".join(f"`{_inline(Path(s).name)}`" for s in content.data)
    what = f"`{_inline(path.name)}`, on {sets}, {content.size} pixels"
    found = []
    for row in content.rows:
        ours = row.get("features", row.get("name")) == TRAINED
        if not ours or not {"top1", "low", "high"} <= row.keys():
            continue
        protocol = str(row.get("protocol", content.protocol))
        if "k" in row:
            protocol += f", k={row['k']}, T={row.get('T')}"
        top1 = f"{row['top1']:.1%} ({row['low']:.1%} to {row['high']:.1%})"
        found.append((what, _inline(protocol), top1))
    return found


def _words(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _inline(text: str) -> str:
    """Text from a file, made safe for one cell of a table."""
    return escaped(re.sub(r"[|`<>\s]+", " ", text).strip())
