"""What the loss has beyond the published one: `--loss-weight balanced`, `--perceptual` and `--distill cbt`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from i2sb.errors import UserError
from i2sb.features import PerceptualDistance
from i2sb.runtime.distributed import mean_over_ranks

NUM_BATCHES = 16  # s2 is measured on so many
STAGES = 3  # of a distillation: n - r = n, n/2, n/4; with 8 in 800 iterations the answers filled with noise
LOWEST = 0.1  # below this share of the steps, which few steps do not visit, x_t itself looks like x0


class Balance:
    """Weight A / (A + s2) of a squared error of the label, with A = std_fwd^2 and s2 the variance of x1 - x0.

    Per squared error of x0 the published loss counts 1 / A, three quarters of it on the lowest tenth of the steps;
    this one counts 1 / (A + s2).  s2 is measured while the first batches go by, each weighed by what is known then.

    Args:
        s2: 0: measure it.
        num_micro: micro-batches per batch and rank.
    """

    def __init__(self, s2: float, num_micro: int, device: torch.device):
        self._given, self._to_see, self._seen = s2, NUM_BATCHES * num_micro, 0
        self._moments = torch.zeros(2, device=device)  # sums over micro-batches of the means of d and d^2, d = x1 - x0

    def measure(self, x0: Tensor, x1: Tensor, mask: Tensor | None) -> None:
        """Take note of a micro-batch of pairs [B,C,H,W], of the hole alone where there is a mask [B,1,H,W]."""
        if self._given or self._seen >= self._to_see:
            return
        d = x1 - x0
        inside = torch.ones_like(d) if mask is None else mask.to(d).expand_as(d)
        total = inside.sum().clamp(min=1)
        self._moments += mean_over_ranks(torch.stack([(d * inside).sum(), (d.square() * inside).sum()]) / total)
        self._seen += 1

    @property
    def s2(self) -> Tensor | float:
        """The variance as far as it is known, a scalar on the device."""
        mean, square = self._moments / max(1, self._seen)
        return self._given or square - mean**2

    def weight(self, std_fwd: Tensor) -> Tensor:
        """Weights of squared errors at steps of this std_fwd, in its shape."""
        return std_fwd**2 / (std_fwd**2 + self.s2)

    def state_dict(self) -> dict[str, Any]:
        return {"moments": self._moments, "seen": self._seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._moments.copy_(state["moments"])
        self._seen = int(state["seen"])


class Perceptual:
    """`weight` times the mean `PerceptualDistance` of predicted and clean images, at the steps that sampling visits.

    Latent bridge matching (arXiv 2503.07535) has such a term too.

    Raises:
        UserError: the extra is not installed, or images have not three channels.
    """

    def __init__(self, weight: float, interval: int, channels: int, device: torch.device):
        self.weight, self.first = weight, LOWEST * interval
        if channels != 3:
            raise UserError(f"--perceptual {weight:g}: needs images of 3 channels, these have {channels}; leave it out")
        try:
            self.distance = PerceptualDistance().to(device)
        except UserError as error:
            raise UserError(f"--perceptual {weight:g}: {error}") from error

    def __call__(self, x0_hat: Tensor, x0: Tensor, step: Tensor) -> Tensor:
        """x0_hat, x0: [B,3,H,W]; step: [B].  A scalar."""
        return self.weight * (self.distance(x0_hat, x0) * (step >= self.first)).mean()


def halvings(iteration: int, num_itr: int) -> int:
    """How often the distance between the two steps of `earlier_step` has halved at this iteration: 0 to STAGES - 1."""
    return min(STAGES * iteration // num_itr, STAGES - 1)


def earlier_step(step: Tensor, halved: int) -> Tensor:
    """The step r < n that consistency training compares step n with: r = n - n / 2^halved; 0 where n is 0.

    Consistency bridge training (CBT, arXiv 2410.22637) with the distances of easy consistency tuning (ECT, arXiv
    2406.14548).  At r = 0, where it begins, the answer is the clean image and the loss the ordinary one.

    Args:
        step: LongTensor [B].
    """
    return (step - (step >> halved).clamp(min=1)).clamp(min=0)
