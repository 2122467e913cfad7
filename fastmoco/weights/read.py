"""Reads weight files of any origin without running anything in them.

Our own code first checks the file and its pickle (weights.zip_records, weights.torch_pickle). Only
a file that passes is given to torch, whose weights_only reader builds the tensors. Some training
libraries (Lightning, mmengine) pickle their settings beside the weights. Objects of these libraries
are replaced by empty containers, so the libraries need not be installed and none of their code
runs.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch

from data_tools.errors import UserError
from data_tools.safe_reading.bounded_pickle import PickleRefused
from fastmoco.weights import record_digests
from fastmoco.weights.safetensors_header import NotSafetensors, read_safetensors
from fastmoco.weights.stand_ins import Settings
from fastmoco.weights.torch_pickle import WeightsPickle
from fastmoco.weights.zip_records import (
    MAGIC,
    NotFromTorchSave,
    ZipCutShort,
    ZipDamaged,
    content,
    read_records,
)

PICKLE_BYTES = 32 << 20  # largest pickle that is read
# Records that torch writes with a few bytes.
SMALL = (
    "version", "byteorder", ".format_version", ".storage_alignment", ".data/serialization_id",
)
SMALL_BYTES = 64
# The values of the first two pickles in torch's old layout (torch/serialization.py)
OLD_MAGIC, OLD_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
UNREADABLE = "not a checkpoint that can be read, or cut short"


@dataclass(frozen=True)
class WeightsFile:
    """The content of a weight file, and the checks that it passed."""

    content: Any
    digests: bool | None
    """True if the tensors were compared with digests in the file; None in safetensors files of
    others."""
    zipped: bool = False
    """True if the file is a zip, whose checksums were compared."""


def read_weights(path: Path, device: torch.device | str = "cpu") -> WeightsFile:
    """Read a .safetensors file, or one that torch.save wrote (as a zip, or in the old layout).

    Raises UserError, in one line, if the file is missing, cut short, damaged, or of another kind;
    if ordinary unpickling would run code; or if it would take more memory than a few times its
    size.
    """
    if not path.exists():
        raise UserError(f"{path}: no such checkpoint")
    if not path.is_file():
        raise UserError(f"{path}: not a file; give a checkpoint file or a run directory")
    with _in_one_line(path):
        if path.suffix == ".safetensors":
            return WeightsFile(*read_safetensors(path, device))
        # One open file for the checks and for torch: another file cannot take its place in between.
        with open(path, "rb") as file:
            zipped = file.read(len(MAGIC)) == MAGIC
            pickled, digests = _check_zip(file) if zipped else (_check_old(file), False)
            return WeightsFile(_load(file, pickled, device), digests, zipped)


@contextmanager
def _in_one_line(path: Path) -> Iterator[None]:
    """Turn the errors of the readers into a UserError of one line."""
    try:
        yield
    except ZipCutShort:
        raise UserError(f"{path}: {UNREADABLE}") from None
    except NotFromTorchSave as error:
        raise UserError(f"{path}: not a checkpoint: {error}") from None
    except ZipDamaged as error:
        raise UserError(f"{path}: damaged: {error}") from None
    except PickleRefused as error:
        raise UserError(f"{path}: {error}") from None
    except NotSafetensors as error:
        raise UserError(f"{path}: {UNREADABLE}: {error}") from None
    except (UserError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # a damaged file may raise any error in the readers
        if isinstance(error, OSError) and error.filename:  # the file cannot be opened
            raise
        raise UserError(f"{path}: {UNREADABLE}") from None


def _check_zip(file: IO[bytes]) -> tuple[WeightsPickle, bool]:
    """Check a zipped file. Return its pickle, and True if digests confirmed the records."""
    records = read_records(file)
    if "data.pkl" not in records:
        raise NotFromTorchSave("a zip file without data.pkl")
    for name in SMALL:
        if name in records and records[name].size > SMALL_BYTES:
            raise ZipDamaged(f"{name} in it is larger than torch writes it")
    digests = record_digests.check(file, records)
    size = os.fstat(file.fileno()).st_size
    pickled = WeightsPickle(content(file, records["data.pkl"], PICKLE_BYTES), size)
    pickled.load()
    pickled.check_tensors()
    for storage in pickled.storages.values():
        record = records.get(f"data/{storage.key}")
        if record is None or record.size != storage.items * storage.item_bytes:
            raise ZipDamaged(f"data/{storage.key} in it is missing or of another size")
    return pickled, digests


def _check_old(file: IO[bytes]) -> WeightsPickle:
    """Check a file in torch's layout before 1.6. It is a row of pickles: two numbers, the system,
    the content, the keys of its storages. Then each storage follows, after its number of items. The
    layout has no checksums."""
    size = os.fstat(file.fileno()).st_size
    pickled = WeightsPickle(os.pread(file.fileno(), PICKLE_BYTES, 0), size)
    try:
        if pickled.load() != OLD_MAGIC or pickled.load() != OLD_PROTOCOL:
            raise PickleRefused(UNREADABLE)
        pickled.load()
    except PickleRefused:
        raise PickleRefused(UNREADABLE) from None
    pickled.load()
    pickled.check_tensors()
    keys = pickled.load()
    if not isinstance(keys, list) or sorted(keys) != sorted(pickled.storages):
        raise PickleRefused(UNREADABLE)
    at = pickled.at
    for storage in (pickled.storages[key] for key in keys):
        if int.from_bytes(os.pread(file.fileno(), 8, at), "little") != storage.items:
            raise PickleRefused(UNREADABLE)
        at += 8 + storage.items * storage.item_bytes
    if at != size:
        raise PickleRefused(UNREADABLE)
    return pickled


def _load(file: IO[bytes], pickled: WeightsPickle, device: torch.device | str) -> Any:
    """Let torch read a file that passed the checks, with stand-ins for foreign classes."""
    made: list[dict] = []  # objects that stand in for those of other libraries

    class Here(Settings):
        def __new__(cls, *args: Any, **kwargs: Any) -> Any:
            made.append(super().__new__(cls))
            return made[-1]

    stand_ins: list[Any] = [(Here if kind is Settings else kind, name)
                            for name, kind in pickled.stand_ins.items()]
    file.seek(0)
    with torch.serialization.safe_globals(stand_ins), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about pickle protocols other than torch's
        loaded = torch.load(file, map_location=device, weights_only=True)
    for settings in made:
        # Their attributes go: one named like a dict's method would be called in its place.
        vars(settings).clear()
    return loaded


def tensors_digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256, in hexadecimal, of named tensors; the same on every device."""
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        found.update(flat.numpy().tobytes())
    return found.hexdigest()
