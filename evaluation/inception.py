"""clean-fid's Inception features, batched on any device.

The networks and their weights are clean-fid's own; the resizing is written for whole batches (clean-fid
resizes image by image on the CPU), and `evaluation.weights` fetches the files, since clean-fid never times out
and leaves half a file behind when it is interrupted.
"""

import warnings
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evaluation import weights
from i2sb import addresses
from i2sb.options.metrics import MODES

TORCHSCRIPT_FOLDER = Path("/tmp")  # clean-fid's choice


class InceptionFeatures(nn.Module):
    """[B, 3, H, W] uint8 (or float in [0, 255]) -> features [B, 2048] float32, on the network's device."""

    def __init__(self, network: nn.Module, mode: str) -> None:
        super().__init__()
        self.network, self.mode = network.eval().requires_grad_(False), mode

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        x = resize(images.to(next(self.network.parameters()).device), self.mode)
        return self.network(x / 255)[0].flatten(1) if self.mode == "legacy_pytorch" else self.network(x)


def resize(images: Tensor, mode: str) -> Tensor:
    """clean-fid's resizer of this mode, for a batch: [B, 3, H, W] in [0, 255] -> float32 [B, 3, 299, 299] in [0, 255].

    "legacy_tensorflow" leaves the size alone, its network resizes inside.
    """
    x, size = images.float(), (299, 299)
    if mode == "legacy_pytorch":
        return F.interpolate(x, size, mode="bilinear", align_corners=False).clamp_(0, 255)
    if mode == "clean":  # PIL's bicubic filter in float: the one with a = -0.5 and antialiasing
        return F.interpolate(x, size, mode="bicubic", align_corners=False, antialias=True).clamp_(0, 255)
    return x


def build_inception(mode: str = "legacy_pytorch", device: str | torch.device = "cpu") -> InceptionFeatures:
    """clean-fid's feature network of `mode` (one of MODES).  Raises MetricUnavailable where it cannot be had."""
    from cleanfid.inception_pytorch import InceptionV3
    from cleanfid.inception_torchscript import InceptionV3W

    if mode not in MODES:
        raise ValueError(f"FID mode {mode!r} is unknown, choose one of {', '.join(MODES)}")
    remote, folder = addresses.INCEPTION_TORCHSCRIPT, TORCHSCRIPT_FOLDER
    if mode == "legacy_pytorch":
        # clean-fid finds the file in torch.hub's folder, and unpickles without restrictions: tensors only, please
        remote, folder = addresses.INCEPTION_PYTORCH, None
        weights.load(remote)
    path = weights.find(remote, folder)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # clean-fid calls torchvision and TorchScript in deprecated ways
            if mode == "legacy_pytorch":
                network = InceptionV3(output_blocks=[3], resize_input=False)
            else:
                network = InceptionV3W(str(path.parent), download=False, resize_inside=mode == "legacy_tensorflow")
    except (RuntimeError, AttributeError) as error:  # other keys or shapes, or not TorchScript
        raise weights.broken(remote, error, folder) from error
    return InceptionFeatures(network, mode).to(device)
