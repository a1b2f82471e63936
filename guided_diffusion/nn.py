"""The layers below the U-Net's blocks: normalisation, time embedding, attention, plain resampling."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .presets import NUM_GROUPS


class GroupNorm32(nn.GroupNorm):
    """Group normalisation (of 32 groups), computed in float32 (or wider).  [B,C,...] -> same shape and dtype.

    float16 would overflow in the variance of large activations.  On CPUs with channels last torch computes the
    variance as E[x^2] - E[x]^2, which has few digits where the mean is large: x is shifted by about its mean before.
    """

    def __init__(self, channels: int, num_groups: int = NUM_GROUPS):
        super().__init__(num_groups, channels, eps=1e-5)

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype == torch.bfloat16 and x.device.type == "cpu":  # the kernel itself computes in float32
            return F.group_norm(x, self.num_groups, self.weight, self.bias, self.eps).to(x.dtype)
        wide = torch.promote_types(x.dtype, torch.float32)
        h = x.to(wide)
        if x.device.type == "cpu" and has_channels_last(x):
            h = h - self._near_mean(x, wide) if h is x else h.sub_(self._near_mean(x, wide))
        h = F.group_norm(h, self.num_groups, self.weight.to(wide), self.bias.to(wide), self.eps)
        return h.to(x.dtype)

    @torch.no_grad()  # the result does not depend on the shift, and neither do gradients
    def _near_mean(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """The mean of each group over every eighth row and column.  [B,C,H,W] -> [B,C,1,1]."""
        groups = x[:, :, ::8, ::8].unflatten(1, (self.num_groups, -1))
        return groups.mean((2, 3, 4), keepdim=True, dtype=dtype).expand(*groups.shape[:3], 1, 1).flatten(1, 2)


class Downsample(nn.Module):
    """Half the height and width by a 3x3 convolution of stride 2.  [B,C,H,W] -> [B,C,H/2,W/2]."""

    def __init__(self, channels: int):
        super().__init__()
        self.op = conv3x3(channels, channels, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class Upsample(nn.Module):
    """Twice the height and width: nearest neighbour, then a 3x3 convolution.  [B,C,H,W] -> [B,C,2H,2W]."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = conv3x3(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


def conv3x3(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    """The 3x3 convolution that keeps the size (at stride 1)."""
    return nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1)


def has_channels_last(x: Tensor) -> bool:
    """Whether the channels of [B,C,H,W] lie next to each other in memory."""
    return x.ndim == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)


def zero(module: nn.Module) -> nn.Module:
    """Set all parameters of `module` to zero and return it: a block ending in it starts as the identity."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def timestep_embedding(t: Tensor, channels: int) -> Tensor:
    """[cos | sin] of t * 10000^(-i/half), i < half = channels/2.  [B] -> float32 [B,channels], even."""
    half = channels // 2
    i = torch.arange(half, dtype=torch.float32, device=t.device)
    angles = t[:, None].float() * torch.exp(-math.log(10_000) * i / half)
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def pointwise(conv: nn.Conv1d, tokens: Tensor) -> Tensor:
    """Apply a Conv1d of kernel size 1 to channels-last tokens.  [B,L,C] -> [B,L,out_channels].

    The weights keep ADM's Conv1d shape; as a matrix product they need no copy of channels-last activations.
    """
    return F.linear(tokens, conv.weight.squeeze(2), conv.bias)


def multi_head_attention(qkv: Tensor, num_heads: int, *, qkv_first: bool) -> Tensor:
    """softmax(q k^T / sqrt(d)) v in each head.  [B,L,3C] -> [B,L,C].

    The 3C channels are split into heads first, then into q|k|v inside each head (ADM's older order), or, with
    `qkv_first`, into q|k|v first and then into heads (its newer one).  scaled_dot_product_attention keeps the
    softmax in float32 in all its kernels, also for float16 and bfloat16.
    """
    if qkv_first:
        q, k, v = qkv.unflatten(2, (3, num_heads, -1)).unbind(2)
    else:
        q, k, v = qkv.unflatten(2, (num_heads, 3, -1)).unbind(3)
    h = F.scaled_dot_product_attention(*(part.transpose(1, 2) for part in (q, k, v)))  # [B,heads,L,d]
    return h.transpose(1, 2).flatten(2)
