"""Stand-ins for the objects that a checkpoint's pickle names, so that no foreign code is run."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any


class Scalar:
    """Stand-in for numpy's scalars and types, whose state is a tuple."""

    def __init__(self, *args: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class Settings:
    """Placeholder for an object of a library that we don't import."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        return OrderedDict()  # torch's reader accepts items and state for it


@dataclass(frozen=True, eq=False)
class Name:
    """A class or function that a pickle names."""

    name: str
    stand_in: type | None = None
    """The class that torch's reader uses in its place; None for names that torch knows."""


@dataclass(frozen=True)
class Storage:
    """The bytes of one or several tensors in the file."""

    key: str | int
    item_bytes: int
    """Bytes per value."""
    items: int
    """Number of values."""


@dataclass(frozen=True, eq=False)
class Tensor:
    """Stand-in for a tensor: only its size is kept."""

    bytes: int
    """Bytes of all its values, repeated ones too."""


class Emptied(dict[Any, Any]):
    """An object of another library; its attributes are dropped (see fastmoco.weights.read)."""


@dataclass(frozen=True, eq=False)
class Inert:
    """A value whose content does not matter: a device, a numpy scalar."""
