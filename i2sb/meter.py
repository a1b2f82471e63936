"""Averages of what a training reports, gathered on the device."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import torch
from torch import Tensor

from i2sb.runtime.distributed import mean_over_ranks


class Meter:
    """Means of loss and gradient norm, and the speed [images/s, all ranks]; only `read` waits for the device."""

    def __init__(self, device: torch.device, batch_size: int):
        self.batch_size = batch_size
        self._sums = torch.zeros(2, device=device)
        self._count, self._since = 0, time.perf_counter()

    def add(self, loss: Tensor, norm: Tensor) -> None:
        """Take note of one iteration."""
        self._sums += torch.stack([loss, norm])
        self._count += 1

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """The time of the block does not count."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self._since += time.perf_counter() - begin

    def read(self) -> dict[str, float]:
        """Means since the last call, over all ranks."""
        loss, norm = (mean_over_ranks(self._sums) / max(1, self._count)).tolist()
        now = time.perf_counter()
        speed = self._count * self.batch_size / max(1e-9, now - self._since)
        self._sums.zero_()
        self._count, self._since = 0, now
        return {"loss": loss, "grad_norm": norm, "images_per_second": speed}
