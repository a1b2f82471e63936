"""What anyone has without a network: the longer parts of `Corruption.baseline`."""

import numpy as np
import torch
from scipy import sparse
from scipy.sparse.linalg import splu
from torch import Tensor

NOISE_TO_SIGNAL = 0.003
"""Of Wiener filters: noise/signal is 0.003 f^2 at f cycles per pixel.

Noise: of rounding to 8 bits, 255^-2 / 12; signal: 5e-4 / f^2, measured on photographs of 256 px.  Of 1e-5, 3e-5, ..,
3e-2 it also gives the highest mean PSNR on 17 photographs for six of seven blurs (blur-gauss-1: 0.01 is 0.15 dB
better), and up to 0.7 dB more than the best constant ratio."""


def as_file(x: Tensor) -> Tensor:
    """As an 8-bit file holds images in [-1,1]: cut and rounded; float16 and bfloat16 become float32."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    return ((x.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1


def wiener(y: Tensor, kernel: np.ndarray) -> Tensor:
    """Wiener's filter conj(h) / (|h|^2 + noise/signal), h the spectrum of `kernel` [K] along rows and columns.

    y: [B,C,H,W], blurred as by `TextbookBlur`; returns the same in float64.  The mirrored image is periodic: with odd K
    nothing is approximated at the borders.
    """
    (height, width), taps = y.shape[2:], np.arange(len(kernel)) - len(kernel) // 2
    # An even kernel's pixels lie half a pixel up and to the left: their mirror is a pixel, not an edge
    rows, columns = (np.r_[:n, n - 1, n - 1 : 0 : -1] if len(kernel) % 2 == 0 else np.r_[:n, n - 1 : -1 : -1]
                     for n in (height, width))  # fmt: skip
    f, g = np.fft.fftfreq(2 * height), np.fft.rfftfreq(2 * width)
    h = np.outer(*(np.exp(2j * np.pi * np.outer(axis, taps)) @ kernel for axis in (f, g)))
    filter_ = h.conj() / (np.abs(h) ** 2 + NOISE_TO_SIGNAL * (f[:, None] ** 2 + g**2))
    spectrum = torch.fft.rfft2(y.double().cpu()[..., rows, :][..., columns])
    return torch.fft.irfft2(spectrum * torch.from_numpy(filter_), s=(2 * height, 2 * width))[..., :height, :width]


def harmonic(image: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Laplace's equation: each missing pixel is the mean of its neighbours above, below, left and right.

    image: [C,H,W]; hole: bool [H,W].  Returns float64 [C,H,W]; where no pixel is known, the image as it is.
    """
    flat, missing = image.reshape(len(image), -1).astype(np.float64), hole.ravel()
    if missing.all() or not missing.any():
        return flat.reshape(image.shape)
    pixels = np.arange(hole.size).reshape(hole.shape)
    pairs = [(pixels[1:], pixels[:-1]), (pixels[:, 1:], pixels[:, :-1])]
    pairs = np.concatenate([np.stack(pair).reshape(2, -1) for pair in pairs], axis=1)
    here, there = np.concatenate([pairs, pairs[::-1]], axis=1)
    here, there = here[missing[here]], there[missing[here]]
    row = (np.cumsum(missing) - 1)[here]
    neighbours = sparse.csc_matrix((np.ones(len(row)), (row, there)), shape=(row.max() + 1, hole.size))
    matrix = sparse.diags(np.bincount(row).astype(float)) - neighbours[:, missing]
    solver = splu(matrix.tocsc(), permc_spec="MMD_AT_PLUS_A", options={"SymmetricMode": True})
    flat[:, missing] = solver.solve(neighbours[:, ~missing] @ flat[:, ~missing].T).T
    return flat.reshape(image.shape)
