"""The table of degradations: one decorator per class, one file per family.

A new degradation is one new file in this package; nothing else is edited:

    from .base import Corruption
    from .registry import corruption

    @corruption("negative")
    class Negative(Corruption):
        def degrade(self, x):
            return -x
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from .names import TASKS

if TYPE_CHECKING:
    from .base import Corruption

CORRUPTIONS: dict[str, type[Corruption]] = {}
"""Name -> class, of the modules imported so far; see `lookup`."""


def corruption(name: str) -> Callable[[type[Corruption]], type[Corruption]]:
    """Class decorator that registers a `Corruption`.  Raises ValueError if a class already has the name."""

    def register(cls: type[Corruption]) -> type[Corruption]:
        if name in CORRUPTIONS:
            raise ValueError(f"corruption '{name}' is registered twice: by {CORRUPTIONS[name]} and {cls}")
        cls.name = name
        CORRUPTIONS[name] = cls
        return cls

    return register


def lookup(name: str) -> type[Corruption]:
    """The class registered as `name`.  Raises ValueError, listing the valid names, if there is none."""
    if name not in CORRUPTIONS:
        for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
            importlib.import_module(f"{__package__}.{module.name}")  # runs its decorators
    if name not in CORRUPTIONS:
        raise ValueError(f"unknown corruption '{name}'; choose one of: {', '.join(TASKS)}")
    return CORRUPTIONS[name]
