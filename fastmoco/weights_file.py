"""Weight files of any origin, read without running anything that is in them.

torch's weights_only reader builds tensors and plain containers and refuses all other names. Where
a training library pickled its settings beside the weights (Lightning, mmengine), what it names is
replaced by an empty container: the library is neither needed nor asked.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from data_tools.errors import UserError

# Packages whose objects lie in checkpoints beside the weights, as settings and counters.
SETTINGS_OF = {
    "argparse", "classy_vision", "lightly", "lightning", "lightning_fabric", "mmcv", "mmengine",
    "mmpretrain", "mmselfsup", "numpy", "omegaconf", "pathlib", "pytorch_lightning", "solo",
    "typing", "vissl", "yacs",
}
PLAIN = {"builtins." + name for name in ("dict", "list", "tuple", "set", "int", "float", "str",
                                         "bool", "object", "bytes", "complex", "slice")}
PLAIN |= {"torch.torch_version.TorchVersion"}
NAMES = 200  # of other packages in one file, at most


class Scalar:
    """Stands for numpy's scalars and types, which carry their state in a tuple."""

    def __init__(self, *args: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class Settings:
    """Stands for an object of a library that is not asked."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        return OrderedDict()  # what the reader lets have items and state


def read_weights(path: Path, device: torch.device | str = "cpu") -> Any:
    """The content of a .safetensors file, or of one that torch.save wrote (zipped or old).

    Raises UserError, in one line, for a file that is missing, cut short, something else, or that
    would run code when unpickled the usual way.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint")
    if path.suffix == ".safetensors":
        return _safetensors(path, device)
    refuse_damaged(path)
    stand_ins: dict[str, type] = {}
    while True:
        try:
            with torch.serialization.safe_globals([(c, name) for name, c in stand_ins.items()]):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # of pickle protocols other than torch's
                    return torch.load(path, map_location=device, weights_only=True)
        except pickle.UnpicklingError as error:
            named = re.search(r"GLOBAL (\S+)", str(error))
            if named is None:
                raise _not_weights(path) from None
            name = named[1]
            package = name.partition(".")[0]
            if name in PLAIN:
                pass
            elif "builtins." + name in PLAIN:  # the reader's message leaves the package out
                name = "builtins." + name
            elif package not in SETTINGS_OF or "." not in name:
                raise UserError(
                    f"{path}: names {name}, which unpickling would run: nothing was run; use a "
                    "file that holds tensors alone (.safetensors, or a bare state dict)"
                ) from None
            if name in stand_ins or len(stand_ins) == NAMES:
                raise _not_weights(path) from None
            stand_ins[name] = Scalar if package == "numpy" else Settings
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # whatever a damaged file makes the reader stumble over
            if isinstance(error, OSError) and error.filename:  # not to be opened at all
                raise
            raise _not_weights(path) from None


def refuse_damaged(path: Path) -> None:
    """UserError where a part of a zipped file is not what its checksum says: torch does not look,
    and flipped bytes are numbers, too. A file without checksums, which torch can write, passes."""
    try:
        with zipfile.ZipFile(path) as archive:
            bad = [part.filename for part in archive.infolist() if not _whole(archive, part)]
            if bad and len(bad) < len(archive.infolist()):
                raise UserError(f"{path}: damaged: {bad[0]} in it is not what was written")
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError):
        return  # the old layout, or what the reader says more of


def _whole(archive: zipfile.ZipFile, part: zipfile.ZipInfo) -> bool:
    try:
        with archive.open(part) as file:
            while file.read(1 << 20):
                pass
    except zipfile.BadZipFile:
        return False
    return True


def tensors_digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256, in hexadecimal, of tensors by their names, on whatever device they lie."""
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


def _safetensors(path: Path, device: torch.device | str) -> dict[str, Any]:
    """Its tensors; under "fastmoco" what an export of ours says in the file's metadata."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            content: dict[str, Any] = {name: file.get_tensor(name) for name in file.keys()}
            told = (file.metadata() or {}).get("fastmoco")
        return content if told is None else content | {"fastmoco": json.loads(told)}
    except (SafetensorError, ValueError, OSError):
        raise _not_weights(path) from None


def _not_weights(path: Path) -> UserError:
    return UserError(f"{path}: not a checkpoint that can be read, or cut short")
