"""LPIPS: how different two images look, as AlexNet's features tell (Zhang et al. 2018, version 0.1).

The network and the learned weights of its features are torchmetrics'; AlexNet's own weights are torchvision's.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from evaluation import weights
from i2sb import addresses
from i2sb.pixels import nearest_uint8, to_float


def build_lpips(device: str | torch.device = "cpu") -> Callable[[Tensor, Tensor], Tensor]:
    """Images and clean ones, both [B,3,H,W] as for `psnr`, at least 31x31 -> distances [B] float32, 0 where equal.

    Measured at the images' own size on 8-bit pixels, like PSNR.  Raises MetricUnavailable where the weights cannot be
    had.
    """
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
    network = network.to(device).eval().requires_grad_(False)
    return lambda images, clean: network(*(to_float(nearest_uint8(x.to(device))) for x in (images, clean))).reshape(-1)
