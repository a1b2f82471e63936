"""I2SB, the Image-to-Image Schrodinger Bridge (arXiv 2302.05872).  Importing this loads nothing heavy."""

import importlib

_HOMES = {
    "Bridge": "i2sb.bridge",
    "Runner": "i2sb.runner",
    "download": "i2sb.runtime.download",
    "download_ckpt": "i2sb.fetch",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str):
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'i2sb' has no attribute {name!r}")
