"""The scores that training shows at its evaluations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from evaluation.image_quality import psnr
from evaluation.resnet import build_resnet50, top1, why_no_accuracy
from evaluation.weights import WeightsUnavailable

Judge = Callable[[Tensor, Tensor, Tensor], Tensor]  # (images, clean, labels) -> scores [B]


def training_judges(classes: Sequence[str], device: str, log: Any) -> dict[str, Judge]:
    """PSNR [dB], and ResNet-50's accuracy (0 to 1) on ImageNet's classes where its weights are to be had.

    classes: the data set's; device: where ResNet-50 works.
    """
    judges: dict[str, Judge] = {"psnr": lambda images, clean, labels: psnr(images, clean)}
    if reason := why_no_accuracy(classes):
        log.info(f"[Eval] no accuracy: it {reason}")
        return judges
    try:
        network = build_resnet50().to(device)
    except WeightsUnavailable as error:
        log.warning(f"[Eval] no accuracy: {error}")
        return judges
    judges["accuracy"] = lambda images, clean, labels: top1(network(images.to(device)), labels).float()
    return judges
