"""The plain versions that scripts/benchmark.py compares with, written straight from the formulas.

Contiguous memory, attention by einsum whose softmax is always computed again in the backward pass, tables built at each
call, an AdamW and an average that go from parameter to parameter, scipy's sqrtm.
"""

import copy
import io

import numpy as np
import scipy.linalg
import torch
from PIL import Image
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from torchvision import transforms

from corruption.blur import GaussBlur, spectrum
from corruption.jpeg import CHROMA_TABLE, CHROMA_TO_RGB, LUMA_TABLE, RGB_TO_YCC, dct_matrix, scaled_table
from corruption.superres import bicubic_matrix
from guided_diffusion.unet import AttentionBlock, ResBlock


class Attention(AttentionBlock):
    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.attend, x, use_reentrant=False) if torch.is_grad_enabled() else self.attend(x)

    def attend(self, x: Tensor) -> Tensor:
        qkv = self.qkv(self.norm(x).flatten(2))
        batch, channels, length = qkv.shape
        if self.use_new_attention_order:
            q, k, v = (part.reshape(batch * self.num_heads, -1, length) for part in qkv.chunk(3, dim=1))
        else:
            q, k, v = qkv.reshape(batch * self.num_heads, -1, length).chunk(3, dim=1)
        scale = q.shape[1] ** -0.25
        weights = torch.einsum("bct,bcs->bts", q * scale, k * scale).float().softmax(-1).to(v.dtype)
        h = torch.einsum("bts,bcs->bct", weights, v).reshape(batch, channels // 3, length)
        return x + self.proj_out(h).reshape(x.shape)


class Block(ResBlock):
    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        norm, silu, conv = self.in_layers
        h = conv(self._resample(silu(norm(x))))
        emb = self.emb_layers(emb)[:, :, None, None]
        norm, *rest = self.out_layers
        if self.use_scale_shift_norm:
            scale, shift = emb.chunk(2, dim=1)
            h = norm(h) * (1 + scale) + shift
        else:
            h = norm(h + emb)
        for layer in rest:
            h = layer(h)
        return self.skip_connection(self._resample(x)) + h


def plain(net: torch.nn.Module) -> torch.nn.Module:
    """A copy of the network with the blocks above."""
    net = copy.deepcopy(net).to(memory_format=torch.contiguous_format)
    for module in net.modules():
        module.__class__ = {AttentionBlock: Attention, ResBlock: Block}.get(type(module), type(module))
    return net


class TrainingStep:
    """Algorithm 1 for sr4x-pool, with the published defaults.  net(xt, step) -> label."""

    def __init__(self, net: torch.nn.Module, betas: np.ndarray, microbatch: int):
        self.net, self.betas, self.microbatch = net, betas, microbatch
        self.adam = torch.optim.AdamW(net.parameters(), lr=5e-5, weight_decay=0.0, foreach=False, fused=False)
        self.average = [p.detach().clone() for p in net.parameters()]

    def __call__(self, images: Tensor) -> None:
        for x0 in images.split(self.microbatch):
            forward = torch.tensor(np.cumsum(self.betas), dtype=torch.float32, device=x0.device)  # squared std_fwd
            backward = torch.tensor(np.cumsum(self.betas[::-1])[::-1].copy(), dtype=torch.float32, device=x0.device)
            step = torch.randint(len(self.betas), (len(x0),), device=x0.device)
            f, b = forward[step][:, None, None, None], backward[step][:, None, None, None]
            xt = (b * x0 + f * pool(x0)) / (f + b) + (f * b / (f + b)).sqrt() * torch.randn_like(x0)
            (self.net(xt, step) - (xt - x0) / f.sqrt()).square().mean().backward()
        self.optimize()

    def optimize(self) -> None:
        self.adam.step()
        self.adam.zero_grad()
        with torch.no_grad():
            for average, parameter in zip(self.average, self.net.parameters()):
                average.mul_(0.99).add_(parameter, alpha=0.01)


def like(table: np.ndarray, x: Tensor) -> Tensor:
    return torch.tensor(table, dtype=x.dtype, device=x.device)


def jpeg(x: Tensor, quality: int = 10) -> Tensor:
    dct = like(dct_matrix.__wrapped__(), x)

    def channel(plane: Tensor, table: np.ndarray) -> Tensor:
        blocks, table = plane.unfold(1, 8, 8).unfold(2, 8, 8) - 128, like(scaled_table(table, quality), x)
        found = (torch.einsum("ki,bhwij,lj->bhwkl", dct, blocks, dct) / table).round() * table
        blocks = torch.einsum("ki,bhwkl,lj->bhwij", dct, found, dct) + 128
        return blocks.transpose(2, 3).reshape(plane.shape)

    ycc = torch.einsum("kc,bchw->bkhw", like(RGB_TO_YCC, x), (x + 1) * 127.5)
    y = channel(ycc[:, 0], LUMA_TABLE)
    cb, cr = (channel(ycc[:, c, ::2, ::2] + 128, CHROMA_TABLE) - 128 for c in (1, 2))
    chroma = torch.stack([cb, cr], 1).repeat_interleave(2, 2).repeat_interleave(2, 3)
    rgb = y[:, None] + torch.einsum("kc,bchw->bkhw", like(CHROMA_TO_RGB, x), chroma)
    return rgb / 127.5 - 1


def enlarge(small: Tensor) -> Tensor:
    return small.repeat_interleave(4, 2).repeat_interleave(4, 3)


def pool(x: Tensor) -> Tensor:
    return enlarge(x.unfold(2, 4, 4).unfold(3, 4, 4).mean((-1, -2)))


def bicubic(x: Tensor) -> Tensor:
    matrix = like(bicubic_matrix(x.shape[-1]), x)
    return enlarge(torch.einsum("ij,bcjk,lk->bcil", matrix, x, matrix))


def blur(x: Tensor) -> Tensor:
    """blur-gauss, image by image."""
    u, v, gains = (like(table, x) for table in spectrum.__wrapped__(GaussBlur.kernel, x.shape[-1]))
    return torch.stack([u @ (v.T @ ((image + 1) / 2) @ v * gains) @ u.T * 2 - 1 for image in x])


def center(x: Tensor) -> Tensor:
    size = x.shape[-1]
    mask = torch.zeros(1, 1, size, size, device=x.device)
    mask[..., size // 4 : 3 * size // 4, size // 4 : 3 * size // 4] = 1
    return x * (1 - mask) + mask


CORRUPTIONS = {
    "jpeg-10": jpeg,
    "sr4x-pool": pool,
    "sr4x-bicubic": bicubic,
    "blur-gauss": blur,
    "inpaint-center": center,
}


def frechet_distance(mu1: np.ndarray, sigma1: np.ndarray, mu2: np.ndarray, sigma2: np.ndarray) -> float:
    root = scipy.linalg.sqrtm(sigma1 @ sigma2).real
    return ((mu1 - mu2) ** 2).sum() + np.trace(sigma1 + sigma2 - 2 * root)


def decode(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content)).convert("RGB")


def load_image(content: bytes, size: int) -> Tensor:
    steps = [transforms.Resize(size), transforms.CenterCrop(size), transforms.ToTensor()]
    return transforms.Compose(steps)(decode(content)) * 2 - 1
