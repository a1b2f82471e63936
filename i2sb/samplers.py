"""Algorithm 2, from x1 back to x0: one short function per sampler, all on one contract.

    sampler(diffusion, steps, pred_x0_fn, x1, *, mask, ot_ode, randn, on_step) -> x at step 0, [B,C,H,W]

A further sampler is one function and its entry in `SAMPLERS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from i2sb.noise import Noise

if TYPE_CHECKING:
    from i2sb.diffusion import Diffusion

PredX0 = Callable[[Tensor, int], Tensor]
OnStep = Callable[[int, Tensor, Tensor], None]


def fill_hole(image: Tensor, mask: Tensor, filling: Tensor) -> Tensor:
    """`filling` where mask is 1, `image` elsewhere. mask: [B,1,H,W] or broadcastable, of any dtype, on any device."""
    mask = mask.to(filling)
    return (1 - mask) * image + mask * filling


def ddpm(
    diffusion: Diffusion,
    steps: Sequence[int],
    pred_x0_fn: PredX0,
    x1: Tensor,
    *,
    mask: Tensor | None = None,
    ot_ode: bool = False,
    randn: Noise = torch.randn_like,
    on_step: OnStep | None = None,
) -> Tensor:
    """The published sampler: predict x0, draw the next state from the posterior (Eq. 4), down to step 0.

    With a mask the known pixels are put back after each step, at that step's noise level.
    """
    xt = x1
    for n, nprev in zip(steps[:0:-1], steps[-2::-1]):
        pred_x0 = pred_x0_fn(xt, n).detach()
        xt = diffusion.p_posterior(nprev, n, xt, pred_x0, ot_ode, randn=randn)
        if mask is not None:
            known = x1 if ot_ode else x1 + diffusion.std_sb_list[nprev] * randn(x1)
            xt = fill_hole(known, mask, xt)
        if on_step is not None:
            on_step(nprev, xt, pred_x0)
    return xt


SAMPLERS: dict[str, Callable[..., Tensor]] = {"ddpm": ddpm}


def sample(
    name: str, diffusion: Diffusion, steps: Sequence[int], pred_x0_fn: PredX0, x1: Tensor, **options: Any
) -> Tensor:
    """Walk from x1 back to x0 with the sampler `name`.

    Args:
        name: a key of `SAMPLERS`.
        steps: ascending, from 0 to at most N - 1; the network is called at each but 0, from the last down.
        pred_x0_fn: (xt [B,C,H,W], step) -> predicted x0 [B,C,H,W].
        x1: the degraded images [B,C,H,W], a hole already filled with noise.
        options:
            mask: 1 in the hole, [B,1,H,W]; None: no pixel is known.
            ot_ode: no noise, the mean of each step.
            randn: source of noise, see `noise.Noise`.
            on_step: called as on_step(nprev, x_nprev, predicted x0) after each step.

    Raises:
        ValueError: an unknown sampler, or steps that do not ascend from 0 inside the schedule.
    """
    if name not in SAMPLERS:
        raise ValueError(f"unknown sampler {name!r}; choose one of {', '.join(SAMPLERS)}")
    steps = [int(n) for n in steps]
    if len(steps) < 2 or steps[0] != 0 or steps[-1] >= len(diffusion) or sorted(set(steps)) != steps:
        raise ValueError(
            f"steps must ascend from 0 to at most {len(diffusion) - 1}, two at least, got {steps[:5]}..{steps[-1:]}"
        )
    return SAMPLERS[name](diffusion, steps, pred_x0_fn, x1.detach().to(diffusion.device), **options).detach()
