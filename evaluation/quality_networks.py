"""DISTS (Ding et al. 2020): torchmetrics' network, with weights that we fetch.

It looks at 8-bit pixels (rounded to nearest, as an image file would hold them) at the images' own size, like PSNR.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from unittest import mock

import torch
from torch import Tensor, nn

from evaluation import weights
from i2sb import addresses
from i2sb.pixels import nearest_uint8


def build_dists(device: str | torch.device = "cpu") -> Callable[[Tensor, Tensor], Tensor]:
    """DISTS: images and clean ones, both [B,3,H,W] as for `psnr` -> distances [B] float32, 0 where they are equal.

    Raises MetricUnavailable where the weights cannot be had.
    """
    from torchmetrics.functional.image import dists
    from torchvision.models import vgg

    features = vgg.make_layers(vgg.cfgs["D"], batch_norm=False)
    _fill(features, addresses.VGG16, "features.")
    # The class asks torchvision for VGG16, which would download and unpickle it; all else is in torchmetrics' package.
    with mock.patch.object(dists, "vgg16", return_value=SimpleNamespace(features=features)):
        network = dists.DISTSNetwork().to(device).eval().requires_grad_(False)
    return lambda images, clean: network(_seen(images, device), _seen(clean, device)).reshape(-1)


def _seen(images: Tensor, device: str | torch.device) -> Tensor:
    return nearest_uint8(images.to(device)).float() / 255


def _fill(module: nn.Module, remote: addresses.Remote, prefix: str) -> None:
    """Load the tensors of a module from a published file in which their names begin with `prefix`, among others."""
    state = {name.removeprefix(prefix): value for name, value in weights.load(remote).items()}
    try:
        module.load_state_dict({name: state[name] for name in module.state_dict()})
    except (KeyError, RuntimeError, AttributeError) as error:  # other keys, shapes, or no tensors
        raise weights.broken(remote, error) from error
