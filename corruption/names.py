"""The names of the degradations, readable without torch (`--help` lists them, options are checked against them).

The ten published names come first, in the published order. A further degradation needs no entry here: the files of
this package, and a user's own, are searched as text for their `@corruption` and `@family` decorators.
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import math
import re
from os import PathLike
from pathlib import Path
from typing import NamedTuple

PUBLISHED: tuple[str, ...] = (
    "jpeg-5",
    "jpeg-10",
    "blur-uni",
    "blur-gauss",
    "sr4x-pool",
    "sr4x-bicubic",
    "inpaint-center",
    "inpaint-freeform1020",
    "inpaint-freeform2030",
    "mixture",
)


class Family(NamedTuple):
    """Tasks by parameter: "jpeg-QF" with the values "1..100" stands for jpeg-1 to jpeg-100.

    pattern: the word in capitals is the parameter.
    values: "1..100": whole numbers; "0.3..100.0": numbers; "2|3|4|8": one of these; "path": any text.
    example: one of the names.
    """

    pattern: str
    values: str
    example: str

    @property
    def parameter(self) -> str:
        return re.search("[A-Z]+", self.pattern).group()

    def with_value(self, value: object) -> str:
        """The name of the task with this value."""
        return self.pattern.replace(self.parameter, str(value))

    def text(self, task: str) -> str | None:
        """What `task` has in the parameter's place; None where it is no name of this form."""
        before, after = self.pattern.split(self.parameter)
        fits = task.startswith(before) and task.endswith(after) and len(task) > len(before + after)
        return task[len(before) : len(task) - len(after)] if fits else None

    def value(self, task: str) -> int | float | str:
        """The parameter of a task whose name has this form.  Raises ValueError where it is not among the values."""
        text = self.text(task)
        if self.values == "path":
            return text
        listed = "|" in self.values
        known = self.values.split("|" if listed else "..")
        kind = float if "." in known[0] else int
        known = [kind(each) for each in known]
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not (value in known if listed else known[0] <= value <= known[1]):
            what = "one of" if listed else "a whole number," if kind is int else "a number,"
            raise ValueError(f"'{task}': {self.parameter} must be {what} {self.values}, such as {self.example}")
        if f"{value:g}" != text:  # a task has one name
            raise ValueError(f"'{task}': write {self.with_value(f'{value:g}')}")
        return value

    def __str__(self) -> str:
        if "|" in self.values:
            return ", ".join(map(self.with_value, self.values.split("|")))
        return self.pattern if self.values == "path" else f"{self.pattern} ({self.values})"


class OperatorFile(NamedTuple):
    """A .py file with operators: what it declares at its top level, its content, and the SHA-256 of that."""

    path: str
    tasks: tuple[str, ...]
    families: tuple[Family, ...]
    source: bytes
    sha256: str


def read_operators(path: str | PathLike) -> OperatorFile:
    """Read a .py file without running it.

    Raises ValueError, one line with the place in the file, where it cannot be read or is no Python.
    """
    try:
        source = Path(path).read_bytes()
        body = ast.parse(source, str(path)).body
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from None
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"{path}, line {getattr(error, 'lineno', None) or 1}: {error.args[0]}") from None
    tasks, families = [], []
    for call in (call for node in body if isinstance(node, ast.ClassDef) for call in node.decorator_list):
        if not isinstance(call, ast.Call):
            continue
        values = [*call.args, *(keyword.value for keyword in call.keywords)]
        kind = getattr(call.func, "id", None) or getattr(call.func, "attr", None)
        texts = [value.value for value in values if isinstance(value, ast.Constant) and isinstance(value.value, str)]
        if kind == "corruption" and len(texts) == 1:
            tasks += texts
        elif kind == "family" and len(texts) == len(Family._fields):
            families.append(Family(*texts))
            try:
                families[-1].value(texts[-1])
            except (AttributeError, TypeError, ValueError):
                raise ValueError(
                    f"{path}, line {call.lineno}: @family{tuple(texts)}: wanted: a pattern with one word in capitals, "
                    'values such as "1..9", and an example among them'
                ) from None
    return OperatorFile(str(path), tuple(tasks), tuple(families), source, hashlib.sha256(source).hexdigest())


def check_task(task: str, own: OperatorFile | None = None) -> None:
    """Raise ValueError unless `task` names a degradation, of this package or of the file `own`."""
    for name in (*own.tasks, *(family.example for family in own.families)) if own else ():
        if is_built_in(name):
            raise ValueError(f"{own.path}: '{name}' is a task of this package already; give yours another name")
    tasks = TASKS + (own.tasks if own else ())
    patterns = PATTERNS + (own.families if own else ())
    if task in tasks:
        return
    for family in patterns:
        if family.text(task) is not None:
            family.value(task)
            return
    numbers = re.findall(r"\d+(?:\.\d+)?", task)
    near = [*tasks, *(family.with_value(number) for family in patterns for number in numbers)]
    near += [name for family in patterns for name in (family.pattern, family.example)]
    meant = difflib.get_close_matches(task.lower(), near, n=1)
    hint = f"did you mean {meant[0]}? " if meant else ""
    names = ", ".join(map(str, (*tasks, *patterns)))
    raise ValueError(f"unknown task '{task}': {hint}Choose one of: {names}; or one of your own, by --corruption-file")


def is_built_in(task: str) -> bool:
    """Whether `task` names a degradation of this package."""
    try:
        check_task(task)
    except ValueError:
        return False
    return True


_files = [read_operators(file) for file in sorted(Path(__file__).parent.glob("*.py"))]
_found = {name for file in _files for name in file.tasks}
TASKS: tuple[str, ...] = PUBLISHED + tuple(sorted(_found.difference(PUBLISHED)))
"""The names without a parameter."""
PATTERNS: tuple[Family, ...] = tuple(sorted(family for file in _files for family in file.families))
"""The tasks by parameter; `str` of one is for people: "jpeg-QF (1..100)", "sr2x-pool, sr3x-pool, .."."""
