"""Which scores can be given here: the judges of images, and the reasons why others are missing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from evaluation.image_quality import psnr, ssim
from evaluation.inception import build_inception
from evaluation.lpips import build_lpips
from evaluation.resnet import build_resnet50, top1, why_no_accuracy
from evaluation.weights import WeightsUnavailable

Judge = Callable[[Tensor, Tensor, Tensor], Tensor]  # (images, clean, labels) -> scores [B]
DISTANCES = ("fid", "kid")


@dataclass
class Judges:
    """per_image: metric -> judge; features: for distances of sets; unavailable: metric -> one line why."""

    per_image: dict[str, Judge] = field(default_factory=dict)
    features: nn.Module | None = None
    unavailable: dict[str, str] = field(default_factory=dict)


def build_judges(metrics: Iterable[str], classes: Sequence[str], device: str, mode: str = "legacy_pytorch") -> Judges:
    """The judges of `metrics` (psnr, ssim, accuracy, lpips, fid, kid), as far as their weights can be had.

    Args:
        classes: the data set's; accuracy means something on ImageNet's only.
        device: where the networks work.
        mode: clean-fid's, for fid and kid.
    """
    judges, wanted = Judges(), set(metrics)

    def give(metric: str, build: Callable[[], Judge]) -> None:
        try:
            judges.per_image[metric] = build()
        except WeightsUnavailable as error:
            judges.unavailable[metric] = str(error)

    if "psnr" in wanted:
        judges.per_image["psnr"] = lambda images, clean, labels: psnr(images, clean)
    if "ssim" in wanted:
        judges.per_image["ssim"] = lambda images, clean, labels: ssim(images, clean)
    if "accuracy" in wanted:
        if reason := why_no_accuracy(classes):
            judges.unavailable["accuracy"] = reason
        else:
            give("accuracy", lambda: _accuracy(device))
    if "lpips" in wanted:
        give("lpips", lambda: _lpips(device))
    if distances := wanted.intersection(DISTANCES):
        try:
            judges.features = build_inception(mode, device)
        except WeightsUnavailable as error:
            judges.unavailable |= dict.fromkeys(distances, str(error))
    return judges


def _accuracy(device: str) -> Judge:
    network = build_resnet50().to(device)
    return lambda images, clean, labels: top1(network(images.to(device)), labels).float()


def _lpips(device: str) -> Judge:
    network = build_lpips(device)
    return lambda images, clean, labels: network(images, clean)


def training_judges(classes: Sequence[str], device: str, log: Any) -> dict[str, Judge]:
    """The scores that training shows: PSNR [dB], and ResNet-50's accuracy (0 to 1) where it can be had."""
    judges = build_judges(["psnr", "accuracy"], classes, device)
    for metric, reason in judges.unavailable.items():
        log.info(f"[Eval] no {metric}: {reason}")
    return judges.per_image
