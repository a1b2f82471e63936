"""Algorithm 2, from x1 back to x0: `sample`, and one short function per sampler.

A sampler(walk, s, t, xt, x0_hat) gives the state at step s < t.  A further one is such a function and its entry in
`SAMPLERS`.  With A = std_fwd^2 and T its last value, the bridge's marginal at a step, given both ends, is

    q(x | x0, x1) = N(b x0 + a x1, c^2),  a = A / T,  b = (T - A) / T,  c^2 = A (T - A) / T.

std_bwd^2 is not T - A: it counts beta_n twice, see `schedule.accumulated_stds`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from i2sb.noise import Noise

if TYPE_CHECKING:
    from i2sb.diffusion import Diffusion

PredX0 = Callable[[Tensor, int], Tensor]
OnStep = Callable[[int, Tensor, Tensor], None]


def fill_hole(image: Tensor, mask: Tensor, filling: Tensor) -> Tensor:
    """`filling` where mask is 1, `image` elsewhere. mask: [B,1,H,W] or broadcastable, of any dtype, on any device."""
    return torch.lerp(image, filling, mask.to(filling))  # exact where mask is 0 or 1


@dataclass
class Walk:
    """What a sampler needs besides states: see `sample`.  before: step and x0_hat of the evaluation before."""

    diffusion: Diffusion
    x1: Tensor
    eta: float
    mask: Tensor | None
    ot_ode: bool
    randn: Noise
    num_done: int = 0
    before: tuple[int, Tensor] | None = None

    def marginal(self, n: int) -> tuple[float, float, float]:
        """(a, b, c) at step n."""
        A, T = self.diffusion.std_fwd_list[n] ** 2, self.diffusion.std_fwd_list[-1] ** 2
        return A / T, (T - A) / T, math.sqrt(A * (T - A) / T)

    def log_snr(self, n: int) -> float:
        """lambda = log(b / c), below infinity but at step N - 1, where it is -infinity."""
        _, b, c = self.marginal(n)
        return math.log(b / c) if c else -math.inf


def ddpm(walk: Walk, s: int, t: int, xt: Tensor, x0: Tensor) -> Tensor:
    """The published sampler: draw from the posterior (Eq. 4); known pixels are put back at the step's noise level."""
    xs = walk.diffusion.p_posterior(s, t, xt, x0, walk.ot_ode, randn=walk.randn)
    if walk.mask is None:
        return xs
    known = walk.x1 if walk.ot_ode else walk.x1 + walk.diffusion.std_sb_list[s] * walk.randn(walk.x1)
    return fill_hole(known, walk.mask, xs)


def mean(walk: Walk, s: int, t: int, xt: Tensor, x0: Tensor) -> Tensor:
    """The posterior's mean: no noise at all."""
    return walk.diffusion.p_posterior(s, t, xt, x0, ot_ode=True)


def anchor(walk: Walk, s: int, t: int, xt: Tensor, x0: Tensor) -> Tensor:
    """The marginal's mean, which forgets x_t: b x0_hat + a x1."""
    a, b, _ = walk.marginal(s)
    return b * x0 + a * walk.x1


def dbim(walk: Walk, s: int, t: int, xt: Tensor, x0: Tensor) -> Tensor:
    """Non-Markovian steps of the same marginals (DBIM, arXiv 2405.15885): eta 1 is ddpm, 0 draws noise once.

    x_s = b_s x0_hat + a_s x1 + sqrt(c_s^2 - rho^2) (x_t - b_t x0_hat - a_t x1) / c_t + rho z, with
    rho = eta sqrt(A_s (A_t - A_s) / A_t), but c_s where x_t is x1 itself (c_t = 0); z = 0 at step 0, as published.
    """
    (a_s, b_s, c_s), (a_t, b_t, c_t) = walk.marginal(s), walk.marginal(t)
    A_s, A_t = (walk.diffusion.std_fwd_list[n] ** 2 for n in (s, t))
    rho = walk.eta * math.sqrt(A_s * (A_t - A_s) / A_t) if c_t else c_s
    kept = math.sqrt(max(0.0, c_s**2 - rho**2)) / c_t if c_t else 0.0
    xs = (b_s - kept * b_t) * x0 + (a_s - kept * a_t) * walk.x1 + kept * xt
    return xs + rho * walk.randn(xs) if rho and s > 0 else xs


def dbim2(walk: Walk, s: int, t: int, xt: Tensor, x0: Tensor) -> Tensor:
    """dbim with eta 0, of second order in lambda (the first two steps and the last are dbim's)."""
    if walk.num_done < 2 or s == 0:
        return dbim(walk, s, t, xt, x0)
    (a_s, b_s, c_s), (a_t, _, c_t) = walk.marginal(s), walk.marginal(t)
    u, before = walk.before
    h, h_before = walk.log_snr(s) - walk.log_snr(t), walk.log_snr(t) - walk.log_snr(u)
    slope = (x0 - before) / h_before
    drift = -math.expm1(-h) * x0 + (h + math.expm1(-h)) * slope
    return c_s / c_t * xt + (a_s - a_t * c_s / c_t) * walk.x1 + b_s * drift


class Sampler(NamedTuple):
    """step: the function; noiseless: it suits networks trained with --ot-ode."""

    step: Callable[[Walk, int, int, Tensor, Tensor], Tensor]
    noiseless: bool = False


# What they are for is said in `options.shared.SAMPLERS`, which --help reads without torch.
SAMPLERS = {
    "ddpm": Sampler(ddpm, noiseless=True),
    "dbim": Sampler(dbim),
    "dbim2": Sampler(dbim2),
    "mean": Sampler(mean, noiseless=True),
    "anchor": Sampler(anchor, noiseless=True),
}


def check_sampler(name: str, eta: float | None, ot_ode: bool) -> None:
    """Raises ValueError for a sampler that is unknown, does not suit the network, or has no such `eta`."""
    if name not in SAMPLERS:
        raise ValueError(f"unknown sampler {name!r}; choose one of {', '.join(SAMPLERS)}")
    if ot_ode and not SAMPLERS[name].noiseless:
        usable = ", ".join(key for key, sampler in SAMPLERS.items() if sampler.noiseless)
        raise ValueError(f"sampler {name} draws noise, and a network trained with --ot-ode saw none; choose {usable}")
    if eta is not None and name != "dbim":
        raise ValueError(f"sampler {name} has no eta, dbim has")
    if eta is not None and not 0 <= eta <= 1:
        raise ValueError(f"eta must lie in 0..1, got {eta}")


def sample(
    name: str,
    diffusion: Diffusion,
    steps: Sequence[int],
    pred_x0_fn: PredX0,
    x1: Tensor,
    *,
    eta: float | None = None,
    mask: Tensor | None = None,
    ot_ode: bool = False,
    randn: Noise = torch.randn_like,
    on_step: OnStep | None = None,
) -> Tensor:
    """Walk from x1 back to x0 with the sampler `name`.

    Args:
        name: a key of `SAMPLERS`.
        steps: ascending, from 0 to at most N - 1; the network is called at each but 0, from the last down.
        pred_x0_fn: (xt [B,C,H,W], step) -> predicted x0 [B,C,H,W].
        x1: the degraded images [B,C,H,W], a hole already filled with noise.
        eta: share of ddpm's noise in dbim's steps, 0 to 1; None: 0.
        mask: 1 in the hole, [B,1,H,W]; None: no pixel is known.  Known pixels are put into the predicted x0, by
            ddpm into the states.
        ot_ode: the network saw no noise; ddpm takes the mean of each step.
        randn: source of noise, see `noise.Noise`.
        on_step: called as on_step(nprev, x_nprev, predicted x0) after each step.

    Returns:
        x at step 0 [B,C,H,W].

    Raises:
        ValueError: see `check_sampler`; or steps that do not ascend from 0 inside the schedule.
    """
    check_sampler(name, eta, ot_ode)
    steps = [int(n) for n in steps]
    if len(steps) < 2 or steps[0] != 0 or steps[-1] >= len(diffusion) or sorted(set(steps)) != steps:
        raise ValueError(
            f"steps must ascend from 0 to at most {len(diffusion) - 1}, two at least, got {steps[:5]}..{steps[-1:]}"
        )
    x1 = xt = x1.detach().to(diffusion.device)
    walk = Walk(diffusion, x1, eta or 0.0, mask, ot_ode, randn)
    for n, nprev in zip(steps[:0:-1], steps[-2::-1]):
        pred_x0 = pred_x0_fn(xt, n).detach()
        if mask is not None and name != "ddpm":
            pred_x0 = fill_hole(x1, mask, pred_x0)
        xt = SAMPLERS[name].step(walk, nprev, n, xt, pred_x0)
        walk.num_done += 1
        walk.before = (n, pred_x0) if name == "dbim2" else None  # for others a copy of a large image less
        if on_step is not None:
            on_step(nprev, xt, pred_x0)
    return xt.detach()
