"""All nine published degradations in one: one restoration network for images damaged in an unknown way.

As in the release: training draws one of the nine per image, evaluation takes kind = position mod 9; holes are filled
with noise, and no mask reaches the loss or the sampler.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from .base import Corruption, Source, check_index, draw_integers, noise_source
from .build import create_corruption, mask_bank_of
from .geometry import Size
from .mask_bank import MaskBank
from .names import PUBLISHED
from .registry import corruption

KINDS = tuple(name for name in PUBLISHED if name != "mixture")


@corruption("mixture")
class Mixture(Corruption):
    """One of the nine per image.  [B,C,S,S] in [-1,1] -> same, no mask.

    `mask_bank`: a function from kind ("freeform1020", "freeform2030") to masks or None; None: brush strokes.
    """

    any_size = False
    baseline_name = "each task's own baseline"
    uses_mask_bank = True
    draws_noise = True

    def __init__(self, image_size: Size, mask_bank: MaskBank | None = None):
        super().__init__(image_size)
        self.operators = nn.ModuleList(create_corruption(kind, image_size, mask_bank=mask_bank) for kind in KINDS)
        self.num_masks = min(op.source.count for op in self.operators if op.uses_mask_bank)

    def forward(
        self,
        x: Tensor,
        index: Tensor | None = None,
        generator: Source | None = None,
        randn: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """x [B,C,S,S] in [-1,1] -> [B,C,S,S].

        `randn(x)` gives the noise for the holes; None: standard normal, from `generator` if one is given. All is drawn
        for the whole batch, whatever kinds are in it: an image's draws then do not depend on its neighbours.
        """
        self.check(x)
        if index is None:
            kinds = draw_integers(len(KINDS), len(x), generator)
            mask_numbers = draw_integers(self.num_masks, len(x), generator)
        else:
            mask_numbers = check_index(index, len(x))
            kinds = mask_numbers % len(KINDS)
        noise = noise_source(generator, randn)(x)
        out = torch.empty_like(x)
        for kind in kinds.unique().tolist():
            rows = (kinds == kind).nonzero().squeeze(1)
            operator = self.operators[kind]
            if operator.has_mask:
                shown, mask = operator(x[rows], mask_numbers[rows])
                out[rows] = shown * (1 - mask) + noise[rows] * mask
            else:
                out[rows] = operator(x[rows], mask_numbers[rows])
        return out

    def baseline(self, x1: Tensor, mask: Tensor | None = None, index: Tensor | None = None) -> Tensor:
        """That of the kind at each position `index` of the evaluation order; without, the images themselves."""
        if index is None:
            return x1
        out, numbers = torch.empty_like(x1), check_index(index, len(x1))
        for row, (image, number) in enumerate(zip(x1.split(1), numbers.split(1))):
            operator = self.operators[number % len(KINDS)]
            hole = operator.masks(1, number, None).to(x1) if operator.has_mask else None
            out[row] = operator.baseline(image, hole)[0]
        return out


class MixtureCorruptDatasetTrain(Dataset):
    """Pairs for `Runner.train`: items (clean [3,S,S], degraded [3,S,S], class index), redrawn at each access.

    opt: `image_size` is read, and `freeform_bank` if present.  dataset: items (image [3,S,S] in [-1,1], class index).
    """

    def __init__(self, opt: Any, dataset: Any):
        self.dataset = dataset
        self.mixture = Mixture(opt.image_size, mask_bank_of(opt))

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor, int]:
        clean, label = self.dataset[i][:2]
        return clean, self.degrade(clean, i), label

    def degrade(self, clean: Tensor, i: int) -> Tensor:
        """[3,S,S] -> [3,S,S]; `i` is ignored."""
        return self.mixture(clean[None])[0]


class MixtureCorruptDatasetVal(MixtureCorruptDatasetTrain):
    """The same, but image i is degraded by kind i mod 9, with mask i and the same noise every time."""

    def degrade(self, clean: Tensor, i: int) -> Tensor:
        return self.mixture(clean[None], torch.tensor([i]), torch.Generator().manual_seed(i))[0]
