"""LPIPS: how different two images look, as AlexNet's features tell (Zhang et al. 2018, version 0.1).

The network and the learned weights of its features are torchmetrics'; AlexNet's own weights are torchvision's.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from evaluation import weights
from i2sb import addresses
from i2sb.pixels import nearest_uint8, to_float

MIN_SIZE = 31  # pixels: fewer vanish in AlexNet's pooling


class Lpips(nn.Module):
    """Images and clean ones, both [B, 3, H, W] -> distances [B] float32, 0 where they are equal.

    float in about [-1, 1] (clamped) or uint8.  Measured at the images' own size on 8-bit pixels (rounded to
    nearest, as an image file would hold them), like PSNR and SSIM.
    Raises ValueError where the two differ in shape, are smaller than 31x31, or hold NaN or inf.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.eval().requires_grad_(False)

    @torch.no_grad()
    def forward(self, images: Tensor, clean: Tensor) -> Tensor:
        if images.shape != clean.shape or min(images.shape[-2:]) < MIN_SIZE:
            shapes = f"{list(images.shape)} and clean {list(clean.shape)}"
            raise ValueError(f"images {shapes} must be the same [B, 3, H, W], LPIPS needs at least {MIN_SIZE} pixels")
        device = next(self.network.parameters()).device
        return self.network(*(to_float(nearest_uint8(x.to(device))) for x in (images, clean))).reshape(-1)


def build_lpips(device: str | torch.device = "cpu") -> Lpips:
    """LPIPS with pretrained weights.  Raises MetricUnavailable where they cannot be had."""
    from torchmetrics.functional.image import lpips

    # torchmetrics' public function makes a new network at each call, and lets torchvision download and unpickle
    # AlexNet.  The class behind it loads the features' learned weights from its own package, and with pnet_rand
    # leaves AlexNet random, to be filled here.
    network = lpips._LPIPS(net="alex", pnet_rand=True)
    state = weights.load(addresses.ALEXNET)
    try:  # torchvision's "features.3.weight" is "slice2.3.weight" here
        layers = {key: state[f"features.{key.partition('.')[2]}"] for key in network.net.state_dict()}
        network.net.load_state_dict(layers)
    except (KeyError, RuntimeError, AttributeError) as error:  # other keys, shapes, or no tensors
        raise weights.broken(addresses.ALEXNET, error) from error
    return Lpips(network).to(device)
