"""Classification accuracy: does a pretrained ResNet-50 still recognise the restored photograph?"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evaluation import weights
from i2sb import addresses


class Normalizer(nn.Module):
    """[B, 3, H, W] in [-1, 1] -> [B, 3, 224, 224], ImageNet-normalised: bicubic, no antialiasing, no clamp.

    As published; torchvision's own recipe (resize 256, crop 224, antialiased) gives other accuracies.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = ((x + 1) / 2 - self.mean) / self.std
        return F.interpolate(x, size=(224, 224), mode="bicubic", align_corners=False)


def build_resnet50() -> nn.Module:
    """The pretrained classifier, images [B, 3, H, W] in [-1, 1] -> logits [B, 1000]; on the CPU, in eval mode, frozen.

    Raises MetricUnavailable where the weights cannot be had.
    """
    from torchvision.models import resnet50

    network = resnet50(weights=None)
    state = weights.load(addresses.RESNET50)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:  # other keys or shapes
        raise weights.broken(addresses.RESNET50, error) from error
    return nn.Sequential(Normalizer(), network).eval().requires_grad_(False)


def top1(logits: Tensor, labels: Tensor) -> Tensor:
    """Per image, whether the most likely class is the right one: logits [B, K], labels [B] -> bool [B]."""
    return logits.argmax(dim=1) == labels.to(logits.device)
