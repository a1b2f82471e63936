"""DISTS (Ding et al. 2020) and ARNIQA (Agnolucci et al. 2024): torchmetrics' networks, with weights that we fetch.

Both look at 8-bit pixels (rounded to nearest, as an image file would hold them) at the images' own size, like PSNR.
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


def build_arniqa(device: str | torch.device = "cpu") -> Callable[[Tensor], Tensor]:
    """ARNIQA, trained on KonIQ-10k: images [B,3,H,W] as for `psnr` -> quality [B] float32, about 0 to 1 (best).

    Raises MetricUnavailable where the weights cannot be had.
    """
    from torchmetrics.functional.image.arniqa import _ARNIQA

    class Network(_ARNIQA):
        def _load_weights(self) -> None:
            """In place of torchmetrics' own, which unpickles what it downloads."""
            _fill(self.encoder, addresses.ARNIQA_ENCODER, "model.")
            remote = addresses.ARNIQA_REGRESSOR
            state = weights.load(remote, script=True)
            try:
                self.regressor.load_state_dict({"weight": state["weights"], "bias": state["biases"].reshape(1)})
            except (KeyError, RuntimeError) as error:
                raise weights.broken(remote, error) from error

    network = Network().to(device).eval()

    @torch.no_grad()
    def judge(images: Tensor) -> Tensor:
        return network(_seen(images, device), normalize=True).reshape(-1)

    return judge


def _seen(images: Tensor, device: str | torch.device) -> Tensor:
    return nearest_uint8(images.to(device)).float() / 255


def _fill(module: nn.Module, remote: addresses.Remote, prefix: str) -> None:
    """Load the tensors of a module from a published file in which their names begin with `prefix`, among others."""
    state = {name.removeprefix(prefix): value for name, value in weights.load(remote).items()}
    try:
        module.load_state_dict({name: state[name] for name in module.state_dict()})
    except (KeyError, RuntimeError, AttributeError) as error:  # other keys, shapes, or no tensors
        raise weights.broken(remote, error) from error
