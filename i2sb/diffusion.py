"""The bridge itself: marginal (Eq. 11), label and its inverse (Eq. 12), posterior (Eq. 4).

x0 = clean image, x1 = degraded image, xt = a state between them, n = step index 0 .. N-1.
Images are [B,C,H,W] float tensors, about in [-1,1]. Source: arXiv 2302.05872.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from i2sb.noise import Noise
from i2sb.runtime.progress import Progress
from i2sb.samplers import OnStep, sample
from i2sb.schedule import accumulated_stds


def marginal(std_fwd, std_bwd):
    """q(x_n | x0, x1) = N(mu_x0 x0 + mu_x1 x1, std_sb^2), Eq. 11: the coefficients (mu_x0, mu_x1, std_sb)."""
    total = std_fwd**2 + std_bwd**2
    return std_bwd**2 / total, std_fwd**2 / total, std_fwd * std_bwd / total**0.5


def posterior(std_prev, std_n):
    """p(x_prev | x0, x_n) = N(w0 x0 + wn x_n, var), Eq. 4: the coefficients (w0, wn, var)."""
    wn = (std_prev / std_n) ** 2
    return 1 - wn, wn, std_prev**2 * (1 - wn)


def label_from_x0(std_fwd, x0, xt):
    """What the network learns to predict, Eq. 12: (xt - x0) / std_fwd."""
    return (xt - x0) / std_fwd


def x0_from_label(std_fwd, label, xt):
    """Inverse of `label_from_x0`: xt - std_fwd * label."""
    return xt - std_fwd * label


class Diffusion:
    """The bridge over one table of betas.

    Args:
        betas: float64 [N], see `schedule.make_betas`.
        device: where the float32 tables live.

    Attributes:
        betas, std_fwd, std_bwd, std_sb, mu_x0, mu_x1: float32 tensors [N] on `device`.
        std_fwd_list, std_sb_list: two of them as lists of float64.
    """

    def __init__(self, betas: np.ndarray, device: torch.device | str = "cpu"):
        betas = np.asarray(betas, dtype=np.float64)
        std_fwd, std_bwd = accumulated_stds(betas)
        mu_x0, mu_x1, std_sb = marginal(std_fwd, std_bwd)

        def table(values):
            return torch.tensor(values, dtype=torch.float32, device=device)

        self.device = device
        self.betas, self.std_fwd, self.std_bwd = table(betas), table(std_fwd), table(std_bwd)
        self.std_sb, self.mu_x0, self.mu_x1 = table(std_sb), table(mu_x0), table(mu_x1)
        # For the sampler: reading a table on the device would stall it at every step.
        self.std_fwd_list, self.std_sb_list = std_fwd.tolist(), std_sb.tolist()

    def __len__(self) -> int:
        return len(self.std_fwd_list)

    def get_std_fwd(self, step, xdim: Sequence[int] | None = None) -> Tensor:
        """std_fwd at `step` (int or LongTensor [B]); shaped [B,1,..] to go with images of shape [B,*xdim]."""
        std = self.std_fwd[step]
        return std if xdim is None else std.reshape(-1, *[1] * len(xdim))

    def q_sample(self, step: Tensor, x0: Tensor, x1: Tensor, ot_ode: bool = False, *, randn: Noise = torch.randn_like):
        """Draw x_n from the marginal, Eq. 11 (its mean when `ot_ode`). step: LongTensor [B]. Returns [B,C,H,W]."""
        shape = (-1, *[1] * (x0.dim() - 1))
        mu_x0, mu_x1, std_sb = (t[step].reshape(shape) for t in (self.mu_x0, self.mu_x1, self.std_sb))
        xt = mu_x0 * x0 + mu_x1 * x1
        if not ot_ode:
            xt = xt + std_sb * randn(xt)
        return xt.detach()

    def p_posterior(
        self, nprev: int, n: int, x_n: Tensor, x0: Tensor, ot_ode: bool = False, *, randn: Noise = torch.randn_like
    ) -> Tensor:
        """Draw x_nprev given x_n and (predicted) x0, Eq. 4; its mean when `ot_ode` or nprev is 0.

        Raises:
            ValueError: not 0 <= nprev < n < N.
        """
        if not 0 <= nprev < n < len(self):
            raise ValueError(f"steps must satisfy 0 <= nprev < n < {len(self)}, got nprev={nprev}, n={n}")
        w0, wn, var = posterior(self.std_fwd_list[nprev], self.std_fwd_list[n])
        x_prev = w0 * x0 + wn * x_n
        if not ot_ode and nprev > 0:
            x_prev = x_prev + var**0.5 * randn(x_prev)
        return x_prev

    def ddpm_sampling(
        self,
        steps: Sequence[int],
        pred_x0_fn: Callable[[Tensor, int], Tensor],
        x1: Tensor,
        mask: Tensor | None = None,
        ot_ode: bool = False,
        log_steps: Sequence[int] | None = None,
        verbose: bool = True,
        *,
        randn: Noise = torch.randn_like,
        on_step: OnStep | None = None,
        sampler: str = "ddpm",
        eta: float | None = None,
    ) -> tuple[Tensor, Tensor]:
        """`samplers.sample` under the published name; it also records states.

        Args:
            steps, pred_x0_fn, x1, mask, ot_ode, randn, on_step, eta: see `samplers.sample`; x1 is taken as it comes,
                also in the hole (`Runner.ddpm_sampling` fills that).
            sampler: which one.
            log_steps: steps whose state is recorded; step 0 among them. Default: all but the last.
            verbose: show a progress bar.

        Returns:
            (xs, pred_x0s), each [B,K,C,H,W] on the CPU, K = len(log_steps); index 0 is the final image.

        Raises:
            ValueError: see `samplers.sample`; or log_steps lacks step 0.
        """
        wanted = {int(n) for n in (steps[:-1] if log_steps is None else log_steps)}
        if 0 not in wanted:
            raise ValueError("log_steps must contain step 0, the final image")
        xs, pred_x0s = [], []

        def record(nprev: int, xt: Tensor, pred_x0: Tensor) -> None:
            if nprev in wanted:
                xs.append(xt.detach())
                pred_x0s.append(pred_x0)
            bar.advance()
            if on_step is not None:
                on_step(nprev, xt, pred_x0)

        with Progress("sampling steps", len(steps) - 1, shown=verbose) as bar:
            options = {"eta": eta, "mask": mask, "ot_ode": ot_ode, "randn": randn, "on_step": record}
            sample(sampler, self, steps, pred_x0_fn, x1, **options)
        # One copy to the CPU at the end: a copy inside the loop would make the device wait for it.
        return torch.stack(xs[::-1], dim=1).cpu(), torch.stack(pred_x0s[::-1], dim=1).cpu()
