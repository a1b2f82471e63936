"""FID: statistics of a stream of images, and the reference statistics on disk.

features = build_inception("legacy_pytorch", device)
restored = feature_statistics(batches_of_restored_images, features)
reference = cached_statistics(path, lambda: feature_statistics(batches_of_clean_images, features))
fid = distance(restored, reference)
"""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from torch import Tensor

from corruption.registry import lookup
from evaluation.frechet import RunningStatistics, Statistics, check_gaussian, frechet_distance
from evaluation.weights import find
from i2sb import addresses
from i2sb.errors import UserError, one_line
from i2sb.runtime.files import atomic_write
from i2sb.runtime.safe_npz import load_npz


def feature_statistics(
    batches: Iterable[Tensor],
    features: Callable[[Tensor], Tensor],
    on_batch: Callable[[int], None] | None = None,
) -> Statistics:
    """Mean and covariance of the features of all images; memory does not grow with their number.

    batches: uint8 [B, 3, H, W] (see i2sb.pixels).  features: a batch -> [B, D].
    on_batch: called with the number of images in each batch when it is done, for a progress bar.
    Raises ValueError below two images.
    """
    running = RunningStatistics()
    for images in batches:
        running.update(features(images))
        if on_batch is not None:
            on_batch(len(images))
    return running.finish()


def distance(restored: Statistics, reference: Statistics) -> float:
    """The Frechet inception distance of two sets of images.

    Raises UserError for a reference of another network's features.
    """
    if restored.mu.shape != reference.mu.shape:
        raise UserError(
            f"FID: its reference has statistics of {len(reference.mu)} features per image, the network gives "
            f"{len(restored.mu)}: remove the file, or give --fid-ref"
        )
    return frechet_distance(restored.mu, restored.sigma, reference.mu, reference.sigma)


def save_statistics(path: Path, statistics: Statistics, **notes: str) -> None:
    """Writes mu, sigma and num_images, and `notes` as strings, in NumPy's npz format, atomically."""
    arrays = {"mu": statistics.mu, "sigma": statistics.sigma}
    if statistics.num_images is not None:
        arrays["num_images"] = np.int64(statistics.num_images)
    with atomic_write(path) as file:
        np.savez(file, **arrays, **{name: np.str_(text) for name, text in notes.items()})


def load_statistics(path: Path) -> Statistics:
    """Reads mu and sigma (and num_images, if any) without unpickling anything; other arrays are not read.

    Raises UserError for a file that holds no such statistics.
    """
    try:
        arrays = load_npz(path, ("mu", "sigma"), optional=("num_images",))
        if any(array.dtype.kind not in "fiu" for array in arrays.values()):
            raise ValueError("they are no numbers")
        mu, sigma = (arrays[key].astype(np.float64) for key in ("mu", "sigma"))
        num_images = int(arrays["num_images"].item()) if "num_images" in arrays else None
        if mu.ndim != 1 or sigma.shape != (len(mu), len(mu)):
            raise ValueError(f"mu is {mu.shape} and sigma {sigma.shape}")
        check_gaussian(mu, sigma)
    except (OSError, ValueError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"{path} holds no FID statistics (arrays mu [D] and sigma [D, D]): {reason}"
        ) from error
    return Statistics(mu, sigma, num_images)


def cached_statistics(path: Path, compute: Callable[[], Statistics], source: str = "") -> Statistics:
    """The statistics in `path`; where there are none yet, what `compute` gives, kept there for the next time.

    source: identifies the images (say, a hash of their names and their number).  It is stored in the file,
    and a file of another source is not taken for this one.  Files without it (the original release's, or
    others put there by hand) are trusted.

    Raises UserError where the file is of another source or unreadable.
    """
    path = Path(path)
    if path.is_file():
        statistics = load_statistics(path)
        stored = _source(path)
        if source and stored and stored != source:
            raise UserError(
                f"{path} comes from other images ({stored}, now {source}): move it away or remove it"
            )
        return statistics
    statistics = compute()
    save_statistics(path, statistics, **({"source": source} if source else {}))
    return statistics


def _source(path: Path) -> str:
    try:
        found = load_npz(path, (), optional=("source",), limit=2**16)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: its source cannot be read: {one_line(error, 200)}; remove it") from error
    return one_line(found["source"], 200) if "source" in found else ""


def validation_statistics_path(
    image_size: int, mode: str = "legacy_pytorch", folder: Path = Path("data")
) -> Path:
    """data/fid_imagenet_256_val.npz, the published name; other modes have other features, so other files."""
    suffix = "" if mode == "legacy_pytorch" else f"_{mode}"
    return Path(folder) / f"fid_imagenet_{image_size}_val{suffix}.npz"


def uses_training_statistics(task: str) -> bool:
    """Whether results of this task are published against the training set (4x super-resolution) or, as all
    others, against the validation set."""
    return lookup(task).fid_split == "train"


def training_statistics(folder: Path = Path("data")) -> Statistics:
    """ADM's statistics of the ImageNet 256x256 training set, fetched at the first call.

    Raises WeightsUnavailable where the file is not here and cannot be fetched.
    """
    return load_statistics(find(addresses.FID_TRAIN_STATISTICS, folder))
