"""Pickles of plain values: read without running them, written as the original writes its options.

The reader is Python's own, with a list of names in place of the power to import.  A name on the list gives an inert
stand-in, so that there is nothing to execute.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import pickle
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from typing import Any, BinaryIO

from i2sb.errors import one_line
from i2sb.runtime.files import atomic_write


class Refused(Exception):
    """The reason of `FILE: refused: REASON`."""


class _Reader(pickle.Unpickler):
    names: Mapping[tuple[str, str], Any]
    stored: Callable[[Any], Any] | None

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.names:
            raise Refused(f"it asks for {one_line(module)}.{one_line(name)}, which such a file may not use")
        return self.names[module, name]

    def persistent_load(self, pid: Any) -> Any:
        if self.stored is None:
            raise Refused("it refers to things outside itself")
        return self.stored(pid)


def load(file: BinaryIO, names: Mapping[tuple[str, str], Any], stored: Callable[[Any], Any] | None = None) -> Any:
    """The value of a pickle that uses only the (module, name) in `names`, which gives their stand-ins, else Refused.

    stored: what it refers to outside itself, by its description; None: Refused as well.
    """
    reader = _Reader(file)
    reader.names, reader.stored = names, stored
    return reader.load()


def stand_ins(module: str, name: str) -> dict[tuple[str, str], Any]:
    """The names that a pickle of one object of class `module`.`name` uses, whatever Python 3 on any system wrote it.

    They are the class itself, paths, and how older protocols write sets and objects.  All are made afresh for each
    file, since a pickle can set attributes of what it is given.
    """
    kind = type(name, (), {})
    found = {(module, name): kind, ("collections", "OrderedDict"): lambda: {}}
    for place in ("pathlib", "pathlib._local"):  # the second is Python 3.13's
        for path in ("PosixPath", "PurePosixPath", "Path", "PurePath", "WindowsPath", "PureWindowsPath"):
            found[place, path] = lambda *parts: PurePosixPath(*parts)
    for place in ("builtins", "__builtin__"):  # the second is written by protocols 0 to 2
        found |= {(place, "set"): set, (place, "frozenset"): frozenset, (place, "object"): object}
    for place in ("copyreg", "copy_reg"):
        found[place, "_reconstructor"] = lambda cls, base, state: kind()
    return found


def plain(value: Any) -> Any:
    """A copy of plain values, of an argparse.Namespace too (or its stand-in); Refused where it holds anything else."""
    if type(value) in (type(None), bool, int, float, str, bytes):
        return value
    if type(value) in (list, tuple, set, frozenset):
        return type(value)(map(plain, value))
    if type(value) is dict:
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, PurePosixPath):
        return PurePosixPath(str(value))
    if type(value).__name__ == "Namespace":
        for name in vars(value):
            _check_option(name)
        return argparse.Namespace(**plain(vars(value)))
    raise Refused(f"it holds a {type(value).__name__}, which is not a plain value")


def _check_option(name: Any) -> None:
    if not (isinstance(name, str) and name.isidentifier()) or name.startswith("_"):
        raise Refused(f"{one_line(ascii(name))} is not a name of an option")


def dump_options(options: argparse.Namespace, path: str | os.PathLike) -> None:
    """Write options.pkl as the original does: an argparse.Namespace of plain values and pathlib paths.

    Attributes that are no plain values (or have no public name) are left out.  The file names only argparse.Namespace
    and pathlib.PosixPath, whatever Python writes it, and takes its place atomically.
    """
    kept = {}
    for name, value in vars(options).items():
        with contextlib.suppress(Refused, RecursionError):
            _check_option(name)
            kept[name] = plain(value)
    buffer = io.BytesIO()
    _Writer(buffer, protocol=4).dump(argparse.Namespace(**kept))
    with atomic_write(path) as file:
        file.write(buffer.getvalue())


class _Writer(pickle._Pickler):
    """Python's pickler, but all paths are `pathlib.PosixPath` (3.13 would say `pathlib._local.PosixPath`)."""

    dispatch = pickle._Pickler.dispatch.copy()

    def _save_path(self, path: PurePosixPath) -> None:
        self.save("pathlib")
        self.save("PosixPath")
        self.write(pickle.STACK_GLOBAL)
        self.save(path.parts)
        self.write(pickle.REDUCE)

    dispatch[PurePosixPath] = _save_path
