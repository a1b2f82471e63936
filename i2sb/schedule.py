"""The noise schedule of the bridge: how fast noise enters and leaves, and at which steps the sampler stops.

Everything is computed once in float64 on the CPU; users of the tables cast them to float32.
Source: arXiv 2302.05872, section 3 and appendix; the numbers are those of the public release.
"""

from collections.abc import Sequence

import numpy as np

from i2sb.config import SPACINGS

BETA_MIN = 1e-4  # r_0^2: the schedule starts at this beta whatever the interval


def make_betas(interval: int, beta_max: float) -> np.ndarray:
    """Symmetric beta table, float64 [N]: a quadratic ramp over the first half, then the same half mirrored.

    Args:
        interval: number of steps N; even, at least 2.
        beta_max: N times the value that the ramp would reach at its own end; above 0.

    Raises:
        ValueError: interval is odd or below 2, or beta_max is not above 0.
    """
    if interval < 2 or interval % 2:
        raise ValueError(f"interval must be an even number of at least 2 (the schedule is symmetric), got {interval}")
    if not beta_max > 0:
        raise ValueError(f"beta_max must be above 0, got {beta_max}")
    half = ramp(interval, BETA_MIN, beta_max / interval)[: interval // 2]
    return np.concatenate([half, half[::-1]])


def ramp(count: int, first: float, last: float) -> np.ndarray:
    """`count` betas from `first` to `last` whose square roots are evenly spaced, float64 [count]."""
    return np.linspace(first**0.5, last**0.5, count, dtype=np.float64) ** 2


def accumulated_stds(betas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Standard deviation gathered from either end, (std_fwd, std_bwd), float64 [N] each.

    std_fwd[n]^2 = sum of beta_j over j <= n, std_bwd[n]^2 = sum over j >= n: beta_n counts in both.
    """
    std_fwd = np.sqrt(np.cumsum(betas))
    std_bwd = np.sqrt(np.cumsum(betas[::-1])[::-1])
    return std_fwd, std_bwd


def noise_levels(t0: float, T: float, interval: int) -> np.ndarray:
    """Input of the network's time embedding at step n: linspace(t0, T, N) * N, float64 [N]."""
    return np.linspace(t0, T, interval, dtype=np.float64) * interval


def space_indices(num_steps: int, count: int) -> list[int]:
    """`count` indices spread evenly over 0 .. num_steps-1, both ends included.

    The stride is accumulated in floating point and each position rounded half to even, as the published
    samplers did; a rounded linspace gives other indices for many counts.

    Raises:
        ValueError: count is below 1 or above num_steps.
    """
    if not 1 <= count <= num_steps:
        raise ValueError(f"count must lie in 1..{num_steps} (num_steps), got {count}")
    stride = (num_steps - 1) / (count - 1) if count > 1 else 1.0
    indices, position = [], 0.0
    for _ in range(count):
        indices.append(round(position))
        position += stride
    return indices


def num_evaluations(nfe: int | None, interval: int) -> int:
    """Network calls of a run: `nfe`, by default one at each step but step 0.

    Raises:
        ValueError: nfe is not in 1 .. interval - 1.
    """
    if nfe is None:
        return interval - 1
    if not 0 < nfe < interval:
        raise ValueError(f"nfe must lie in 1..{interval - 1} (interval - 1), got {nfe}")
    return nfe


def visited_steps(
    interval: int, nfe: int, spacing: str = "uniform", std_fwd: Sequence[float] | None = None
) -> list[int]:
    """nfe + 1 ascending steps from 0 to interval - 1.

    Args:
        std_fwd: the table of the schedule [interval]; for logsnr.
        spacing: uniform, as published; quadratic in the index, closer at step 0; logsnr: even in
            lambda = log(b / c), see `samplers`, from the last step but one (at the last it is infinite).

    Raises:
        ValueError: another spacing, or nfe is not in 1 .. interval - 1.
    """
    num_evaluations(nfe, interval)
    if spacing == "uniform":
        return space_indices(interval, nfe + 1)
    if spacing == "quadratic":
        places = (interval - 1) * np.linspace(0, 1, nfe + 1) ** 2
    elif spacing == "logsnr":
        A = np.asarray(std_fwd[:-1]) ** 2
        lam = np.log((std_fwd[-1] ** 2 - A) / A) / 2  # but for a constant
        places = np.interp(np.linspace(-lam[0], -lam[-1], nfe + 1), -lam, np.arange(interval - 1))
        places[-1] = interval - 1
    else:
        raise ValueError(f"unknown spacing {spacing!r}; choose one of {', '.join(SPACINGS)}")
    steps = [round(place) for place in places]
    for i in range(1, nfe + 1):  # one that is taken moves up, and back down where there is no room
        steps[i] = max(steps[i], steps[i - 1] + 1)
    return [min(step, interval - 1 - nfe + i) for i, step in enumerate(steps)]


def sampling_steps(
    interval: int,
    nfe: int | None = None,
    log_count: int = 10,
    spacing: str = "uniform",
    std_fwd: Sequence[float] | None = None,
) -> tuple[list[int], list[int]]:
    """Steps that a run with `nfe` network calls visits, ascending, and those whose state is recorded.

    Returns:
        (steps, log_steps): those of `visited_steps`, and at most `log_count` of them, step 0 first.

    Raises:
        ValueError: see `visited_steps`; or log_count is below 1.
    """
    steps = visited_steps(interval, num_evaluations(nfe, interval), spacing, std_fwd)
    recorded = space_indices(len(steps) - 1, min(len(steps) - 1, log_count))
    return steps, [steps[i] for i in recorded]
