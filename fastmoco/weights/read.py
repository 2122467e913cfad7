"""Weight files of any origin, read without running anything that is in them.

The file is walked and its pickle read by code of ours first (weights.zip_records,
weights.torch_pickle); only what both let through is given to torch, whose weights_only reader
then builds the tensors. Where a training library pickled its settings beside the weights
(Lightning, mmengine), what it names is replaced by an empty container: the library is neither
needed nor asked.
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
from fastmoco.weights.torch_pickle import Settings, WeightsPickle
from fastmoco.weights.zip_records import (
    MAGIC,
    NotFromTorchSave,
    ZipCutShort,
    ZipDamaged,
    content,
    read_records,
)

PICKLE_BYTES = 32 << 20
SMALL = (
    "version", "byteorder", ".format_version", ".storage_alignment", ".data/serialization_id",
)
SMALL_BYTES = 64
# The first pickles of torch's old layout (torch/serialization.py)
OLD_MAGIC, OLD_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
UNREADABLE = "not a checkpoint that can be read, or cut short"


@dataclass(frozen=True)
class WeightsFile:
    content: Any
    digests: bool | None
    """Whether the tensors were compared with digests that were written with them."""
    zipped: bool = False
    """Whether the file is a zip, whose checksums were compared."""


def read_weights(path: Path, device: torch.device | str = "cpu") -> WeightsFile:
    """The content of a .safetensors file, or of one that torch.save wrote (zipped or old).

    Raises UserError, in one line, for a file that is missing, cut short, damaged, something else,
    or that would run code when unpickled the usual way; or that would take more memory than a few
    times its size.
    """
    if not path.exists():
        raise UserError(f"{path}: no such checkpoint")
    if not path.is_file():
        raise UserError(f"{path}: not a file; give a checkpoint file or a run directory")
    with _in_one_line(path):
        if path.suffix == ".safetensors":
            return WeightsFile(*read_safetensors(path, device))
        with open(path, "rb") as file:  # the same file for the checks and for torch
            zipped = file.read(len(MAGIC)) == MAGIC
            pickled, digests = _check_zip(file) if zipped else (_check_old(file), False)
            return WeightsFile(_load(file, pickled, device), digests, zipped)


@contextmanager
def _in_one_line(path: Path) -> Iterator[None]:
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
    except Exception as error:  # whatever a damaged file makes the reader stumble over
        if isinstance(error, OSError) and error.filename:  # not to be opened at all
            raise
        raise UserError(f"{path}: {UNREADABLE}") from None


def _check_zip(file: IO[bytes]) -> tuple[WeightsPickle, bool]:
    """The pickle of a zipped file, whose records are whole, and whether digests say so."""
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
    """The pickles of torch's layout before 1.6: two numbers, the system, the content, the keys of
    its storages; each storage follows behind a count of its items. There are no checksums."""
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
    made: list[dict] = []  # by this file's stand-ins

    class Here(Settings):
        def __new__(cls, *args: Any, **kwargs: Any) -> Any:
            made.append(super().__new__(cls))
            return made[-1]

    stand_ins: list[Any] = [(Here if kind is Settings else kind, name)
                            for name, kind in pickled.stand_ins.items()]
    file.seek(0)
    with torch.serialization.safe_globals(stand_ins), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pickle protocols other than torch's
        loaded = torch.load(file, map_location=device, weights_only=True)
    for settings in made:
        vars(settings).clear()  # attributes named as a dict's methods would be called for them
    return loaded


def tensors_digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256, in hexadecimal, of tensors by their names, on whatever device they lie."""
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        found.update(flat.numpy().tobytes())
    return found.hexdigest()
