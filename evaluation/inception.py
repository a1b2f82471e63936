"""clean-fid's Inception features, batched on any device.

The networks and their weights are clean-fid's own; the resizing is written for whole batches (clean-fid
resizes image by image on the CPU), and the files are fetched here, since clean-fid waits for ever without
network and leaves half a file behind when it is interrupted.
"""

import platform
import warnings
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evaluation import weights
from i2sb import addresses

MODES = ("legacy_pytorch", "legacy_tensorflow", "clean")
NUM_FEATURES = 2048
SIZE = 299
# clean-fid's own choice of folder.
TORCHSCRIPT_FOLDER = Path() if platform.system() == "Windows" else Path("/tmp")


def resize(images: Tensor, mode: str) -> Tensor:
    """What clean-fid's resizer of this mode does, for a batch.

    images: [B, 3, H, W], uint8 or float in [0, 255].  Returns float32 in [0, 255], [B, 3, 299, 299];
    "legacy_tensorflow" leaves the size alone, its network resizes inside.
    """
    check_mode(mode)
    x = images.float()
    if mode == "legacy_pytorch":
        return F.interpolate(x, size=(SIZE, SIZE), mode="bilinear", align_corners=False).clamp_(0, 255)
    if mode == "clean":  # PIL's bicubic filter in float: the one with a = -0.5 and antialiasing
        return F.interpolate(x, (SIZE, SIZE), mode="bicubic", align_corners=False, antialias=True).clamp_(
            0, 255
        )
    return x


class InceptionFeatures(nn.Module):
    """[B, 3, H, W] uint8 (or float in [0, 255]) -> features [B, 2048] float32, on the network's device."""

    num_features = NUM_FEATURES

    def __init__(self, network: nn.Module, mode: str) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        self.mode = check_mode(mode)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"images are {list(images.shape)}, expected [B, 3, H, W]")
        x = resize(images.to(next(self.network.parameters()).device), self.mode)
        if self.mode == "legacy_pytorch":
            return self.network(x / 255)[0].flatten(1)
        return self.network(x)


def build_inception(mode: str = "legacy_pytorch", device: str | torch.device = "cpu") -> InceptionFeatures:
    """clean-fid's feature network of `mode` (one of MODES).

    Raises ValueError for an unknown mode, WeightsUnavailable where the weights are not here and cannot be
    fetched.
    """
    network = _pytorch_network() if check_mode(mode) == "legacy_pytorch" else _torchscript_network(mode)
    return InceptionFeatures(network, mode).to(device)


def check_mode(mode: str) -> str:
    """The mode itself.  Raises ValueError for one that clean-fid does not have."""
    if mode not in MODES:
        raise ValueError(f"FID mode {mode!r} is unknown, choose one of {', '.join(MODES)}")
    return mode


def _pytorch_network() -> nn.Module:
    from cleanfid.inception_pytorch import InceptionV3

    # clean-fid finds the file there, and unpickles without restrictions: only tensors may be inside.
    weights.load(addresses.INCEPTION_PYTORCH)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # clean-fid calls torchvision in a way that it no longer likes
            return InceptionV3(output_blocks=[3], resize_input=False)
    except RuntimeError as error:  # other keys or shapes
        raise weights.broken(addresses.INCEPTION_PYTORCH, error) from error


def _torchscript_network(mode: str) -> nn.Module:
    from cleanfid.inception_torchscript import InceptionV3W

    path = weights.find(addresses.INCEPTION_TORCHSCRIPT, TORCHSCRIPT_FOLDER)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TorchScript is old-fashioned, and what these weights come in
            return InceptionV3W(str(path.parent), download=False, resize_inside=mode == "legacy_tensorflow")
    except (RuntimeError, AttributeError) as error:
        raise weights.broken(addresses.INCEPTION_TORCHSCRIPT, error, TORCHSCRIPT_FOLDER) from error
