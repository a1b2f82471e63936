"""Judging restored images: FID, ResNet-50 accuracy, PSNR and SSIM, and the table that shows them.

Importing this package loads neither torch nor a network: names are looked up in their files at first use.
"""

from importlib import import_module

_HOME = {
    "InceptionFeatures": "inception",
    "PUBLISHED": "published",
    "RunningStatistics": "frechet",
    "Score": "table",
    "Statistics": "frechet",
    "WeightsUnavailable": "weights",
    "build_inception": "inception",
    "build_resnet50": "resnet",
    "feature_statistics": "fid",
    "frechet_distance": "frechet",
    "psnr": "image_quality",
    "ssim": "image_quality",
    "top1": "resnet",
}

__all__ = sorted(_HOME)


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
