"""Restored images side by side with the clean and the degraded ones they come from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import default_collate

from corruption import Corruption
from dataset.images import WithChecksum
from i2sb.batch import baseline, degrade, unpack
from i2sb.errors import UserError
from i2sb.loader import ordered_loader
from i2sb.noise import ImageNoise
from i2sb.recon import Recon


class Triple(NamedTuple):
    """numbers: positions in the data set; the images [B,C,H,W], restored as stored; labels [B].

    baseline: see `Corruption.baseline`; the same object as `degraded` where the task has no other.
    """

    numbers: list[int]
    clean: Tensor
    degraded: Tensor
    baseline: Tensor
    restored: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Triples:
    """The images of `recon` beside those of the data set; the degraded ones are as people see them: holes are white.

    seed: of sample.py, so that the degraded images see the same noise.
    with_baseline: else the degraded images stand in its place.
    """

    recon: Recon
    dataset: Any
    corrupt: Corruption
    seed: int
    device: str = "cpu"
    with_baseline: bool = True

    def batches(self, batch_size: int, num_workers: int) -> Iterator[Triple]:
        """All in order.  Raises UserError for an image file that changed since, and, at the end, a damaged recon.pt."""
        batches = self.recon.batch_numbers(batch_size)
        loader = ordered_loader(WithChecksum(self.dataset), batches, num_workers=num_workers, device=self.device)
        # recon.pt first: when the others have ended, zip would not ask it for its end, where damage is found
        for restored, numbers, given in zip(self.recon.batches(batch_size), batches, loader):
            yield self._triple(numbers, given, restored)

    def single(self, number: int) -> Triple:
        """One image, as in `batches`."""
        given = default_collate([WithChecksum(self.dataset)[number]])
        return self._triple([number], given, self.recon.take([number]))

    def _triple(self, numbers: list[int], loaded: Any, restored: Tensor) -> Triple:
        item, checksums = loaded
        given = unpack(item).to(self.device)
        for number, crc in zip(numbers, checksums.tolist()):
            if self.recon.checksums is not None and crc != self.recon.checksums[number]:
                name = self.dataset.short_name(self.dataset.samples[number][0])
                raise UserError(
                    f"{name}: has changed since it was restored; put the former file back, or run sample.py"
                )
        degraded, mask, index = given.x1, given.mask, torch.tensor(numbers)
        if degraded is None:
            noise = ImageNoise(self.seed, numbers, self.device)
            degraded, mask = degrade(given.x0, self.corrupt, index, randn=noise.randn_like)
        classical = baseline(degraded, self.corrupt, mask, index) if self.with_baseline else degraded
        return Triple(numbers, given.x0, degraded, classical, restored.to(self.device), given.labels)
