"""What the pickle inside a torch file may say: tensors, parameters and their shapes, within stored numbers.

Format: the pickles that `torch.save` writes (`torch._utils._rebuild_*` and persistent ids of storages).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from i2sb.errors import one_line
from i2sb.runtime import pickle_machine
from i2sb.runtime.pickle_machine import Global, Made, Policy, Refused

_ITEM_BYTES = {
    "FloatStorage": 4,
    "DoubleStorage": 8,
    "HalfStorage": 2,
    "BFloat16Storage": 2,
    "LongStorage": 8,
    "IntStorage": 4,
    "ShortStorage": 2,
    "CharStorage": 1,
    "ByteStorage": 1,
    "BoolStorage": 1,
    "ComplexFloatStorage": 8,
    "ComplexDoubleStorage": 16,
}
_DTYPES = (
    *("float16", "bfloat16", "float32", "float64", "complex64", "complex128"),
    *("uint8", "int8", "int16", "int32", "int64", "bool"),
)
_GLOBALS = frozenset(
    [f"{module} {name}" for module in ("torch", "torch.cuda") for name in _ITEM_BYTES]
    + [f"torch {name}" for name in _DTYPES]
    + [f"torch._utils {name}" for name in ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter")]
    + ["collections OrderedDict", "collections Counter", "torch Size", "torch device"]
    + ["builtins set", "__builtin__ set"]
)


@dataclass(frozen=True)
class Storage:
    """A run of stored numbers."""

    kind: str
    numel: int

    @property
    def nbytes(self) -> int:
        return self.numel * _ITEM_BYTES[self.kind]


class TensorPolicy(Policy):
    """The policy for checkpoints. Set `stored_bytes` (zip format) or `file_bytes` (the format before)."""

    def __init__(self, allowed: frozenset[str]) -> None:
        self.allowed = allowed
        self.globals = _GLOBALS | allowed
        self.stored_bytes: Callable[[str], int | None] | None = None
        self.file_bytes = 0
        self.seen: dict[str, Storage] = {}

    def persistent(self, description: Any) -> Storage:
        """("storage", class, key, location, number of elements[, None]) -> Storage."""
        match description:
            case ("storage", Global(name=kind), str(key), str(), int(numel), *rest) if kind in _ITEM_BYTES:
                storage = Storage(kind, numel)
            case _:
                raise Refused("it refers to stored numbers in a way that torch does not")
        if numel < 0 or any(item is not None for item in rest) or len(rest) > 1:
            raise Refused("it refers to stored numbers in a way that torch does not")
        if self.seen.setdefault(key, storage) != storage:
            raise Refused(f"it describes the stored numbers {one_line(key)} in two ways")
        self._check_bytes(key, storage)
        return storage

    def _check_bytes(self, key: str, storage: Storage) -> None:
        if self.stored_bytes is None:
            fits = storage.nbytes <= self.file_bytes
        else:
            fits = storage.nbytes == self.stored_bytes(key)
        if not fits:
            name = one_line(key)
            raise Refused(f"it declares {storage.nbytes} bytes of numbers ({name}) that are not there")

    def make(self, kind: Global, args: tuple) -> Made:
        name = f"{kind.module} {kind.name}"
        is_proper = _PROPER_ARGS.get(kind.name)
        if name not in self.allowed and not (is_proper and is_proper(args)):
            raise Refused(f"it calls {kind} with arguments that torch does not write")
        return Made(kind, args)

    def build(self, made: Made, state: Any) -> None:
        super().build(made, state)
        # a module's state dict carries its version numbers as an attribute
        is_state_dict = made.kind.name == "OrderedDict" and set(state) <= {"_metadata"}
        if not is_state_dict and f"{made.kind.module} {made.kind.name}" not in self.allowed:
            raise Refused(f"it sets attributes of a {made.kind}")


class ObjectPolicy(Policy):
    """The policy for a file that holds one object: its class and what else may be named in it."""

    def __init__(self, names: Iterable[str]) -> None:
        self.globals = frozenset(" ".join(name.rsplit(".", 1)) for name in names)


def _is_tensor_args(args: tuple) -> bool:
    match args:
        case (Storage() as storage, int(offset), tuple(size), tuple(stride), *rest):
            return _lies_within(storage, offset, size, stride) and _is_rest(rest)
    return False


def _is_rest(rest: list) -> bool:
    """requires_grad, backward hooks (none), metadata (none)."""
    match rest:
        case [] | [bool()]:
            return True
        case [bool(), hooks, *metadata]:
            return _is_empty(hooks) and len(metadata) <= 1 and all(map(_is_empty, metadata))
    return False


def _is_empty(value: Any) -> bool:
    return value is None or value == {} or (isinstance(value, Made) and not (value.items or value.state))


def _lies_within(storage: Storage, offset: int, size: tuple, stride: tuple) -> bool:
    """Whether all numbers of a tensor are stored ones, each at a place of its own.

    An expanded tensor (stride 0) has none of its own: four bytes would make terabytes in whoever copies it.
    """
    numbers = (offset, *size, *stride)
    if len(size) != len(stride) or not all(isinstance(n, int) and n >= 0 for n in numbers):
        return False
    if 0 in size:
        return offset <= storage.numel
    reach = 0
    for step, count in sorted(zip(stride, size)):
        if count > 1 and step <= reach:
            return False
        reach += (count - 1) * step
    return offset + reach < storage.numel


def _is_parameter_args(args: tuple) -> bool:
    match args:
        case (Made(kind=Global(name="_rebuild_tensor_v2" | "_rebuild_tensor")), bool(), hooks):
            return _is_empty(hooks)
    return False


def _is_keys(args: tuple) -> bool:
    match args:
        case ([*items],):
            return all(pickle_machine.key(item) is item for item in items)
    return False


def _is_size(args: tuple) -> bool:
    return len(args) == 1 and isinstance(args[0], tuple) and all(isinstance(n, int) for n in args[0])


def _is_device(args: tuple) -> bool:
    match args:
        case (str(),) | (str(), int()):
            return True
    return False


_PROPER_ARGS: dict[str, Callable[[tuple], bool]] = {
    "_rebuild_tensor": _is_tensor_args,
    "_rebuild_tensor_v2": _is_tensor_args,
    "_rebuild_parameter": _is_parameter_args,
    "OrderedDict": lambda args: args == (),
    "Counter": lambda args: len(args) == 1 and isinstance(args[0], dict),
    "set": _is_keys,
    "Size": _is_size,
    "device": _is_device,
}
