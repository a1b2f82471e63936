"""The table of degradations: one decorator per class, one file per family.

A new degradation is one new file in this package; nothing else is edited:

    from .base import Corruption
    from .registry import corruption

    @corruption("negative")
    class Negative(Corruption):
        def degrade(self, x):
            return -x

With a parameter: the word in capitals stands for it, and the class finds its value under that name in small letters.

    @family("darker-PERCENT", "1..99", example="darker-50")
    class Darker(Corruption):
        def degrade(self, x):
            return (x + 1) * (1 - self.percent / 100) - 1

The same decorators serve in a file of one's own, see `load_file`.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
import types
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from .names import Family, OperatorFile, check_task, read_operators

if TYPE_CHECKING:
    from .base import Corruption

CORRUPTIONS: dict[str, type[Corruption]] = {}
"""Name -> class, of the modules imported so far; see `lookup`."""
FAMILIES: dict[str, tuple[Family, type[Corruption]]] = {}
"""Pattern -> (what it means, class), likewise."""
_OWN = "operators_of_"  # what the names of modules from `load_file` begin with


def corruption(name: str) -> Callable[[type[Corruption]], type[Corruption]]:
    """Class decorator that registers a `Corruption`.  Raises ValueError if a class already has the name.

    Operators from a user's file are replaced, so that the file can be loaded again.
    """

    def register(cls: type[Corruption]) -> type[Corruption]:
        _check(name, CORRUPTIONS.get(name), cls)
        cls.name = name
        CORRUPTIONS[name] = cls
        return cls

    return register


def family(pattern: str, values: str, example: str) -> Callable[[type[Corruption]], type[Corruption]]:
    """Class decorator that registers a `Corruption` with a parameter; see `Family`, and `corruption` above."""

    def register(cls: type[Corruption]) -> type[Corruption]:
        _check(pattern, FAMILIES.get(pattern, (None, None))[1], cls)
        FAMILIES[pattern] = Family(pattern, values, example), cls
        return cls

    return register


def _check(name: str, known: type | None, cls: type) -> None:
    from .base import Corruption

    if not (isinstance(cls, type) and issubclass(cls, Corruption)):
        raise ValueError(f"corruption '{name}': {cls.__name__} must be a subclass of Corruption")
    if known is not None and not known.__module__.startswith(_OWN):
        raise ValueError(f"corruption '{name}' is registered twice: by {known} and {cls}")


def lookup(name: str) -> type[Corruption]:
    """The class of the task `name`, with its parameter set.  Raises ValueError, listing the names, if there is none."""
    if name not in CORRUPTIONS:
        _import_all()
    if name in CORRUPTIONS:
        return CORRUPTIONS[name]
    for known, cls in FAMILIES.values():
        if known.text(name) is not None:
            return type(cls.__name__, (cls,), {"name": name, known.parameter.lower(): known.value(name)})
    check_task(name)  # which says what names there are
    raise AssertionError(f"{name} is declared, but its decorator registers nothing")


def _import_all() -> None:
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        importlib.import_module(f"{__package__}.{module.name}")  # runs its decorators


def load_file(file: str | PathLike | OperatorFile) -> tuple[str, ...]:
    """Run a .py file, and return the names and patterns of the operators that it registers.

    Raises ValueError, one line with the place in the file, if the file cannot be read or run.
    """
    if not isinstance(file, OperatorFile):
        file = read_operators(file)
    _import_all()  # first: their names are taken
    module = types.ModuleType(_OWN + Path(file.path).stem)
    module.__file__ = file.path
    sys.modules[module.__name__] = module  # where pickle looks for classes
    try:
        exec(compile(file.source, file.path, "exec", dont_inherit=True), module.__dict__)
    except Exception as error:
        raise ValueError(f"{place_in_file(error)}: {type(error).__name__}: {error}") from error
    patterns = [known.pattern for known in file.families]
    for cls in (*(CORRUPTIONS[name] for name in file.tasks), *(FAMILIES[pattern][1] for pattern in patterns)):
        cls.file_sha256 = file.sha256
    return (*file.tasks, *patterns)


def place_in_file(error: BaseException) -> str | None:
    """ "my_op.py, line 7": where in a file of `load_file` an error arose; "my_op.py, class Fog": in code of ours that
    works for this class; None: in neither.
    """
    place, trace = None, error.__traceback__
    while trace is not None:
        frame = trace.tb_frame
        works_for = frame.f_locals.get("self", frame.f_locals.get("cls"))
        bases = (works_for if isinstance(works_for, type) else type(works_for)).__mro__
        if frame.f_globals.get("__name__", "").startswith(_OWN):
            place = f"{frame.f_code.co_filename}, line {trace.tb_lineno}"
        elif place is None and (own := [base for base in bases if base.__module__.startswith(_OWN)]):
            place = f"{sys.modules[own[0].__module__].__file__}, class {own[0].__name__}"
        trace = trace.tb_next
    return place
