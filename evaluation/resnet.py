"""Classification accuracy: does a pretrained ResNet-50 still recognise the restored photograph?"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evaluation import weights
from i2sb import addresses

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
SIZE = 224
NUM_CLASSES = 1000


class Normalizer(nn.Module):
    """[B, 3, H, W] in [-1, 1] -> [B, 3, 224, 224], ImageNet-normalised: bicubic, no antialiasing, no clamp.

    The published accuracies were measured like this; torchvision's own recipe (resize 256, crop 224,
    antialiased) gives other ones.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = ((x + 1) / 2 - self.mean) / self.std
        return F.interpolate(x, size=(SIZE, SIZE), mode="bicubic", align_corners=False)


class ResNet50(nn.Module):
    """Images [B, 3, H, W] in [-1, 1] -> logits [B, 1000]."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.normalizer = Normalizer()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(self.normalizer(x))


def build_resnet50() -> ResNet50:
    """The pretrained classifier on the CPU, in eval mode, its weights frozen.

    Raises WeightsUnavailable where the weights are not here and cannot be fetched.
    """
    from torchvision.models import resnet50

    network = resnet50(weights=None)
    state = weights.load(addresses.RESNET50)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:  # other keys or shapes
        raise weights.broken(addresses.RESNET50, error) from error
    return ResNet50(network).eval().requires_grad_(False)


def top1(logits: Tensor, labels: Tensor) -> Tensor:
    """Per image, whether the most likely class is the right one: logits [B, K], labels [B] -> bool [B]."""
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(
            f"logits {list(logits.shape)} and labels {list(labels.shape)}, expected [B, K] and [B]"
        )
    return logits.argmax(dim=1) == labels.to(logits.device)


def why_no_accuracy(classes: Sequence[str]) -> str:
    """Empty where class i of the data set is ImageNet's class i; else the reason why accuracy means nothing.

    classes: the data set's class names in order; ImageNet's are 1000 sorted WordNet ids ("n01440764", ...).
    """
    wordnet = [name for name in classes if len(name) == 9 and name[0] == "n" and name[1:].isdigit()]
    if len(wordnet) == len(classes) == NUM_CLASSES and wordnet == sorted(set(wordnet)):
        return ""
    return f"needs ImageNet's {NUM_CLASSES} classes, this data set has {len(classes)} classes of its own"
