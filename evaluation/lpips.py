"""LPIPS: how different two images look, as AlexNet's features tell (Zhang et al. 2018, version 0.1).

The network and the learned weights of its features are torchmetrics'; AlexNet's own weights are torchvision's.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from evaluation import weights
from i2sb import addresses
from i2sb.pixels import nearest_uint8, to_float

MIN_SIZE = 31  # pixels: less vanishes in AlexNet's pooling


class Lpips(nn.Module):
    """Images and clean ones, both [B, 3, H, W] -> distances [B] float32, 0 where they are equal.

    float in about [-1, 1] (clamped) or uint8.  Measured at the images' own size on 8-bit pixels (rounded to
    nearest, as an image file would hold them), like PSNR and SSIM.
    Raises ValueError where the two differ in shape, are smaller than 31x31, or hold values that are not finite.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.eval().requires_grad_(False)

    @torch.no_grad()
    def forward(self, images: Tensor, clean: Tensor) -> Tensor:
        if images.ndim != 4 or images.shape[1] != 3 or images.shape != clean.shape:
            raise ValueError(f"images {list(images.shape)} and clean {list(clean.shape)} must be the same [B, 3, H, W]")
        if min(images.shape[-2:]) < MIN_SIZE:
            size = "x".join(map(str, images.shape[-2:]))
            raise ValueError(f"images are {size} pixels, LPIPS needs at least {MIN_SIZE}x{MIN_SIZE}")
        device = next(self.network.parameters()).device
        seen = (to_float(nearest_uint8(x.to(device))) for x in (images, clean))
        return self.network(*seen).reshape(-1)


def build_lpips(device: str | torch.device = "cpu") -> Lpips:
    """LPIPS with pretrained weights, in eval mode, frozen.

    Raises WeightsUnavailable where the weights are not here and cannot be fetched.
    """
    from torchmetrics.functional.image import lpips

    # torchmetrics' public function makes a new network at each call, and lets torchvision download and unpickle
    # AlexNet.  The class behind it loads the features' learned weights from its own package, without running
    # anything (torch.load's default since 2.6), and with pnet_rand leaves AlexNet random, to be filled here.
    network = lpips._LPIPS(net="alex", pnet_rand=True)
    state = weights.load(addresses.ALEXNET)
    try:
        # torchvision's "features.3.weight" is "slice2.3.weight" here.
        layers = {key: state[f"features.{key.partition('.')[2]}"] for key in network.net.state_dict()}
        network.net.load_state_dict(layers)
    except (KeyError, RuntimeError, AttributeError) as error:  # other keys, shapes, or no tensors
        raise weights.broken(addresses.ALEXNET, error) from error
    return Lpips(network).to(device)
