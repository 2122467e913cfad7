"""Writes a beton with two image fields that point at the same bytes.

FFCV's loader makes one view per field, so two views need the image in two fields. The bytes are
stored once: both fields of a sample hold the same pointer.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data_tools.formats.beton import ALLOCATION, FIELD, HEADER, IMAGE, ROW

DOUBLE = np.dtype([("image", IMAGE), ("image_2", IMAGE), ("label", "<i8")], align=True)


def double(source: Path, out: Path) -> None:
    """Copy `source`, a beton of (image, label), to `out` with its image field twice."""
    content = np.fromfile(source, np.uint8)
    version, fields, page, samples, table = HEADER.unpack(content[: HEADER.size].tobytes())
    assert fields == 2, "a beton with one image and one label"
    at = HEADER.size
    image, label = (content[at + i * FIELD.size : at + (i + 1) * FIELD.size] for i in range(2))
    old = content[at + 2 * FIELD.size :][: samples * ROW.itemsize].view(ROW)
    kind, _, arguments = FIELD.unpack(image.tobytes())
    again = np.frombuffer(FIELD.pack(kind, b"image_2", arguments), np.uint8)
    rows = np.zeros(samples, DOUBLE)
    rows["image"] = rows["image_2"] = old["image"]
    rows["label"] = old["label"]
    front = HEADER.size + 3 * FIELD.size + rows.nbytes
    first = int(old["image"]["ptr"].min()) // page * page
    shift = -(-front // page) * page - first  # whole pages, so that no image crosses one more
    for name in ("image", "image_2"):
        rows[name]["ptr"] += np.uint64(shift) if shift >= 0 else np.uint64(2**64 + shift)
    allocations = content[table:].view(ALLOCATION).copy()
    allocations["ptr"] = allocations["ptr"].astype(np.int64) + shift
    with open(out, "wb") as file:
        file.write(HEADER.pack(version, 3, page, samples, table + shift))
        for part in (image, again, label, rows.view(np.uint8)):
            file.write(part.tobytes())
        file.seek(first + shift)
        file.write(content[first:table].tobytes())
        file.seek(table + shift)
        file.write(allocations.tobytes())
