"""What every degradation shares: checks, device and dtype that follow the input, tables as buffers.

Convention of all families: images are [B,C,H,W] in [-1,1], of any number of channels; the output has the input's
shape, device and dtype and is not clamped (the published operators do not clamp either).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from .geometry import Size, height_width

SIZE_MULTIPLE = 16

Source = torch.Generator | Callable[[int, int], Tensor]
"""Where random integers come from: a generator, or a function (high, count) -> LongTensor [count]."""


class Corruption(nn.Module):
    """One degradation for images of one size: S, or (H, W).  Families override `degrade`, those with masks `forward`.

    Raises ValueError if the operator is not defined for images of this size.

    Tables are float32 buffers that no state dict holds; a call brings them to the input's device. Matrix products keep
    float32 whatever autocast says, but follow torch's global setting of TF32 (off by default), which puts about 1e-3 on
    blur and may flip roundings of jpeg.
    """

    name: ClassVar[str] = "corruption"  # set by the registry
    any_size: ClassVar[bool] = True  # H, W >= 1; else squares of a multiple of 16 only
    channels: ClassVar[int | None] = None  # the one number of channels that it is defined for; None: any
    scale: ClassVar[int] = 1  # of super-resolution; its classes have `enlarge` besides
    is_paired: ClassVar[bool] = False  # the data bring their degraded images, the operator is never called
    has_mask: ClassVar[bool] = False  # `forward` returns (image, mask)
    uses_mask_bank: ClassVar[bool] = False  # the constructor takes `mask_bank` besides `image_size`
    file_sha256: ClassVar[str | None] = None  # of the user's file that it is from, see `registry.load_file`
    baseline_name: ClassVar[str] = "the degraded image"  # what `baseline` gives
    draws_noise: ClassVar[bool] = False  # `degrade` takes `randn` besides, the source of the noise in its images

    # How the published results of a task were made; `corruption.registry.lookup(task)` reads them.
    beta_max: ClassVar[float] = 0.3
    ot_ode: ClassVar[bool] = False
    val_subset: ClassVar[Literal["10k", "full"]] = "10k"  # of ImageNet's validation set: Palette's 10,000, or all
    fid_split: ClassVar[Literal["val", "train"]] = "val"  # ImageNet's part whose statistics the FID compares with

    def __init__(self, image_size: Size):
        super().__init__()
        self.image_size = self.height, self.width = height_width(image_size)
        if min(self.image_size) < 1:
            raise ValueError(f"image size {self.height}x{self.width}: must be at least 1x1")
        if not self.any_size and (self.height != self.width or self.height % SIZE_MULTIPLE):
            raise ValueError(
                f"{self.name}: is defined for squares of a multiple of {SIZE_MULTIPLE} pixels, "
                f"not for {self.height}x{self.width}"
            )

    def forward(
        self,
        x: Tensor,
        index: Tensor | None = None,
        generator: Source | None = None,
        randn: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Degrade a batch.

        Args:
            x: [B,C,H,W] floating point in [-1,1].
            index: LongTensor [B], the images' positions in the evaluation order; None in training.
            generator: source of this call's random draws (one number per image); None: torch's global one.
            randn: with `draws_noise`, the source of noise like x; None: standard normal, from `generator` if one is
                given.

        Returns [B,C,H,W]; with `has_mask` also the mask [B,1,H,W] of x's dtype, 1 = hole.
        Raises ValueError if x has another shape than the operator was built for, or is not floating point.
        """
        self.check(x)
        # Not in float16 or bfloat16: their few digits would change what jpeg rounds to.
        # A user's operator may write into its input: it gets a copy.
        wide = x.to(torch.promote_types(x.dtype, torch.float32), copy=self.file_sha256 is not None)
        with _without_autocast(x.device):
            out = self.degrade(wide, noise_source(generator, randn)) if self.draws_noise else self.degrade(wide)
        fault = None
        if not isinstance(out, Tensor) or out.shape != x.shape:
            fault = list(out.shape) if isinstance(out, Tensor) else type(out).__name__
        elif self.file_sha256 and not out.isfinite().all():
            fault = "NaN or inf"
        if fault:
            code = type(self).degrade.__code__
            place = f"{code.co_filename}, line {code.co_firstlineno}"
            raise ValueError(f"{place}: degrade of {self.name} turned {list(x.shape)} into {fault}")
        return out.to(x.dtype)

    def degrade(self, x: Tensor) -> Tensor:
        """The operator itself.  [B,C,H,W] float32 (or float64) -> same.

        With `draws_noise` the second argument is `randn`: noise = randn(x), so that an image has the same noise
        whenever it is restored or judged.
        """
        raise NotImplementedError(f"{type(self).__name__} must define degrade or forward")

    def baseline(self, x1: Tensor, mask: Tensor | None = None) -> Tensor:
        """The classical answer that a user has without a network; what restored images are compared with.

        x1: degraded images [B,C,H,W], about [-1,1], of the operator's size; mask: [B,1,H,W], 1 = hole.  Returns the
        same shape, device and dtype.  By default the degraded images themselves.
        """
        return x1

    def check(self, x: Tensor) -> None:
        """Raise ValueError unless x is floating point of shape [B,C,H,W]."""
        fits = x.ndim == 4 and x.shape[2:] == self.image_size and x.shape[1] == (self.channels or x.shape[1])
        if not fits or not x.is_floating_point():
            shape = f"[B, {self.channels or 'C'}, {self.height}, {self.width}]"
            raise ValueError(
                f"{self.name}: expected floating-point images {shape} in [-1,1], got {x.dtype} {list(x.shape)}"
            )

    def add_table(self, name: str, values: np.ndarray | Tensor) -> None:
        """Keep a table as float32 buffer `name` (not every device has float64)."""
        self.register_buffer(name, torch.as_tensor(values).float(), persistent=False)

    def extra_repr(self) -> str:
        square = self.height == self.width
        return f"{self.height} px" if square else f"{self.height}x{self.width} px"


def draw_integers(high: int, count: int, source: Source | None) -> Tensor:
    """[count] integers uniform in 0..high-1, on the CPU, from `source` or torch's global generator."""
    if callable(source):
        return source(high, count).cpu()
    device = source.device if source is not None else "cpu"
    return torch.randint(high, (count,), generator=source, device=device).cpu()


def noise_source(
    generator: Source | None, randn: Callable[[Tensor], Tensor] | None = None
) -> Callable[[Tensor], Tensor]:
    """`randn`; where there is none, standard normal noise from `generator`, or from torch's global one."""
    if randn is not None:
        return randn
    if not isinstance(generator, torch.Generator):
        return torch.randn_like
    like = {"generator": generator, "device": generator.device}
    return lambda x: torch.randn(x.shape, dtype=x.dtype, **like).to(x.device)


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
