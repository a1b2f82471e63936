"""The Frechet distance of two Gaussians, and their means and covariances from a stream of features."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg.lapack import dpstrf


@dataclass(frozen=True)
class Statistics:
    """Mean [D] and covariance [D, D] (ddof 1), float64; `num_images` is None where a file does not tell."""

    mu: np.ndarray
    sigma: np.ndarray
    num_images: int | None = None


def frechet_distance(mu1: ArrayLike, sigma1: ArrayLike, mu2: ArrayLike, sigma2: ArrayLike) -> float:
    """|mu1 - mu2|^2 + tr(S1 + S2 - 2 sqrt(S1 S2)) (Dowson and Landau 1982; FID: Heusel et al. 2017, Eq. 6).

    mu: [D], sigma: [D, D] symmetric positive semi-definite of any rank; all computed in float64.

    With any factors S1 = A A^T and S2 = B B^T, the eigenvalues of S1 S2 other than zero are those of the
    symmetric (A^T B)(A^T B)^T, so that tr sqrt(S1 S2) is the sum of the square roots of *its* eigenvalues.
    Rank-revealing Cholesky factors are cheap and leave the null spaces out: with fewer images than
    dimensions no eigenvalue is rounding noise, and the matrix is only as large as the smaller rank.

    Raises ValueError for shapes that do not match, values that are not finite, and covariances that are not
    symmetric or not positive semi-definite.
    """
    mu1, sigma1 = _checked(mu1, sigma1, "first")
    mu2, sigma2 = _checked(mu2, sigma2, "second")
    if mu1.shape != mu2.shape:
        raise ValueError(
            f"the two Gaussians have {len(mu1)} and {len(mu2)} dimensions, they must have the same"
        )

    cross = _factor(sigma1, "first").T @ _factor(sigma2, "second")  # [r1, r2]
    gram = cross @ cross.T if cross.shape[0] <= cross.shape[1] else cross.T @ cross
    eigenvalues = np.linalg.eigvalsh(gram) if gram.size else np.zeros(0)
    trace_of_root = np.sqrt(eigenvalues.clip(min=0)).sum()
    return float(np.sum((mu1 - mu2) ** 2) + np.trace(sigma1) + np.trace(sigma2) - 2 * trace_of_root)


def check_gaussian(mu: ArrayLike, sigma: ArrayLike) -> None:
    """Raises the ValueError that `frechet_distance` would raise for this mean and covariance."""
    _factor(_checked(mu, sigma, "stored")[1], "stored")


def _checked(mu: ArrayLike, sigma: ArrayLike, which: str) -> tuple[np.ndarray, np.ndarray]:
    mu = np.atleast_1d(np.asarray(mu, dtype=np.float64))
    sigma = np.atleast_2d(np.asarray(sigma, dtype=np.float64))
    if mu.ndim != 1 or sigma.shape != (len(mu), len(mu)):
        raise ValueError(
            f"the {which} mean and covariance are {mu.shape} and {sigma.shape}, expected [D], [D, D]"
        )
    if not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
        raise ValueError(f"the {which} mean or covariance has values that are not finite")
    # Covariances that were stored as float32 are symmetric to their own precision only.
    if np.abs(sigma - sigma.T).max(initial=0) > 1e-5 * np.abs(sigma).max(initial=0):
        raise ValueError(f"the {which} covariance is not symmetric")
    return mu, sigma


def _factor(sigma: np.ndarray, which: str) -> np.ndarray:
    """F [D, rank] with F F^T = sigma, by Cholesky with complete pivoting (LAPACK pstrf)."""
    upper, pivots, rank, _ = dpstrf(sigma.T)  # .T: in LAPACK's memory order, so nothing is transposed
    if not np.any(sigma):
        rank = 0
    factor = np.empty((len(sigma), rank))
    factor[pivots - 1] = np.tril(upper.T[:, :rank])
    # What the factor leaves out is rounding noise of a semi-definite matrix, and anything else of others.
    left_out = np.abs(np.diag(sigma) - np.einsum("ij,ij->i", factor, factor)).max(initial=0)
    if left_out > 1e-6 * np.abs(np.diag(sigma)).max(initial=0) or (rank == 0 and np.any(sigma)):
        raise ValueError(f"the {which} covariance is not positive semi-definite")
    return factor


class RunningStatistics:
    """Mean and covariance of a stream of features in float64; memory does not grow with the stream.

    Batches and parts are joined by Chan, Golub and LeVeque's update (1979), which keeps deviations from the
    mean instead of raw second moments and so loses no digits where the mean is large.
    """

    def __init__(self) -> None:
        self.num_images = 0
        self._mean: np.ndarray | None = None  # [D]
        self._scatter: np.ndarray | None = None  # [D, D], sum of outer products of deviations from the mean

    def update(self, features: ArrayLike) -> RunningStatistics:
        """Takes in features [n, D]: a numpy array or a torch tensor on any device; n may be 0.

        Raises ValueError where the shape does not fit or a value is not finite.
        """
        if hasattr(features, "detach"):
            features = features.detach().cpu().numpy()
        features = np.asarray(features, dtype=np.float64)
        if features.ndim != 2:
            raise ValueError(f"features are {features.shape}, expected [n, D]")
        if not np.isfinite(features).all():
            bad = np.flatnonzero(~np.isfinite(features).all(axis=1)) + self.num_images
            raise ValueError(f"the features of {len(bad)} images are not finite, the first is image {bad[0]}")
        if len(features):
            mean = features.mean(axis=0)
            self._join(len(features), mean, features - mean)
        return self

    def merge(self, other: RunningStatistics) -> RunningStatistics:
        """Takes in what another one has seen (another process, another part of the set)."""
        if other.num_images:
            self._join(other.num_images, other._mean, np.zeros((0, len(other._mean))))
            self._scatter += other._scatter
        return self

    def _join(self, num: int, mean: np.ndarray, deviations: np.ndarray) -> None:
        """Adds `num` images of this mean; each row of `deviations` [k, D] adds its outer product."""
        if self._mean is None:
            self._mean, self._scatter = np.zeros_like(mean), np.zeros((len(mean), len(mean)))
        elif len(mean) != len(self._mean):
            raise ValueError(f"features have {len(mean)} dimensions, those before had {len(self._mean)}")
        total = self.num_images + num
        shift = mean - self._mean
        # One more row carries the distance of the two means: a single matrix product does it all.
        rows = np.vstack([deviations, np.sqrt(self.num_images * num / total) * shift])
        self._scatter += rows.T @ rows
        self._mean = self._mean + shift * (num / total)
        self.num_images = total

    @property
    def mu(self) -> np.ndarray:
        """Mean [D] (np.mean).  Raises ValueError before the first image."""
        if self._mean is None:
            raise ValueError("no image has been seen yet, a mean needs at least one")
        return self._mean.copy()

    @property
    def sigma(self) -> np.ndarray:
        """Covariance [D, D] with ddof 1 (np.cov).  Raises ValueError below two images."""
        if self.num_images < 2:
            raise ValueError(f"{self.num_images} images were seen, a covariance needs at least two")
        return self._scatter / (self.num_images - 1)

    def finish(self) -> Statistics:
        """Mean and covariance of all that was seen.  Raises ValueError below two images."""
        return Statistics(self.mu, self.sigma, self.num_images)

    @classmethod
    def resume(cls, statistics: Statistics) -> RunningStatistics:
        """The inverse of `finish`, so that parts can be saved and joined later."""
        if statistics.num_images is None:
            raise ValueError(
                "these statistics do not tell from how many images they come, they cannot be joined"
            )
        running = cls()
        running.num_images = statistics.num_images
        running._mean = statistics.mu.copy()
        running._scatter = statistics.sigma * (statistics.num_images - 1)
        return running
