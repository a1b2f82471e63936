"""Where the noise comes from: one source for training, another for restoring images."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor

Noise = Callable[[Tensor], Tensor]
"""torch.randn_like, or anything that answers like it: standard normal noise of an image's shape."""


class TrainingDraws:
    """Random numbers of a rank's micro-batch: an image draws the same whatever the number of ranks.

    Every rank draws for all ranks and keeps its own rows.  One process draws from torch's global generator, in the
    published order; several have separate generators, so that dropout does not shift the ranks apart.

    Args:
        rank, world_size: this rank keeps rows rank * B to (rank + 1) * B.
        device: where the noise is drawn.
        seed: of the separate generators.
    """

    def __init__(self, rank: int = 0, world_size: int = 1, device: torch.device | str = "cpu", seed: int = 0):
        self.rank, self.world_size = rank, world_size
        self.on_cpu = self.on_device = None
        if world_size > 1:
            self.on_cpu = self.on_device = torch.Generator().manual_seed(seed)
            if torch.device(device).type != "cpu":
                self.on_device = torch.Generator(device).manual_seed(seed)

    def integers(self, high: int, count: int) -> Tensor:
        """LongTensor [count] on the CPU, uniform in 0 .. high-1."""
        return self._own(torch.randint(0, high, (self.world_size * count,), generator=self.on_cpu))

    def randn_like(self, x: Tensor) -> Tensor:
        """Standard normal noise of x's shape, dtype and device, drawn in NCHW order whatever x's memory layout."""
        shape = (self.world_size * len(x), *x.shape[1:])
        return self._own(torch.randn(shape, dtype=x.dtype, device=x.device, generator=self.on_device))

    def _own(self, drawn: Tensor) -> Tensor:
        count = len(drawn) // self.world_size
        return drawn[self.rank * count : (self.rank + 1) * count]

    def state_dict(self) -> dict[str, Tensor]:
        """States of the separate generators; empty with one process."""
        if self.on_cpu is None:
            return {}
        return {"cpu": self.on_cpu.get_state(), "device": self.on_device.get_state()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from `state_dict`; a GPU's generator stays as it is where the state is a CPU's, and vice versa."""
        if self.on_cpu is None or not state:
            return
        self.on_cpu.set_state(state["cpu"].cpu())
        on_device = state["device"].cpu()
        if self.on_device is not self.on_cpu and len(on_device) == len(self.on_device.get_state()):
            self.on_device.set_state(on_device)


class ImageNoise:
    """Noise from one generator per image, seeded by (seed, image's position in the data set).

    A restored image then does not depend on batch size, order, number of GPUs, or partition; only on the kind of
    device.
    """

    def __init__(self, seed: int, numbers: Iterable[int], device: torch.device | str = "cpu"):
        base = int(np.random.SeedSequence(seed).generate_state(1)[0])
        # Torch's CPU generator takes 32 bits of a seed: consecutive ones never meet within a data set.
        self._generators = [torch.Generator(device).manual_seed((base + int(number)) % 2**32) for number in numbers]

    def randn_like(self, x: Tensor) -> Tensor:
        """Standard normal noise of x's shape, dtype and device; row i from generator i."""
        if len(x) != len(self._generators):
            raise ValueError(f"noise for {len(self._generators)} images was asked for {len(x)}")
        like = {"dtype": x.dtype, "device": x.device}
        return torch.stack([torch.randn(x.shape[1:], generator=g, **like) for g in self._generators])
