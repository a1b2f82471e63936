"""Restored images side by side with the clean and the degraded ones they come from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import default_collate

from dataset.images import WithChecksum
from i2sb.batch import degrade
from i2sb.errors import UserError
from i2sb.loader import ordered_loader
from i2sb.noise import ImageNoise
from i2sb.recon import Recon


class Triple(NamedTuple):
    """numbers: positions in the data set; the images [B,3,S,S], restored as stored; labels [B]."""

    numbers: list[int]
    clean: Tensor
    degraded: Tensor
    restored: Tensor
    labels: Tensor


def triples(
    recon: Recon, dataset: Any, corrupt: Callable, *, batch_size: int, num_workers: int, seed: int, device: str
) -> Iterator[Triple]:
    """All images in order.  The degraded ones are as people see them: holes are white.

    Raises UserError where an image file is no longer the one that was restored, or recon.pt is damaged (at its end).
    """
    batches = recon.batch_numbers(batch_size)
    loader = ordered_loader(WithChecksum(dataset), batches, num_workers=num_workers, device=device)
    # recon.pt first: when the others have ended, zip would not ask it for its end, where damage is found
    for restored, numbers, given in zip(recon.batches(batch_size), batches, loader):
        yield _triple(recon, dataset, numbers, given, restored, corrupt, seed, device)


def single_triple(recon: Recon, dataset: Any, corrupt: Callable, number: int, seed: int) -> Triple:
    """One image, as in `triples`, on the CPU."""
    given = default_collate([WithChecksum(dataset)[number]])
    return _triple(recon, dataset, [number], given, recon.take([number]), corrupt, seed, "cpu")


def _triple(
    recon: Recon, dataset: Any, numbers: list[int], given: Any, restored: Tensor, corrupt: Any, seed: int, device: str
) -> Triple:
    clean, labels, checksums = given
    for number, crc in zip(numbers, checksums.tolist()):
        if recon.checksums is not None and crc != recon.checksums[number]:
            name = dataset.short_name(dataset.samples[number][0])
            raise UserError(f"{name}: has changed since it was restored; put the former file back, or run sample.py")
    clean = clean.to(device, non_blocking=True)
    noise = ImageNoise(seed, numbers, device)
    degraded, _ = degrade(clean, corrupt, torch.tensor(numbers), randn=noise.randn_like)
    return Triple(numbers, clean, degraded, restored.to(device), labels)
