"""Decides by a file's name whether it counts as an image, and whether it is ignored.

All readers use this one table: folders, tars, lists and WebDataset shards.
"""

from __future__ import annotations

import re

# A file with one of these suffixes counts as an image until its content is read.
IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm",
    ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".jpx", ".avif", ".heic", ".heif", ".jxl",
)
IMAGE_EXTENSIONS = frozenset(suffix[1:] for suffix in IMAGE_SUFFIXES)
CLUTTER = frozenset({"__MACOSX", "Thumbs.db", "desktop.ini"})
# Matches paths that need a closer look. Most of a million paths do not match: they are their own
# keys, and nothing on the way is hidden.
ODD = re.compile(r"(?:^|/)(?:[./]|\Z|__MACOSX|Thumbs\.db|desktop\.ini)")


def is_ignored(name: str) -> bool:
    """True for a name, without folders, that is hidden or an operating system's clutter."""
    return name.startswith(".") or name in CLUTTER


def key_of(path: str) -> tuple[str, str]:
    """Returns (key, the first hidden file or folder of the path) of a path in an archive.

    The key is the path without "." and empty parts. The second value is "" if nothing in the path
    is hidden. "..", which leads out of the archive, counts as hidden.
    """
    if not ODD.search(path):
        return path, ""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    mark = next((i for i, part in enumerate(parts) if is_ignored(part)), -1)
    return "/".join(parts), "/".join(parts[: mark + 1]) if mark >= 0 else ""
