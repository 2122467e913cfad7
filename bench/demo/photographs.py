"""The photographs that measurements work on: given ones, those in ../shared/data, or drawn ones."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from bench.demo.images import generate
from data_tools.errors import UserError
from data_tools.policy import Policy
from fastmoco.terminal.console import say

PHOTOS = Path("../shared/data/photos-300.tar")
SIDE, QUALITY = 500, 90
POLICY = Policy(max_side=SIDE, quality=QUALITY, reencode="always")


def drawn(work: Path, train: int, val: int = 12) -> Path:
    """Draw the demo's images below `work`; return the folder of the `train` split."""
    say("no photographs given: drawing the demo's images")
    generate(work / "drawn", seed=0, train=train, val=val)
    return work / "drawn" / "train"


def photographs(given: Path | None, work: Path, train: int) -> Path:
    """Return the given folder or tar, else PHOTOS if it exists, else a folder of drawn images.

    Raises UserError if the given one does not exist.
    """
    if given is not None:
        if not given.exists():
            raise UserError(f"{given}: no such folder or tar of photographs")
        return given
    return PHOTOS if PHOTOS.exists() else drawn(work, train)


def repeat(folder: Path, out: Path, least: int) -> list[Path]:
    """Copy a folder's JPEGs to `out` as class/number.jpg, again and again, until there are enough.

    Each copy gets a comment of its own, since prep stores equal images only once. Raises UserError
    if the folder holds none.
    """
    sources = sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg"))
    whole = [path for path in sources if is_whole(path)]
    if not whole:
        raise UserError(f"{folder}: no JPEGs there; give a folder of photographs, by class")
    files: list[Path] = []
    for i in range(-(-least // len(whole)) * len(whole)):
        source = whole[i % len(whole)]
        path = out / source.parent.name / f"{i:06}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        data, comment = source.read_bytes(), b"%08d" % i
        path.write_bytes(data[:2] + b"\xff\xfe\0\x0a" + comment + data[2:])
        files.append(path)
    return files


def is_whole(path: Path) -> bool:
    """Return whether Pillow decodes an image; FFCV's writer stops at one that it cannot decode."""
    try:
        with Image.open(path) as image:
            image.load()
        return True
    except OSError:
        return False
