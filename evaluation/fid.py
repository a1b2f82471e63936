"""FID: features of a set of images, their mean and covariance, and the Frechet distance of two sets."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg.lapack import dpstrf
from torch import Tensor

from corruption.geometry import Size
from evaluation.metrics import MetricUnavailable
from i2sb.config import size_text
from i2sb.errors import UserError, one_line
from i2sb.runtime.files import atomic_write
from i2sb.runtime.reading import load_npz


class Features(NamedTuple):
    """Of a set of images: mu [D] and sigma [D, D] (ddof 1) in float64; sample [k, D] of some of them, for KID."""

    mu: np.ndarray
    sigma: np.ndarray
    sample: np.ndarray | None = None


class FeatureSums:
    """Collects the features of a set of images, batch by batch; memory does not grow with their number.

    Sums and sums of products of deviations from the first batch's mean: raw second moments would lose digits
    where the mean is large.

    num_images: how many will come.  num_kept: of how many the features are kept, a random subset.
    """

    def __init__(self, num_images: int, num_kept: int = 0) -> None:
        chosen = np.random.default_rng(0).choice(num_images, min(num_kept, num_images), replace=False)
        self._is_kept = np.isin(np.arange(num_images), chosen)
        self._kept: list[np.ndarray] = []
        self.num_images = 0

    def add(self, features: Tensor) -> None:
        """Features [n, D] of the next images.  Raises ValueError where they are NaN or inf."""
        features = features.detach().cpu().numpy()
        x = features.astype(np.float64)
        if not np.isfinite(x).all():
            raise ValueError(f"the features of an image are NaN or inf, after {self.num_images} images")
        if self.num_images == 0:
            self._origin = x.mean(axis=0)
            self._sum, self._products = np.zeros(x.shape[1]), np.zeros((x.shape[1], x.shape[1]))
        self._kept.append(features[self._is_kept[self.num_images : self.num_images + len(x)]])
        x = x - self._origin
        self._sum += x.sum(axis=0)
        self._products += x.T @ x
        self.num_images += len(x)

    def finish(self) -> Features:
        """Raises MetricUnavailable below two images."""
        n = self.num_images
        if n < 2:
            raise MetricUnavailable("needs at least two images")
        sigma = (self._products - np.outer(self._sum, self._sum) / n) / (n - 1)
        sample = np.concatenate(self._kept)
        return Features(self._origin + self._sum / n, sigma, sample if len(sample) else None)


def frechet_distance(mu1: ArrayLike, sigma1: ArrayLike, mu2: ArrayLike, sigma2: ArrayLike) -> float:
    """|mu1 - mu2|^2 + tr(S1 + S2 - 2 sqrt(S1 S2)) (Dowson and Landau 1982; FID: Heusel et al. 2017, Eq. 6).

    mu: [D], sigma: [D, D] symmetric positive semi-definite of any rank; all computed in float64.

    With any factors S1 = A A^T and S2 = B B^T, tr sqrt(S1 S2) is the sum of the singular values of A^T B.
    Rank-revealing Cholesky factors leave the null spaces out: with fewer images than dimensions no singular value
    is rounding noise, and the matrix is only as large as the ranks.

    Raises ValueError for shapes that do not match, NaN or inf, and covariances that are not symmetric positive
    semi-definite.
    """
    mu1, mu2, sigma1, sigma2 = (np.asarray(x, dtype=np.float64) for x in (mu1, mu2, sigma1, sigma2))
    if mu1.shape != mu2.shape:
        raise ValueError(f"the means are {list(mu1.shape)} and {list(mu2.shape)}, they must be the same [D]")
    cross = _factor(mu1, sigma1).T @ _factor(mu2, sigma2)  # [r1, r2]
    trace_of_root = np.linalg.svd(cross, compute_uv=False).sum()
    return float(np.sum((mu1 - mu2) ** 2) + np.trace(sigma1) + np.trace(sigma2) - 2 * trace_of_root)


def _factor(mu: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """F [D, rank] with F F^T = sigma, by Cholesky with complete pivoting (LAPACK pstrf)."""
    if mu.ndim != 1 or sigma.shape != (len(mu), len(mu)):
        raise ValueError(f"mean and covariance are {list(mu.shape)} and {list(sigma.shape)}, expected [D] and [D, D]")
    if not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
        raise ValueError("a mean or covariance is NaN or inf")
    upper, pivots, rank, _ = dpstrf(sigma.T)  # .T: in LAPACK's memory order, so nothing is transposed
    factor = np.zeros((len(sigma), rank))
    factor[pivots - 1] = np.tril(upper.T[:, :rank])
    # What the factor leaves out is rounding noise of a symmetric semi-definite matrix, and anything else of others.
    if np.abs(sigma - factor @ factor.T).max(initial=0) > 1e-5 * np.abs(sigma).max(initial=0):
        raise ValueError("a covariance is not symmetric positive semi-definite")
    return factor


def distance(restored: Features, reference: Features) -> float:
    """FID of two sets of images.  Raises UserError for a reference of another network's features."""
    if restored.mu.shape != reference.mu.shape:
        raise UserError(
            f"FID: its reference has statistics of {len(reference.mu)} features per image, the network gives "
            f"{len(restored.mu)}: remove the file, or give --fid-ref"
        )
    return frechet_distance(restored.mu, restored.sigma, reference.mu, reference.sigma)


def save_statistics(path: Path, features: Features, source: str = "") -> None:
    """Writes mu, sigma and source (what the images were) in NumPy's npz format, atomically."""
    with atomic_write(path) as file:
        np.savez(file, mu=features.mu, sigma=features.sigma, source=np.str_(source))


def load_statistics(path: Path) -> tuple[Features, str]:
    """(statistics, source, "" if the file does not tell).  Raises UserError for a file without mu and sigma."""
    found = load_npz(path, ("mu", "sigma"), ("source",))  # published files also hold gigabytes of images
    try:
        mu, sigma = (found[key].astype(np.float64) for key in ("mu", "sigma"))
        _factor(mu, sigma)
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: holds no FID statistics (mu [D] and sigma [D, D]): {one_line(error, 200)}") from error
    return Features(mu, sigma), str(found.get("source", ""))


def statistics_path(image_size: Size, split: str = "val", mode: str = "legacy_pytorch", channels: int = 3) -> Path:
    """data/fid_imagenet_256_val.npz, the published name; other modes and grey images have files of their own."""
    suffix = ("" if mode == "legacy_pytorch" else f"_{mode}") + ("_grey" if channels == 1 else "")
    return Path("data") / f"fid_imagenet_{size_text(image_size)}_{split}{suffix}.npz"
