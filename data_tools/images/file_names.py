"""A file's name says whether it is an image, and whether it is passed over.

One table for all readers: folders, tars, lists and WebDataset shards.
"""

from __future__ import annotations

import re

# A file with one of these suffixes counts as an image; in the end its content decides.
IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm",
    ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".jpx", ".avif", ".heic", ".heif", ".jxl",
)
IMAGE_EXTENSIONS = frozenset(suffix[1:] for suffix in IMAGE_SUFFIXES)
CLUTTER = frozenset({"__MACOSX", "Thumbs.db", "desktop.ini"})
# A path that this doesn't match is its own key and not hidden. Most paths of a million are so.
ODD = re.compile(r"(?:^|/)(?:[./]|\Z|__MACOSX|Thumbs\.db|desktop\.ini)")


def is_ignored(name: str) -> bool:
    """True for one path component that is hidden or an operating system's clutter."""
    return name.startswith(".") or name in CLUTTER


def key_of(path: str) -> tuple[str, str]:
    """A path in an archive -> (its key, the hidden file or folder on its way).

    The key has neither "." nor empty parts. The second value is "" if nothing on the way is hidden;
    "..", which leads out of the archive, counts as hidden.
    """
    if not ODD.search(path):
        return path, ""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    mark = next((i for i, part in enumerate(parts) if is_ignored(part)), -1)
    return "/".join(parts), "/".join(parts[: mark + 1]) if mark >= 0 else ""
