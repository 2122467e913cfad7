"""Checks the pickles that torch.save writes, before torch reads them.

torch's weights_only reader runs no foreign code. But it hashes any key, allocates any size that the
file claims, and accepts tensors larger than their storage. This reader knows the same opcodes and
refuses all of that. It collects the storages, and the stand-ins that torch needs for the names of
other libraries.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch

from data_tools.safe_reading.bounded_pickle import BoundedPickle, PickleRefused
from fastmoco.weights.stand_ins import Emptied, Inert, Name, Scalar, Settings, Storage, Tensor

# Packages whose objects (settings, counters) checkpoints hold beside the weights.
SETTINGS_OF = {
    "argparse", "classy_vision", "lightly", "lightning", "lightning_fabric", "mmcv", "mmengine",
    "mmpretrain", "mmselfsup", "numpy", "omegaconf", "pathlib", "pytorch_lightning", "solo",
    "typing", "vissl", "yacs",
}
PLAIN = {"builtins." + name for name in ("dict", "list", "tuple", "int", "float", "str", "bool",
                                         "object", "bytes", "slice")}
PLAIN |= {"torch.torch_version.TorchVersion"}
PYTHON_2 = {"long": "int", "unicode": "str"}  # protocol 2 still writes these names
NAMES = 200  # most names of other packages in one file

ITEM_BYTES = {
    f"torch.{name}Storage": size for name, size in {
        "Double": 8, "Float": 4, "Half": 2, "BFloat16": 2, "Long": 8, "Int": 4, "Short": 2,
        "Char": 1, "Byte": 1, "Bool": 1, "ComplexDouble": 16, "ComplexFloat": 8,
    }.items()
} | {"torch.storage.UntypedStorage": 1}
TENSORS = {
    "torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_tensor_v3", "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_parameter_with_state", "torch._tensor._rebuild_from_type_v2",
}
CONTAINERS = {
    "collections.OrderedDict", "collections.Counter", "builtins.set", "builtins.bytearray",
    "builtins.complex", "torch.Size", "torch.device", "_codecs.encode",
}
TYPES = {"torch.Tensor", "torch.nn.parameter.Parameter"}
# The opcodes that torch's reader knows.
OPCODES = frozenset(b"\x80.cb\x81Raesu(t\x85\x86\x87N\x88\x89)]}\x8fJKMGXUQhjqr\x8a")
DIMENSIONS = 25  # most dimensions of a tensor
# Tensors may share storages (tied weights), but together they may be at most MANY times as large as
# the storages, plus FREE_BYTES.
MANY = 8
FREE_BYTES = 64 << 20


class WeightsPickle(BoundedPickle):
    """One pickle of torch.save, or the five of its old layout.

    `storages` holds every storage by its key, `stand_ins` the classes that torch's reader needs for
    the names of other libraries.
    """

    opcodes = OPCODES
    encoding = "utf-8"

    def __init__(self, data: bytes, most: int) -> None:
        """most: bytes that all storages may have together, the size of the file."""
        super().__init__(data)
        self.storages: dict[str | int, Storage] = {}
        self._names: dict[str, Name] = {}
        self._left = most

    @property
    def stand_ins(self) -> dict[str, type]:
        return {n.name: n.stand_in for n in self._names.values() if n.stand_in is not None}

    def check_tensors(self) -> None:
        """Raise PickleRefused if the last value's tensors are far larger than their storages: with
        strides of 0, a tensor of any size fits into a single number."""
        stored = sum(s.items * s.item_bytes for s in self.storages.values())
        if self.extent.bytes > MANY * stored + FREE_BYTES:
            raise PickleRefused("its tensors are far larger than what is stored of them")

    def find(self, module: str, name: str) -> Name:
        if module == "__builtin__":
            module, name = "builtins", PYTHON_2.get(name, name)
        full = f"{module}.{name}"
        if full not in self._names:
            self._names[full] = Name(full, self._stand_in(full))
        return self._names[full]

    def _stand_in(self, name: str) -> type | None:
        """The stand-in for a name; None if torch's reader knows the name. Raises PickleRefused for
        a name outside the known packages."""
        package, _, last = name.partition(".")
        if name in TENSORS | CONTAINERS | TYPES or name in ITEM_BYTES:
            return None
        if package == "torch" and isinstance(vars(torch).get(last), torch.dtype):
            return None
        if package not in SETTINGS_OF and name not in PLAIN or len(name) > 200:
            raise PickleRefused(
                f"names {name[:200]}, which unpickling would run: nothing was run; use a file that "
                "holds only tensors (.safetensors, or a bare state dict)"
            )
        if len(self.stand_ins) == NAMES:
            raise PickleRefused(f"names more than {NAMES} classes of other libraries")
        return Scalar if package == "numpy" else Settings

    def is_identity(self, value: Any) -> bool:
        return isinstance(value, Name)  # Lightning keys its callbacks by their classes

    def array_bytes(self, value: Any) -> int:
        return value.bytes if isinstance(value, Tensor) else 0

    def persistent(self, key: Any) -> Storage:
        """Read a reference to a storage: ("storage", class, key, device, items), and in the old
        layout also a view of it."""
        if type(key) is not tuple or len(key) not in (5, 6) or key[0] != "storage":
            raise PickleRefused("its pickle refers to something that is no storage")
        kind, name, device, items = key[1:5]
        if not isinstance(kind, Name) or kind.name not in ITEM_BYTES:
            raise PickleRefused("holds numbers of a kind that weights do not have")
        if type(name) not in (str, int) or type(device) not in (str, bytes) or not _sizes([items]):
            raise PickleRefused("its pickle is damaged")
        self.key(name)
        storage = Storage(name, ITEM_BYTES[kind.name], items)
        if name not in self.storages:
            self._left -= items * storage.item_bytes
            if self._left < 0:
                raise PickleRefused("not a checkpoint that can be read, or cut short: it claims "
                                    "more numbers than the file has bytes for")
        if self.storages.setdefault(name, storage) != storage:
            raise PickleRefused("its pickle has one storage in two sizes")
        view = key[5] if len(key) == 6 else None
        if view is None:
            return storage
        _, offset, count = view
        if not _sizes([offset, count]) or offset + count > items:
            raise PickleRefused("holds a tensor that is larger than its storage")
        return Storage(name, storage.item_bytes, count)

    def call(self, function: Any, args: tuple[Any, ...]) -> Any:
        name = function.name if isinstance(function, Name) else ""
        if name in TENSORS:
            return self._tensor(name, args)
        if name in CONTAINERS:
            return self._container(name, args)
        return self.create(function, args)

    def create(self, kind: Any, args: tuple[Any, ...]) -> Any:
        stand_in = kind.stand_in if isinstance(kind, Name) else None
        if stand_in is None:
            raise PickleRefused("its pickle calls something that weights do not need")
        return Inert() if stand_in is Scalar else Emptied()

    def build(self, value: Any, state: Any) -> None:
        if isinstance(value, Inert) or isinstance(value, Emptied) and type(state) is dict:
            return
        if type(value) is dict and type(state) is dict:
            if not any(hasattr(OrderedDict, name) for name in state):
                return
        raise PickleRefused("its pickle sets the state of something that has none")

    def _container(self, name: str, args: tuple[Any, ...]) -> Any:
        """Build a collection, a set, bytes or a size; refuse arguments that torch.save never
        writes."""
        one: Any = args[0] if len(args) == 1 else None
        if type(one) in (dict, list, tuple):
            self.spend(values=len(one))
        if name == "collections.OrderedDict" and type(one) is list:
            return {self.key(k): v for k, v in one}
        if name in ("collections.OrderedDict", "collections.Counter"):
            if not args or type(one) is dict:
                return dict(one or {})
        elif name == "builtins.set":
            if not args or type(one) is list:
                return set(map(self.key, one or []))
        elif name == "torch.Size":
            if type(one) in (tuple, list) and _sizes(one):
                return tuple(one)
        elif name == "torch.device":
            if len(args) in (1, 2) and type(args[0]) is str and len(args[0]) < 40:
                return Inert()
        elif name == "builtins.complex":
            if len(args) == 2 and all(type(a) is float for a in args):
                return complex(*args)
        elif len(args) == 2 and type(args[0]) is str and args[1] in ("latin1", "latin-1"):
            self.spend(characters=len(args[0]))
            return args[0].encode("latin1")  # protocol 2 writes bytes and bytearray so
        elif name == "builtins.bytearray" and (not args or type(one) is bytes):
            self.spend(characters=len(one or b""))
            return b""
        raise PickleRefused(f"its pickle calls {name} in a way that torch.save does not write")

    def _tensor(self, name: str, args: tuple[Any, ...]) -> Tensor:
        """Check the call of one of torch's functions that rebuild tensors (torch/_utils.py)."""
        kind = name.rpartition(".")[2]
        marks: Any = ()
        if kind == "_rebuild_from_type_v2":
            function, subclass, args, state = args
            if not isinstance(subclass, Name) or subclass.name not in TYPES:
                raise PickleRefused("holds a tensor of a class that is not read")
            if not isinstance(function, Name) or function.name == name:
                raise PickleRefused("its pickle is damaged")
            _check_attributes(state)
            tensor = self.call(function, args)
        elif kind.startswith("_rebuild_parameter"):
            tensor, _, *marks, state = args if kind.endswith("state") else (*args, None)
            _check_attributes(state)
        elif kind == "_rebuild_tensor_v3":  # its storage is untyped, in bytes
            storage, *place, _, hooks, dtype, metadata = (*args, None)[:8]
            tensor = _strided(_items_of(storage, dtype), *place)
            marks = hooks, metadata
        else:
            tensor = _strided(*args[:4])
            marks = args[5:]
        if any(marks):
            raise PickleRefused("holds a tensor with hooks or marks, which is not read")
        if not isinstance(tensor, Tensor):
            raise PickleRefused("its pickle is damaged")
        return tensor


def _sizes(values: Any) -> bool:
    """True if these values are integers that can be sizes or offsets."""
    return all(type(v) is int and 0 <= v < 1 << 62 for v in values)


def _items_of(storage: Storage, dtype: Name) -> Storage:
    """A storage, counted in numbers of another dtype."""
    size = vars(torch)[dtype.name.removeprefix("torch.")].itemsize
    return Storage(storage.key, size, storage.items * storage.item_bytes // size)


def _strided(storage: Any, offset: Any, size: Any, stride: Any) -> Tensor:
    """A tensor that fits into its storage; else PickleRefused. torch would enlarge the storage to
    the size that the tensor claims."""
    if not isinstance(storage, Storage) or type(size) is not tuple or type(stride) is not tuple:
        raise PickleRefused("its pickle is damaged")
    if len(size) != len(stride) or len(size) > DIMENSIONS or not _sizes([offset, *size, *stride]):
        raise PickleRefused("holds a tensor with an invalid shape")
    count, last = 1, offset  # numbers, and the place of the last one
    for n, step in zip(size, stride, strict=True):
        count *= n
        last += (n - 1) * step
    if count and last >= storage.items or offset > storage.items:
        raise PickleRefused("holds a tensor that is larger than its storage")
    return Tensor(count * storage.item_bytes)


def _check_attributes(state: Any = None) -> None:
    """Refuse the state of a tensor unless it is a dict of names that torch.Tensor does not have."""
    if state is None or type(state) is dict and not any(hasattr(torch.Tensor, k) for k in state):
        return
    raise PickleRefused("holds a tensor with attributes that are not read")
