"""The degradations: nine published ones, their mixture, tasks by parameter, and whatever file is added to this package.

    operator = create_corruption("sr4x-pool", image_size=256)
    x1 = operator(x0)                       # [B,C,256,256] in [-1,1]
    x1, mask = create_corruption("inpaint-center", (240, 320))(x0)

Importing the package imports no torch (the names alone are in `corruption.names`); its functions do.
"""

from importlib import import_module
from typing import Any

from .names import TASKS

__all__ = ["TASKS", "Corruption", "build_corruption", "corruption", "create_corruption", "family"]

# Imported late, so that `--help` can list the tasks without waiting for torch.
_MODULES = {"build_corruption": "build", "create_corruption": "build", "Corruption": "base"}
_MODULES |= {"corruption": "registry", "family": "registry"}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'corruption' has no attribute '{name}'")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)
