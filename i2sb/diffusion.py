"""The bridge itself: marginal (Eq. 11), label and its inverse (Eq. 12), posterior (Eq. 4), and the sampling loop.

x0 = clean image, x1 = degraded image, xt = a state between them, n = step index 0 .. N-1.
Images are [B,C,H,W] float tensors, about in [-1,1]. Source: arXiv 2302.05872.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from i2sb.schedule import accumulated_stds

Noise = Callable[[Tensor], Tensor]  # torch.randn_like, or anything that answers like it


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


def fill_hole(image: Tensor, mask: Tensor, filling: Tensor) -> Tensor:
    """`filling` where mask is 1, `image` elsewhere. mask: [B,1,H,W] or broadcastable."""
    return (1 - mask) * image + mask * filling


class Diffusion:
    """The bridge over one table of betas.

    Args:
        betas: float64 [N], see `schedule.make_betas`.
        device: where the float32 tables live.

    Attributes:
        betas, std_fwd, std_bwd, std_sb, mu_x0, mu_x1: float32 tensors [N] on `device`.
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
        # The sampler walks with plain numbers: reading a table on the device would stall it at every step.
        self._std_fwd, self._std_sb = std_fwd.tolist(), std_sb.tolist()

    def __len__(self) -> int:
        return len(self._std_fwd)

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
        self,
        nprev: int,
        n: int,
        x_n: Tensor,
        x0: Tensor,
        ot_ode: bool = False,
        *,
        randn: Noise = torch.randn_like,
    ) -> Tensor:
        """Draw x_nprev given x_n and (predicted) x0, Eq. 4; its mean when `ot_ode` or nprev is 0.

        Raises:
            ValueError: not 0 <= nprev < n < N.
        """
        if not 0 <= nprev < n < len(self):
            raise ValueError(f"steps must satisfy 0 <= nprev < n < {len(self)}, got nprev={nprev}, n={n}")
        w0, wn, var = posterior(self._std_fwd[nprev], self._std_fwd[n])
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
        redraw_hole: bool = True,
        on_step: Callable[[], None] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Walk from x1 back to x0 over `steps` (ascending, the first is 0), predicting x0 at each.

        Args:
            pred_x0_fn: (xt [B,C,H,W], step) -> predicted x0 [B,C,H,W].
            mask: 1 in the hole; outside it the known pixels are put back after each step.
            log_steps: steps whose state is recorded; step 0 among them. Default: all but the last.
            verbose: show a progress bar.
            randn: source of noise; drawn once for the hole, then per step for the posterior and the known region.
            redraw_hole: fill the hole of x1 with fresh noise first; False when x1 already holds its noise.
            on_step: called after each step.

        Returns:
            (xs, pred_x0s), each [B,K,C,H,W] on the CPU, K = len(log_steps); index 0 is the final image.

        Raises:
            ValueError: steps do not ascend from 0 inside the schedule, or log_steps lacks step 0.
        """
        steps, log_steps = _check_steps(steps, log_steps, len(self))
        xt = x1.detach()
        if mask is not None and redraw_hole:
            xt = x1 = fill_hole(x1, mask, randn(x1))

        xs, pred_x0s = [], []
        descending = list(zip(steps[:0:-1], steps[-2::-1]))
        for n, nprev in _with_progress(descending, verbose):
            pred_x0 = pred_x0_fn(xt, n)
            xt = self.p_posterior(nprev, n, xt, pred_x0, ot_ode, randn=randn)
            if mask is not None:
                known = x1 if ot_ode else x1 + self._std_sb[nprev] * randn(x1)
                xt = fill_hole(known, mask, xt)
            if nprev in log_steps:
                xs.append(xt)
                pred_x0s.append(pred_x0)
            if on_step:
                on_step()
        # One copy to the CPU at the end: a copy inside the loop would make the device wait for it.
        return torch.stack(xs[::-1], dim=1).cpu(), torch.stack(pred_x0s[::-1], dim=1).cpu()


def _check_steps(steps, log_steps, length: int) -> tuple[list[int], set[int]]:
    steps = [int(n) for n in steps]
    if len(steps) < 2 or steps[0] != 0 or steps[-1] >= length or sorted(set(steps)) != steps:
        raise ValueError(
            f"steps must ascend from 0 to at most {length - 1}, two at least, got {steps[:5]}..{steps[-1:]}"
        )
    wanted = set(steps[:-1]) if log_steps is None else {int(n) for n in log_steps}
    if 0 not in wanted:
        raise ValueError("log_steps must contain step 0, the final image")
    return steps, wanted


def _with_progress(pairs: list, verbose: bool) -> Iterable:
    if not verbose:
        return pairs
    from i2sb.runtime.progress import track  # rich is needed only by those who look

    return track(pairs, "sampling steps")
