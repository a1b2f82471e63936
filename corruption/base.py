"""What every degradation shares: checks, device and dtype that follow the input, tables as buffers.

Convention of all families: images are [B,3,S,S] in [-1,1], S divisible by 16; the output has the input's shape, device
and dtype and is not clamped (the published operators do not clamp either).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

SIZE_MULTIPLE = 16

Source = torch.Generator | Callable[[int, int], Tensor]
"""Where random integers come from: a generator, or a function (high, count) -> LongTensor [count]."""


class Corruption(nn.Module):
    """One degradation for images of S x S pixels.  Families override `degrade`, those with masks `forward`.

    Raises ValueError if `image_size` S is no positive multiple of 16.

    Tables are float32 buffers that no state dict holds; a call brings them to the input's device. Matrix products keep
    float32 whatever autocast says, but follow torch's global setting of TF32 (off by default), which puts about 1e-3 on
    blur and may flip roundings of jpeg.
    """

    name: ClassVar[str] = "corruption"  # set by the registry
    is_paired: ClassVar[bool] = False
    has_mask: ClassVar[bool] = False  # `forward` returns (image, mask)
    uses_mask_bank: ClassVar[bool] = False  # the constructor takes `mask_bank` besides `image_size`
    draws_noise: ClassVar[bool] = False  # `forward` takes `randn` besides, the source of the noise in its images

    # How the published results of a task were made; `corruption.registry.lookup(task)` reads them.
    beta_max: ClassVar[float] = 0.3
    ot_ode: ClassVar[bool] = False
    val_subset: ClassVar[Literal["10k", "full"]] = "10k"  # of ImageNet's validation set: Palette's 10,000, or all
    fid_split: ClassVar[Literal["val", "train"]] = "val"  # ImageNet's part whose statistics the FID compares with

    def __init__(self, image_size: int):
        super().__init__()
        if image_size < SIZE_MULTIPLE or image_size % SIZE_MULTIPLE:
            raise ValueError(f"image size {image_size}: must be a positive multiple of {SIZE_MULTIPLE}")
        self.image_size = image_size

    def forward(
        self, x: Tensor, index: Tensor | None = None, generator: Source | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Degrade a batch.

        Args:
            x: [B,3,S,S] floating point in [-1,1].
            index: LongTensor [B], the images' positions in the evaluation order; None in training.
            generator: source of this call's random draws (one number per image); None: torch's global one.

        Returns [B,3,S,S]; with `has_mask` also the mask [B,1,S,S] of x's dtype, 1 = hole.
        Raises ValueError if x has another shape than the operator was built for, or is not floating point.
        """
        self.check(x)
        # Not in float16 or bfloat16: their few digits would change what jpeg rounds to.
        wide = torch.promote_types(x.dtype, torch.float32)
        with _without_autocast(x.device):
            return self.degrade(x.to(wide)).to(x.dtype)

    def degrade(self, x: Tensor) -> Tensor:
        """The operator itself.  [B,3,S,S] float32 (or float64) -> same."""
        raise NotImplementedError(f"{type(self).__name__} must define degrade or forward")

    def check(self, x: Tensor) -> None:
        """Raise ValueError unless x is floating point of shape [B,3,S,S]."""
        size = self.image_size
        if x.shape[1:] != (3, size, size) or not x.is_floating_point():
            wanted = f"floating-point images [B, 3, {size}, {size}] in [-1,1]"
            raise ValueError(f"{self.name}: expected {wanted}, got {x.dtype} {list(x.shape)}")

    def add_table(self, name: str, values: np.ndarray | Tensor) -> None:
        """Keep a table as float32 buffer `name` (not every device has float64)."""
        self.register_buffer(name, torch.as_tensor(values).float(), persistent=False)

    def extra_repr(self) -> str:
        return f"{self.image_size} px"


def draw_integers(high: int, count: int, source: Source | None) -> Tensor:
    """[count] integers uniform in 0..high-1, on the CPU, from `source` or torch's global generator."""
    if callable(source):
        return source(high, count).cpu()
    device = source.device if source is not None else "cpu"
    return torch.randint(high, (count,), generator=source, device=device).cpu()


def check_index(index: Tensor, batch: int) -> Tensor:
    """`index` as int64 [B] on the CPU.  Raises ValueError unless it holds `batch` integers >= 0."""
    index = torch.as_tensor(index).cpu()
    if index.is_floating_point() or index.shape != (batch,) or (index < 0).any():
        raise ValueError(f"index: expected {batch} positions, counted from 0, got {index.dtype} {index.tolist()}")
    return index.long()


def _without_autocast(device: torch.device) -> AbstractContextManager:
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()
