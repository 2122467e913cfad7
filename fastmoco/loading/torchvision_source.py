"""Reads torchvision's datasets as a source: torchvision:NAME, for example torchvision:CIFAR10.

Options of the dataset's constructor follow after commas: torchvision:STL10,split=unlabeled. root is
the folder of the files [default: data]. Files are only downloaded with download=true.
"""

from __future__ import annotations

import difflib
import hashlib
import inspect
import io
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from data_tools.errors import UserError
from data_tools.label_values import number_labels
from data_tools.progress import Tick
from data_tools.sources.keys import RowKeys

PREFIX = "torchvision:"
ROOT = "data"
# Attributes in which torchvision's classes keep labels, or pairs of a file and its label.
LABELS = ("targets", "labels", "_labels", "y", "_samples", "samples", "imgs",
          "_flat_character_images", "index")
# A dataset without such an attribute is read once for its labels, if it has at most this many
# items.
READ_FOR_LABELS = 10_000

# Options that are functions, which a command line cannot give.
CALLED = frozenset({"transform", "target_transform", "transforms", "loader", "is_valid_file"})
# Not accepted: folders, which prep reads by itself; videos, clips, optical flow, pairs of images.
NO_IMAGES = frozenset({
    "ImageFolder", "DatasetFolder", "VisionDataset", "Kinetics", "HMDB51", "UCF101", "MovingMNIST",
    "PhotoTour", "FlyingChairs", "FlyingThings3D", "HD1K", "Sintel", "KittiFlow", "LFWPairs",
})


def recognises(name: str) -> bool:
    """True for "torchvision:..."."""
    return name.startswith(PREFIX)


def open(name: str, progress: Tick | None = None) -> TorchvisionSource:
    """Open the dataset "torchvision:NAME,option=value,...".

    Raises UserError for a name or an option that torchvision doesn't have, and for errors of the
    dataset itself (missing files, an unknown split).
    """
    import torchvision

    title, *pairs = name.removeprefix(PREFIX).split(",")
    known = [n for n in torchvision.datasets.__all__ if is_image_dataset(n)]
    if title not in known:
        raise UserError(f"{name}: torchvision has no image dataset {title or 'without a name'}"
                        + close_to(title, known, "; it has {}", ", ".join(known[:8]) + ", ..."))
    make = getattr(torchvision.datasets, title)
    accepted = parameters(make)
    # download=False: some datasets download by default.
    options: dict[str, Any] = {"root": ROOT, "download": False}
    options = {option: options[option] for option in options if option in accepted}
    for pair in pairs:
        option, mark, text = pair.partition("=")
        if not mark or option not in accepted:
            raise UserError(f"{name}: {title} has no option {option or 'without a name'}"
                            + close_to(option, list(accepted), "; it takes {}",
                                       ", ".join(accepted)))
        options[option] = value_of(text)
    needed = [option for option, must in accepted.items() if must and option not in options]
    if needed:
        raise UserError(f"{name}: {title} needs {' and '.join(needed)}; give it as "
                        f"{name},{needed[0]}=VALUE")
    try:
        dataset = make(**options)
        if not len(dataset):
            raise UserError(f"{name}: holds no images")
        return TorchvisionSource(name, title, dataset, progress)
    except (UserError, KeyboardInterrupt):
        raise
    except Exception as error:  # each dataset has its own way to say that its files are missing
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        reason = reason.split(" You can use download")[0]  # the hint below says it in our own form
        hint = ""
        if "download" in accepted and not options.get("download"):
            hint = f"; files are looked for in {options.get('root')}: root=DIR names another " \
                   "folder, download=true fetches them"
        raise UserError(f"{name}: {reason.rstrip('. ')}{hint}") from None


def is_image_dataset(name: str) -> bool:
    import torchvision

    return name[:1].isupper() and name not in NO_IMAGES and not name.endswith("Stereo") and (
        inspect.isclass(getattr(torchvision.datasets, name, None)))


def parameters(make: type) -> dict[str, bool]:
    """Options of a dataset's constructor; True for required ones."""
    found: dict[str, bool] = {}
    # Its own options; if it takes **kwargs, also those of its base class.
    for cls in make.__mro__:
        listed = inspect.signature(cls).parameters
        for option, parameter in listed.items():
            plain = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
            if plain and option not in CALLED and not option.startswith("_"):
                found.setdefault(option, parameter.default is parameter.empty)
        if not any(p.kind is p.VAR_KEYWORD for p in listed.values()):
            break
    return found


def close_to(word: str, words: Sequence[str], near: str, otherwise: str) -> str:
    """Suggest words close to a misspelt one, ignoring case; `otherwise` if none is close."""
    lower = {w.lower(): w for w in words}
    found = [lower[w] for w in difflib.get_close_matches(word.lower(), lower, 3)]
    return near.format(", ".join(found) if found else otherwise)


def value_of(text: str) -> bool | int | str:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return int(text)
    except ValueError:
        return text


class TorchvisionSource:
    """A torchvision dataset of (image, target) items. A lock protects it, since not all datasets
    can be read from several threads."""

    ignored = 0

    def __init__(self, name: str, title: str, dataset: Any, progress: Tick | None = None) -> None:
        self.name = name.removeprefix(PREFIX)
        self.notes: list[str] = []
        self._dataset = dataset
        self._lock = threading.Lock()
        samples = len(dataset)
        self.keys = RowKeys([title], [samples])
        self.kind = f"torchvision dataset {title}"
        first = self.read(0)
        height, width = first.shape[:2] if isinstance(first, np.ndarray) else (0, 0)
        self.sizes = np.full(samples, height * width * 3 or len(first))
        values = self._find_labels(samples, progress)
        self.labels, self.classes = self._name(values)
        digest = hashlib.sha256(repr((repr(dataset), samples, self.classes)).encode())
        digest.update(self.labels.tobytes())
        for image in (first, self.read(samples - 1)):
            digest.update(image.tobytes() if isinstance(image, np.ndarray) else image)
        self.fingerprint = digest.hexdigest()

    def _find_labels(self, samples: int, progress: Tick | None) -> np.ndarray:
        """Labels, int64 [N], -1 for none: from the dataset's own list, or read item by item."""
        for attribute in LABELS:
            found = labels_in(getattr(self._dataset, attribute, None), samples)
            if found is not None:
                return found
        none = np.full(samples, -1, np.int64)
        if samples > READ_FOR_LABELS:
            self.notes.append("no labels: the dataset keeps no list of them, and is too long to "
                              "be read for them")
            return none
        for i in range(samples):
            target = self._item(i)[1]
            found = labels_in([target], 1)
            if found is None:
                self.notes.append(f"no labels: its targets are no class numbers, but "
                                  f"{type(target).__name__}")
                return none
            none[i] = found[0]
            if progress is not None and (i % 100 == 99 or i + 1 == samples):
                progress(i + 1, samples)
        return none

    def _name(self, values: np.ndarray) -> tuple[np.ndarray, list[str]]:
        """Labels int64 [N] and class names: the dataset's own if they fit, else numbered here."""
        names = getattr(self._dataset, "classes", None) or getattr(
            self._dataset, "categories", None)
        known = values[values != -1]
        if not len(known):
            if not self.notes:
                self.notes.append("no labels: this split has none")
            return values, []
        if isinstance(names, Sequence) and not isinstance(names, str) and (
            0 <= known.min() and known.max() < len(names)
        ):
            # ImageNet's classes are tuples of synonyms.
            return values, [n if isinstance(n, str) else ", ".join(map(str, n)) for n in names]
        labels, classes, note = number_labels(values)
        self.notes += [note] if note else []
        return labels, classes

    def _item(self, i: int) -> tuple[Any, Any]:
        with self._lock:
            item = self._dataset[i]
        if not isinstance(item, tuple) or len(item) < 2:
            raise OSError("not an image with its target")
        return item[0], item[1]

    def read(self, i: int) -> bytes | np.ndarray:
        """Image i: an array if it is RGB or grey; else an encoded file (PNG or TIFF), which the
        preparation converts by its policy."""
        from PIL import Image

        try:
            image, _ = self._item(i)
        except OSError:
            raise
        except Exception as error:  # a dataset may raise anything on a damaged file
            raise OSError(f"{type(error).__name__}: {error}") from None
        if not isinstance(image, Image.Image):
            raise OSError(f"no image, but {type(image).__name__}")
        if image.mode in ("RGB", "L") and "transparency" not in image.info:
            return np.array(image)
        buffer = io.BytesIO()
        form = "TIFF" if image.mode in ("CMYK", "YCbCr", "LAB", "F", "I") else "PNG"
        image.save(buffer, form, compress_level=1) if form == "PNG" else image.save(buffer, form)
        return buffer.getvalue()

    def close(self) -> None:
        pass


def labels_in(found: Any, samples: int) -> np.ndarray | None:
    """Class numbers, int64 [N], from the value of a dataset's attribute; None if it holds anything
    else."""
    if found is None or not hasattr(found, "__len__") or len(found) != samples:
        return None
    if isinstance(found, (list, tuple)) and isinstance(found[0], (tuple, list)):
        # (file, class) pairs; iNaturalist has (class, file).
        numbers = [[v for v in row if isinstance(v, int)] for row in found]
        if not all(len(row) == 2 and len(n) == 1 for row, n in zip(found, numbers, strict=True)):
            return None
        found = [n[0] for n in numbers]
    try:
        values = np.asarray(found)
    except (ValueError, TypeError, RuntimeError):
        return None
    whole = values.ndim == 1 and np.issubdtype(values.dtype, np.integer)
    return values.astype(np.int64) if whole else None
