"""Writes the directory of an export atomically, and never replaces files that are not an export's.

It holds the weights, a model card (README.md), and export.json, which lists the files with their
checksums.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from data_tools.errors import UserError
from data_tools.safe_reading.json_file import Damaged, printable, read_json, typed
from data_tools.safe_reading.limits import why
from fastmoco import __version__
from fastmoco.weights.checkpoint import Checkpoint
from fastmoco.weights.export.detectron2 import refuse_detection, write_detection
from fastmoco.weights.export.model_card import model_card
from fastmoco.weights.export.writers import FORMATS, refuse_trunk, write_json

MARK = "export.json"
CARD = "README.md"


def export(
    saved: Checkpoint, source: Path, to: str, out: Path, with_config: bool = False
) -> list[Path]:
    """Write a checkpoint's trunk for another system into the directory `out`; return its files.

    An earlier export in `out` is replaced if nothing in it was changed or added. Raises UserError
    if the format cannot hold the trunk, if `out` holds anything else, or cannot be written; no
    partial files are left then.
    """
    refuse_trunk(saved.recipe, to)
    if with_config and to != "detectron2":
        raise UserError(f"--with-config goes with --to detectron2, not {to}")
    if with_config:
        refuse_detection(saved.recipe)
    refuse_foreign(out)
    try:
        if out.parent.exists() and not out.parent.is_dir():
            raise UserError(f"{out}: {out.parent} is a file; give another directory with --out")
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".partial", dir=out.parent))
        try:
            FORMATS[to].write(saved, partial)
            if with_config:
                write_detection(saved.recipe, partial)
            names = sorted(p.name for p in partial.iterdir())
            card = model_card(saved, source, to, names, with_config)
            (partial / CARD).write_text(printable(card), encoding="utf-8")
            names = sorted([*names, CARD])
            write_json(partial / MARK, {
                "made_by": f"fastmoco {__version__}", "to": to, "checkpoint": str(source),
                "step": saved.step, "sha256": {name: digest(partial / name) for name in names},
            })
            partial.chmod(0o755)  # mkdtemp makes it readable by its owner only
            put_in_place(partial, out)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {why(error)}") from None
    except (SafetensorError, RuntimeError) as error:  # torch's zip writer raises the latter
        if "I/O error" not in str(error) and "inline_container" not in str(error):
            raise
        raise UserError(
            f"{out}: cannot be written (a full disk, or a limit on the size of files: "
            f"{str(error).splitlines()[0]})"
        ) from None
    return [out / name for name in (*names, MARK)]


def refuse_foreign(out: Path) -> None:
    """Raise UserError if `out` is anything but a new or empty folder, or an unchanged export."""
    if not out.exists() and not out.is_symlink():
        return
    if not out.is_dir() or out.is_symlink():
        raise UserError(f"{out}: is a file or a link; give a new directory with --out")
    there = {p.name for p in out.iterdir()}
    if not there:
        return
    try:
        mark = typed(dict[str, Any], read_json(out / MARK))
        sums = typed(dict[str, str], mark.get("sha256"), "sha256")
        foreign = sorted(there - sums.keys() - {MARK})
        changed = sorted(n for n in there & sums.keys() if digest(out / n) != sums[n])
    except (OSError, Damaged):
        raise UserError(
            f"{out}: holds other files ({min(there)}); give a new directory with --out"
        ) from None
    if foreign or changed:
        why = f"holds {foreign[0]}" if foreign else f"{changed[0]} was changed"
        raise UserError(f"{out}: {why} since it was exported; give another directory with --out")


def put_in_place(partial: Path, out: Path) -> None:
    """Rename the new directory to `out`; remove the old one only after that."""
    old = partial.with_suffix(".old")
    if out.exists():
        os.rename(out, old)
    try:
        os.rename(partial, out)
    except OSError:
        if old.exists():
            os.rename(old, out)
        raise
    shutil.rmtree(old, ignore_errors=True)


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
