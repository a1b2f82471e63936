"""The degradations: nine published ones, their mixture, and whatever file is added to this package.

    operator = create_corruption("sr4x-pool", image_size=256)
    x1 = operator(x0)                       # [B,3,256,256] in [-1,1]
    x1, mask = create_corruption("inpaint-center", 256)(x0)

Importing the package imports no torch (the names alone are in `corruption.names`); its functions do.
"""

from typing import Any

from .names import TASKS

__all__ = ["CORRUPTIONS", "TASKS", "Corruption", "build_corruption", "create_corruption"]


def __getattr__(name: str) -> Any:
    # Late imports, so that `--help` can list the tasks without waiting for torch.
    if name in ("build_corruption", "create_corruption"):
        from . import build

        return getattr(build, name)
    if name == "Corruption":
        from .base import Corruption

        return Corruption
    if name == "CORRUPTIONS":
        from .registry import CORRUPTIONS, load_all

        load_all()
        return CORRUPTIONS
    raise AttributeError(f"module 'corruption' has no attribute '{name}'")
