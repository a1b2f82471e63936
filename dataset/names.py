"""Images by the part of their path that means something on every machine: CLASS/FILE, and more where needed."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable

_WNID = re.compile(r"n\d{8}")  # a class of ImageNet


def is_imagenet(classes: Iterable[str]) -> bool:
    """Whether any class has a name like ImageNet's: published lists, masks and statistics are then meant."""
    return any(_WNID.fullmatch(name) for name in classes)


class Ambiguous(LookupError):
    """Several images end in the same path; the text names two of them."""


def class_and_file(path: str) -> str:
    """'CLASS/FILE' of an image's path, also of one written on Windows.  A path without a folder gives '/FILE'."""
    folder, _, name = path.replace("\\", "/").rpartition("/")
    return f"{folder.rpartition('/')[2]}/{name}"


class NameIndex:
    """Finds the one path that shares its last parts with another path; at least CLASS/FILE must be the same."""

    def __init__(self, paths: Iterable[str]) -> None:
        self._paths: dict[str, str | list[str]] = {}  # lists only where needed: there may be millions
        for path in paths:
            name = class_and_file(path)
            before = self._paths.setdefault(name, path)
            if before is not path:
                self._paths[name] = [*([before] if isinstance(before, str) else before), path]

    def __contains__(self, path: str) -> bool:
        return class_and_file(path) in self._paths

    def find(self, path: str) -> str | None:
        """The path that has most of its last parts in common with `path`, if any.  Raises Ambiguous if several have."""
        found = self._paths.get(class_and_file(path))
        if found is None or isinstance(found, str):
            return found
        *_, second, best = sorted(found, key=lambda other: _common_parts(path, other))
        if _common_parts(path, best) == _common_parts(path, second):
            raise Ambiguous(f"{path} may be {second} or {best}")
        return best


def _common_parts(one: str, other: str) -> int:
    pairs = zip(*(reversed(path.replace("\\", "/").split("/")) for path in (one, other)))
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
