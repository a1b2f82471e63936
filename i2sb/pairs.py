"""Restored images side by side with the clean and the degraded ones they come from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

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


def check_pairs(recon: Recon, dataset: Any, what: str, image_size: int) -> None:
    """Raise a UserError unless the restored images can be those of the data set."""
    if len(recon) != len(dataset):
        raise UserError(
            f"{what}: holds {len(recon)} images, the data set has {len(dataset)}; give the same --dataset-dir and "
            "--val-list as to sample.py"
        )
    if recon.image_shape[-2:] != (image_size, image_size):
        height, width = recon.image_shape[-2:]
        raise UserError(f"{what}: its images have {height}x{width} pixels; give --image-size {width}")
    targets = torch.tensor([label for _, label in dataset.samples])
    if not torch.equal(recon.labels.long(), targets):
        wrong = int((recon.labels.long() != targets).sum())
        raise UserError(f"{what}: {wrong} of its {len(recon)} labels are not the data set's: it is of other images")


def triples(
    recon: Recon,
    dataset: Any,
    corrupt: Callable,
    *,
    batch_size: int,
    num_workers: int = 0,
    seed: int = 0,
    device: str = "cpu",
) -> Iterator[Triple]:
    """All images in order.  The degraded ones are as people see them: holes are white."""
    restored = recon.batches(batch_size)
    numbers, batches = 0, []
    for count in recon.batch_sizes(batch_size):
        batches.append(list(range(numbers, numbers + count)))
        numbers += count
    loader = ordered_loader(dataset, batches, num_workers=num_workers, device=device)
    for batch, (clean, labels), images in zip(batches, loader, restored):
        yield _triple(batch, clean, labels, images, corrupt, seed, device)


def chosen_triple(
    recon: Recon, dataset: Any, corrupt: Callable, numbers: Sequence[int], *, seed: int = 0, device: str = "cpu"
) -> Triple:
    """The images of these numbers only (one at least), as in `triples`; nothing else is read."""
    items = [dataset[number] for number in numbers]
    clean, labels = torch.stack([image for image, _ in items]), torch.tensor([label for _, label in items])
    return _triple(list(numbers), clean, labels, recon.take(numbers), corrupt, seed, device)


def _triple(
    numbers: list[int], clean: Tensor, labels: Tensor, restored: Tensor, corrupt: Callable, seed: int, device: str
) -> Triple:
    clean = clean.to(device, non_blocking=True)
    noise = ImageNoise(seed, numbers, device)
    degraded, _ = degrade(clean, corrupt, torch.tensor(numbers), randn=noise.randn_like)
    return Triple(numbers, clean, degraded, restored.to(device), labels)
