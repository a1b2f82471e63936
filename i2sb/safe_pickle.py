"""options.pkl and data/*_fixedsigma.pkl: read without running them, written so that the original reads them.

Reading goes through `i2sb.runtime.pickle_machine`, which imports and calls nothing.
"""

from __future__ import annotations

import argparse
import io
import os
import pickle
import re
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import Any

from i2sb.errors import UserError, one_line
from i2sb.runtime import pickle_machine
from i2sb.runtime.files import atomic_write
from i2sb.runtime.pickle_machine import Global, Made, Policy, Refused

MAX_BYTES = 256 * 1024  # an options.pkl has about 700
MAX_INT = 2**63

_PATHS = {
    "PosixPath": PurePosixPath,
    "PurePosixPath": PurePosixPath,
    "Path": PurePosixPath,
    "PurePath": PurePosixPath,
    "WindowsPath": PureWindowsPath,
    "PureWindowsPath": PureWindowsPath,
}
_NAMESPACE = Global("argparse", "Namespace")
_BUILTINS = ("builtins", "__builtin__")  # the second is what protocols 0 to 2 write
_SETS = {"set": set, "frozenset": frozenset}
_ATTRIBUTE = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,99}")
_SECRET = re.compile(r"(api_?key|token|password|secret)$", re.IGNORECASE)


def load_namespace(path: str | os.PathLike) -> argparse.Namespace:
    """The options in an options.pkl: plain values, paths as pure paths of the system that wrote them.

    Accepts what any Python 3 wrote, by any protocol, on any system.

    Raises:
        UserError: no such file, or a file that holds more or other than options (`FILE: refused: REASON`).
    """
    try:
        value = pickle_machine.load(_read(path), _OptionsPolicy())
        if not (isinstance(value, Made) and value.kind == _NAMESPACE):
            raise Refused(f"it holds {_a(value)}, not an argparse.Namespace of options")
        return _plain(value)
    except Refused as error:
        raise _refusal(path, error) from None


def load_plain_dict(path: str | os.PathLike) -> dict[str, Any]:
    """The dictionary in a pickle of plain values, such as data/256x256_diffusion_uncond_fixedsigma.pkl.

    Raises:
        UserError: no such file, or a file that holds more or other than that (`FILE: refused: REASON`).
    """
    try:
        value = pickle_machine.load(_read(path))
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            raise Refused(f"it holds {_a(value)}, not a dictionary of named values")
        return _plain(value)
    except Refused as error:
        raise _refusal(path, error) from None


def is_secret(name: str) -> bool:
    """Whether an option of this name must not be written to any file."""
    return _SECRET.search(name) is not None


def dump_namespace(options: argparse.Namespace, path: str | os.PathLike) -> list[str]:
    """Write options.pkl as the original does: an argparse.Namespace of plain values and pathlib paths.

    Secrets are written as None. Attributes that are not plain values (or have no public name) are left out;
    their names are returned. The file names only argparse.Namespace and pathlib.PosixPath, whatever Python
    writes it, and takes its place atomically.

    Raises:
        UserError: the file cannot be written.
    """
    kept, left_out = {}, []
    for name, value in vars(options).items():
        try:
            _check_attribute(name)
            kept[name] = None if is_secret(name) else _plain(value)
        except (Refused, RecursionError):
            left_out.append(name)
    buffer = io.BytesIO()
    _Pickler(buffer, protocol=4).dump(argparse.Namespace(**kept))
    with atomic_write(path) as file:
        file.write(buffer.getvalue())
    return left_out


class _Pickler(pickle._Pickler):
    """Python's pickler, but all paths are `pathlib.PosixPath` (3.13 would say `pathlib._local.PosixPath`).

    A path of Windows is written in its forward-slash form, since no other system could open a WindowsPath.
    """

    dispatch = pickle._Pickler.dispatch.copy()

    def _save_path(self, path: PurePath) -> None:
        self.save("pathlib")
        self.save("PosixPath")
        self.write(pickle.STACK_GLOBAL)
        self.save(PurePosixPath(path.as_posix()).parts)
        self.write(pickle.REDUCE)

    dispatch[PurePosixPath] = dispatch[PureWindowsPath] = _save_path


class _OptionsPolicy(Policy):
    globals = frozenset(
        [f"{module} {name}" for module in ("pathlib", "pathlib._local") for name in _PATHS]
        + [f"{module} {name}" for module in _BUILTINS for name in ("object", "set", "frozenset")]
        + ["copyreg _reconstructor", "copy_reg _reconstructor"]
        + ["argparse Namespace", "collections OrderedDict"]
    )

    def make(self, kind: Global, args: tuple) -> Any:
        if kind == _NAMESPACE and args == ():
            return Made(kind)
        if kind.name in _PATHS and all(isinstance(part, str) for part in args):
            return _PATHS[kind.name](*map(_text, args))
        if kind.name == "OrderedDict" and args == ():
            return {}
        if kind.name in _SETS and len(args) == 1 and isinstance(args[0], list):
            return _SETS[kind.name](map(pickle_machine.key, args[0]))
        # how protocols 0 and 1 make an object of a class without a constructor of its own
        if kind.name == "_reconstructor" and len(args) == 3 and args[0] == _NAMESPACE and args[2] is None:
            return Made(_NAMESPACE)
        raise Refused(f"it calls {kind} with arguments that no options file has")

    def build(self, made: Made, state: Any) -> None:
        super().build(made, state)
        for name in state:
            _check_attribute(name)


def _check_attribute(name: Any) -> None:
    if not (isinstance(name, str) and _ATTRIBUTE.fullmatch(name)):
        raise Refused(f"{one_line(repr(name))} is no name of an option")


def _plain(value: Any) -> Any:
    """A copy of plain values; anything else is refused."""
    if value is None or type(value) in (bool, float, bytes):
        return value
    if type(value) is str:
        return _text(value)
    if type(value) is int:
        if abs(value) >= MAX_INT:
            raise Refused("it holds an integer of more than 64 bits")
        return value
    if type(value) in (list, tuple, set, frozenset):
        return type(value)(map(_plain, value))
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, PureWindowsPath):
        return PureWindowsPath(value)
    if isinstance(value, PurePath):
        return PurePosixPath(value)
    if isinstance(value, Made) and value.kind == _NAMESPACE and not value.items:
        options = argparse.Namespace()
        for state in value.state:
            vars(options).update(_plain(state))
        return options
    raise Refused(f"it holds {_a(value)}, which is no plain value")


def _text(text: str) -> str:
    """Text that can be printed and used as a path: what is no Unicode becomes "?"."""
    if "\0" in text:
        raise Refused("it holds text with a zero byte")
    return text.encode("utf-8", "replace").decode()


def _a(value: Any) -> str:
    if isinstance(value, (Made, Global)):
        return str(getattr(value, "kind", value))
    return f"a value of type {type(value).__name__}"


def _read(path: str | os.PathLike) -> bytes:
    path = Path(path)
    try:
        if not path.is_file():
            raise UserError(f"{one_line(path, 400)}: there is no such file")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UserError(f"{one_line(path, 400)}: cannot be read: {error.strerror}") from None
    if not data:
        raise Refused("the file is empty")
    if len(data) > MAX_BYTES:
        raise Refused(f"the file is larger than {MAX_BYTES} bytes, which no options file is")
    return data


def _refusal(path: str | os.PathLike, reason: Refused) -> UserError:
    return UserError(f"{one_line(path, 400)}: refused: {reason}")
