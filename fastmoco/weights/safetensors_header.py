"""Reads and writes safetensors files; checks their header before the library opens them.

Format: github.com/huggingface/safetensors, "Format". Eight bytes hold the length of the header;
then follow the header in JSON and the tensors' bytes without gaps.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import google_crc32c
import torch

HEADER_BYTES = 8 << 20  # largest header that is read: 50,000 tensors of 150 bytes each
LEVELS = 32  # nesting of its JSON
ITEM_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "I16": 16, "U16": 16,
    "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64,
    "C64": 64,
}
PARTS = re.compile(rb'"(?:[^"\\]|\\.?)*(?:"|\Z)|[\[\]{}]', re.DOTALL)  # strings and brackets
OURS, DIGEST = "fastmoco", "fastmoco_crc32c"  # keys of the metadata


class NotSafetensors(ValueError):
    """A file is damaged, or not in this format. The error's text is the reason, in one line."""


def read_safetensors(path: Path, device: torch.device | str) -> tuple[dict[str, Any], bool | None]:
    """Return the tensors by name, and True if they were compared with digests (None in files of
    others). In an export of ours, the name "fastmoco" holds the metadata that it added.

    Raises NotSafetensors.
    """
    from safetensors import SafetensorError, safe_open

    metadata = _check_header(path)
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            tensors: dict[str, Any] = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, ValueError, OSError) as error:
        raise NotSafetensors(str(error).splitlines()[0]) from None
    ours = metadata.get(OURS)
    if DIGEST in metadata and metadata[DIGEST] != digest(tensors, ours or ""):
        raise NotSafetensors("it is not what was written")
    if ours is None:
        return tensors, None
    return tensors | {OURS: bounded_json(ours)}, DIGEST in metadata


def write_safetensors(
    tensors: Mapping[str, torch.Tensor], path: Path, metadata: Mapping[str, str]
) -> None:
    """Write tensors on the CPU, with a digest of them and of metadata's "fastmoco". Raises OSError
    with the system's reason."""
    from safetensors.torch import save

    with_digest = {**metadata, DIGEST: digest(tensors, metadata[OURS])}
    # not the library's own writer, whose errors give no reason of the system
    path.write_bytes(save(dict(tensors), with_digest))


def digest(tensors: Mapping[str, torch.Tensor], ours: str) -> str:
    """CRC-32C, in hexadecimal, of tensors with their names, types and shapes, and of our metadata:
    the format itself has no checksums."""
    found = google_crc32c.value(ours.encode())
    for name, tensor in sorted(tensors.items()):
        found = google_crc32c.extend(found, f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        found = google_crc32c.extend(found, flat.numpy().tobytes())
    return f"{found:08x}"


def bounded_json(text: str | bytes) -> Any:
    """Parse JSON of at most 32 levels, without NaN, infinity or repeated keys. Raises ValueError
    for any other: Python's parser would recurse as deep as the text nests."""
    levels = deepest = 0
    for found in PARTS.finditer(text.encode() if isinstance(text, str) else text):
        levels += {b"[": 1, b"{": 1, b"]": -1, b"}": -1}.get(found[0], 0)
        deepest = max(deepest, levels)
    if deepest > LEVELS:
        raise NotSafetensors(f"its header is nested deeper than {LEVELS} levels")

    def no_number(name: str) -> None:
        raise NotSafetensors(f"its header holds {name}")

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(found := dict(pairs)) < len(pairs):
            raise NotSafetensors("its header holds a name twice")
        return found

    return json.loads(text, parse_constant=no_number, object_pairs_hook=once)


def _check_header(path: Path) -> dict[str, str]:
    """Check that the tensors of the header fill the file exactly; return the metadata."""
    size = os.stat(path).st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            raise NotSafetensors("cut short")
        if length > HEADER_BYTES:
            raise NotSafetensors(
                f"its header has {length:,} bytes; at most {HEADER_BYTES:,} are read"
            )
        try:
            header = bounded_json(file.read(length))
        except NotSafetensors:
            raise
        except (ValueError, RecursionError):
            raise NotSafetensors("its header is not JSON") from None
    if not isinstance(header, dict):
        raise NotSafetensors("its header is no object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(type(v) is str for v in metadata.values()):
        raise NotSafetensors("its metadata are not text by names")
    end = 0
    for begin, stop in sorted(_place(name, entry) for name, entry in header.items()):
        if begin != end:
            raise NotSafetensors("its tensors overlap, or leave a gap")
        end = stop
    if end != size - 8 - length:
        raise NotSafetensors("cut short, or longer than its tensors")
    return metadata


def _place(name: str, entry: Any) -> tuple[int, int]:
    """Return (begin, end) of a tensor in the data, in bytes; check that its shape needs this
    many."""
    try:
        kind, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not all(type(n) is int and 0 <= n < 1 << 62 for n in (*shape, begin, end)):
            raise TypeError
        if len(shape) > 32 or math.prod(shape) * ITEM_BITS[kind] != 8 * (end - begin):
            raise TypeError
    except (TypeError, KeyError, ValueError):
        raise NotSafetensors(f"its header is damaged at {name[:100]}") from None
    return begin, end
