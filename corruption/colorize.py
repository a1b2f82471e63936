"""Colour from grey."""

import torch
from torch import Tensor

from .base import Corruption
from .registry import corruption

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, of gamma-corrected red, green and blue


@corruption("colorize")
class Grey(Corruption):
    """Luma in all three channels.  [B,3,H,W] in [-1,1] -> same."""

    baseline_name = "the grey image"
    channels = 3

    def degrade(self, x: Tensor) -> Tensor:
        return torch.einsum("c,bchw->bhw", x.new_tensor(LUMA), x)[:, None].expand_as(x).contiguous()
