"""Judging restored images: FID, KID, accuracy, PSNR and others (metrics.py), and the pages that show them.

Importing this package loads neither torch nor a network.
"""


def __getattr__(name: str):
    """`evaluation.build_resnet50`, the published name."""
    if name != "build_resnet50":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from evaluation.resnet import build_resnet50

    return build_resnet50
