"""Every metric in one table: its name, how it is shown, and what computes it.

A new metric is one more row of METRICS.  Importing this module loads neither torch nor a network, so that
`compute_metrices.py --help` can list the names.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from corruption.geometry import height_width

if TYPE_CHECKING:
    from torch import Tensor

    from evaluation.fid import Features

    Judge = Callable[[Tensor, Tensor, Tensor], Tensor]  # (images, clean, labels) -> scores [B]


class MetricUnavailable(RuntimeError):
    """A metric cannot be computed here, for its images or want of weights; the message is the reason, in one line."""


class Metric(NamedTuple):
    """A row of METRICS; one of the last three is given.

    title, unit: as shown.  better: "↑" or "↓".  digits: decimals in tables.  scale: what values per image are shown as.
    of_rgb: a network of RGB photographs measures it, with 8 bits; grey images are shown to it as RGB, others cannot be.
        Others also take `deep`, see `evaluation.image_quality`.
    min_size: of images that can be measured [pixels].
    of_one: judges images without looking at the clean ones, which have a score, too.
    per_image: (class names, device, pixels at each border of super-resolved images that do not count) ->
        a function of (images [B,C,H,W] in [-1,1], clean ones, labels [B]) -> [B].
    of_sets: (restored, reference) -> the distance of two sets of images.
    to_clean: device -> the features whose distribution is compared with that of the clean images.
    All raise MetricUnavailable where there is no such score.
    """

    title: str
    unit: str
    better: str
    digits: int
    scale: float = 1.0
    of_rgb: bool = True
    min_size: int = 1
    of_one: bool = False
    per_image: Callable[[Sequence[str], str, int], Judge] | None = None
    of_sets: Callable[[Features, Features], float] | None = None
    to_clean: Callable[[str], Callable[[Tensor], Tensor]] | None = None

    @property
    def label(self) -> str:
        """Such as "PSNR [dB] ↑"."""
        return " ".join(part for part in (self.title, self.unit and f"[{self.unit}]", self.better) if part)


def _psnr(classes: Sequence[str], device: str, border: int) -> Judge:
    from evaluation.image_quality import psnr

    return lambda images, clean, labels, deep=False: psnr(images, clean, deep)


def _psnr_y(classes: Sequence[str], device: str, border: int) -> Judge:
    from evaluation.image_quality import psnr_y

    return lambda images, clean, labels: psnr_y(images, clean, border)


def _ssim(classes: Sequence[str], device: str, border: int) -> Judge:
    from evaluation.image_quality import ssim

    return lambda images, clean, labels, deep=False: ssim(images, clean, deep)


def _accuracy(classes: Sequence[str], device: str, border: int) -> Judge:
    from dataset.names import is_imagenet
    from evaluation.resnet import build_resnet50, top1

    if not classes:
        raise MetricUnavailable("this data set has no classes")
    if len(classes) != 1000 or not is_imagenet(classes):
        raise MetricUnavailable(f"needs ImageNet's 1000 classes, this data set has {len(classes)} of its own")
    network = build_resnet50().to(device)
    return lambda images, clean, labels: top1(network(images.to(device)), labels).float()


def _lpips(classes: Sequence[str], device: str, border: int) -> Judge:
    from evaluation.lpips import build_lpips

    network = build_lpips(device)
    return lambda images, clean, labels: network(images, clean)


def _perceptual(classes: Sequence[str], device: str, border: int) -> Judge:
    from i2sb.features import PerceptualDistance
    from i2sb.pixels import nearest_uint8, to_float

    network = _with_extra(PerceptualDistance).to(device)
    return lambda images, clean, labels: network(*(to_float(nearest_uint8(x.to(device))) for x in (images, clean)))


def _dists(classes: Sequence[str], device: str, border: int) -> Judge:
    from evaluation.quality_networks import build_dists

    distance = build_dists(device)
    return lambda images, clean, labels: distance(images, clean)


def _arniqa(classes: Sequence[str], device: str, border: int) -> Judge:
    from evaluation.quality_networks import build_arniqa

    quality = build_arniqa(device)
    return lambda images, clean, labels: quality(images)


def _spatial(device: str) -> Callable[[Tensor], Tensor]:
    from evaluation.spatial import build_features

    return _with_extra(build_features, device)


def _with_extra(build: Callable, *args: Any) -> Any:
    from i2sb.errors import UserError

    try:
        return build(*args)
    except UserError as error:
        raise MetricUnavailable(str(error)) from error


def _fid(restored: Features, reference: Features) -> float:
    from evaluation.fid import distance

    return distance(restored, reference)


def _kid(restored: Features, reference: Features) -> float:
    from evaluation.kid import kid

    if reference.sample is None:
        raise MetricUnavailable("needs images as its reference, not their statistics alone")
    return 1000 * kid(restored.sample, reference.sample)


# In the order of the table's columns.
METRICS = {
    "psnr": Metric("PSNR", "dB", "↑", 2, of_rgb=False, per_image=_psnr),
    "psnr_y": Metric("PSNR of Y", "dB", "↑", 2, min_size=17, per_image=_psnr_y),
    "ssim": Metric("SSIM", "", "↑", 4, of_rgb=False, min_size=11, per_image=_ssim),
    "accuracy": Metric("Accuracy", "%", "↑", 1, 100, of_one=True, per_image=_accuracy),
    "lpips": Metric("LPIPS", "", "↓", 4, min_size=31, per_image=_lpips),
    "dists": Metric("DISTS", "", "↓", 4, per_image=_dists),
    "arniqa": Metric("ARNIQA", "", "↑", 4, min_size=2, of_one=True, per_image=_arniqa),
    "perceptual": Metric("Perceptual", "", "↓", 4, per_image=_perceptual),
    "fd_spatial": Metric("FD spatial", "", "↓", 2, to_clean=_spatial),
    "fid": Metric("FID", "", "↓", 2, of_sets=_fid),
    "kid": Metric("KID x1e3", "", "↓", 3, of_sets=_kid),
}
OF_SETS = tuple(name for name, metric in METRICS.items() if metric.of_sets)


def shown_as(name: str) -> Metric:
    """How a metric is shown, also one that is not in the table (in a file of another version)."""
    return METRICS.get(name, Metric(name, "", "", 4))


def metrics_of(rows: Iterable[Iterable[str]]) -> list[str]:
    """The names in any of the rows, in the order of METRICS; those that are not in it behind."""
    present = {name for row in rows for name in row}
    return [name for name in METRICS if name in present] + sorted(present - set(METRICS))


@dataclass
class Judges:
    """per_image: metric -> judge; features: for distances of sets; to_clean: metric -> its features;
    unavailable: metric -> one line why."""

    per_image: dict[str, Judge] = field(default_factory=dict)
    to_clean: dict[str, Callable[[Tensor], Tensor]] = field(default_factory=dict)
    features: Callable[[Tensor], Tensor] | None = None
    unavailable: dict[str, str] = field(default_factory=dict)


def build_judges(
    metrics: Iterable[str],
    classes: Sequence[str],
    device: str,
    mode: str = "legacy_pytorch",
    shape: tuple[int, int, int] = (3, 256, 256),
    scale: int = 1,
    deep: bool = False,
) -> Judges:
    """The judges of `metrics` for images of `shape` [C,H,W], as far as they can be had.

    classes: of the data set, none where it has no labels; mode: clean-fid's, for FID and KID; scale: of the task's
    super-resolution, see `Corruption`; deep: see `Metric`.
    """
    from evaluation import inception

    judges, (channels, *size) = Judges(), shape
    for name in metrics:
        try:
            if METRICS[name].of_rgb and channels not in (1, 3):
                raise MetricUnavailable(f"not available for {channels} channels")
            if min(size) < METRICS[name].min_size:
                raise MetricUnavailable(f"needs images of at least {METRICS[name].min_size} pixels")
            if name in OF_SETS:
                judges.features = judges.features or _shown_rgb(inception.build_inception(mode, device), channels)
            elif METRICS[name].to_clean:
                judges.to_clean[name] = _shown_rgb(METRICS[name].to_clean(device), channels)
            else:
                judge = METRICS[name].per_image(classes, device, scale if scale > 1 else 0)
                if METRICS[name].of_rgb:
                    judge = _shown_rgb(judge, channels)
                elif deep:
                    judge = functools.partial(judge, deep=True)
                judges.per_image[name] = judge
        except MetricUnavailable as error:
            judges.unavailable[name] = str(error)
    return judges


def _shown_rgb(judge: Callable, channels: int) -> Callable:
    """A function of images of `channels` that shows them to `judge` as RGB."""
    if channels == 3:
        return judge
    return lambda *tensors: judge(*(t.expand(-1, 3, -1, -1) if t.ndim == 4 else t for t in tensors))


def labelled_classes(dataset: Any) -> Sequence[str]:
    """The classes of a data set; none where its images have no labels."""
    return dataset.classes if getattr(dataset, "has_labels", True) else ()


def training_judges(dataset: Any, opt: Any, log: Any) -> dict[str, Judge]:
    """The scores that training shows: PSNR [dB], ResNet-50's accuracy (0 to 1) where it can be had, --keep-best's."""
    shape = (opt.channels, *height_width(opt.image_size))
    metrics = ["psnr", *(["ssim"] if opt.keep_best == "ssim" else []), "accuracy"]
    deep = getattr(dataset, "is_deep", False)
    judges = build_judges(metrics, labelled_classes(dataset), opt.device, shape=shape, deep=deep)
    for metric, reason in judges.unavailable.items():
        log.info(f"[Eval] no {metric}: {reason}")
    return judges.per_image
