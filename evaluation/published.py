"""The published results, to be shown beside one's own.

Source: Liu et al., "I2SB: Image-to-Image Schrodinger Bridge", ICML 2023 (arXiv 2302.05872), with the
published checkpoints; ImageNet 256x256, NFE 999.  FID by clean-fid's "legacy_pytorch" features, against the
training set for sr4x-* and the validation set for the others; accuracy by torchvision's ResNet-50
(IMAGENET1K_V1).  sr4x-* on the 50,000 validation images, the others on the 10,000 of Palette's subset.
"""

from typing import NamedTuple

SOURCE = "Liu et al. 2023, arXiv 2302.05872: ImageNet 256x256, NFE 999"
IMAGE_SIZE = 256
NFE = 999


class Published(NamedTuple):
    fid: float
    accuracy: float  # per cent


PUBLISHED: dict[str, Published] = {
    "jpeg-5": Published(4.6, 67.9),
    "jpeg-10": Published(3.6, 72.1),
    "blur-uni": Published(3.9, 73.7),
    "blur-gauss": Published(3.0, 75.0),
    "sr4x-pool": Published(2.7, 71.0),
    "sr4x-bicubic": Published(2.8, 70.7),
    "inpaint-center": Published(4.9, 66.1),
    "inpaint-freeform1020": Published(2.9, 74.9),
    "inpaint-freeform2030": Published(3.2, 73.4),
}
