"""Every address that files are fetched from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Remote:
    """A file to fetch: its name here, what it is, its address, and what is known of its content.

    size: in bytes. sha256: hexadecimal, or its first digits (the names of PyTorch's files hold eight).
    """

    name: str
    what: str
    url: str
    size: int | None = None
    sha256: str | None = None


def _remote(what: str, url: str, **known: Any) -> Remote:
    """A file that keeps the name it has at its address."""
    return Remote(url.rpartition("/")[2], what, url, **known)


_ADM = "https://openaipublic.blob.core.windows.net/diffusion/jul-2021"
_TORCH = "https://download.pytorch.org/models"
_ARNIQA = "https://github.com/miccunifi/ARNIQA/releases/download/weights"

ADM_WEIGHTS = _remote("the pretrained ADM weights", f"{_ADM}/256x256_diffusion_uncond.pt")
FID_TRAIN_STATISTICS = _remote(
    "the FID statistics of ImageNet's training set",
    f"{_ADM}/ref_batches/imagenet/256/VIRTUAL_imagenet256_labeled.npz",
)
VAL_10K_LIST = _remote(
    "the list of the 10k validation images",
    "https://raw.githubusercontent.com/NVlabs/I2SB/master/dataset/val_faster_imagefolder_10k_fn.txt",
    size=640_000,
    sha256="3aaa918ba6123ed0460dcfc09b77f6c27867f760ece383ab2f0a895099af397c",
)
FREEFORM_BANK = Remote(
    "imagenet_freeform_masks.npz",
    "the freeform masks",
    "https://drive.google.com/file/d/1-5YRGsekjiRKQWqo0BV5RVQu0bagc12w/view",
)

# Networks that images are judged with: torchvision's IMAGENET1K_V1, and clean-fid's two forms of Inception.
RESNET50 = _remote("the ResNet-50 weights", f"{_TORCH}/resnet50-0676ba61.pth", sha256="0676ba61")
ALEXNET = _remote("the AlexNet weights (for LPIPS)", f"{_TORCH}/alexnet-owt-7be5be79.pth", sha256="7be5be79")
VGG16 = _remote("the VGG16 weights (for DISTS)", f"{_TORCH}/vgg16-397923af.pth", sha256="397923af")
ARNIQA_ENCODER = _remote("ARNIQA's encoder", f"{_ARNIQA}/ARNIQA.pth")
ARNIQA_REGRESSOR = _remote("ARNIQA's regressor", f"{_ARNIQA}/regressor_koniq10k.pth")
INCEPTION_PYTORCH = _remote(
    "the Inception weights",
    "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
    sha256="6726825d",
)
INCEPTION_TORCHSCRIPT = _remote(
    "the Inception weights",
    "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt",
)

# Google Drive folders by task, each with latest.pt and options.pkl
CHECKPOINT_FOLDERS = {
    "jpeg-5": "17bPMUX5yBcL8YTN8nbfJT6WHXU6CNLd7",
    "jpeg-10": "13on7v54W8ncQ4RlSl3PIZn0NalfiGaJd",
    "blur-uni": "1_U9IhgH7CxNp0_8o9F3D86sihflPGKDZ",
    "blur-gauss": "1vatmaOiEgO_Z9JQiFhHdcjiSNgnS9lBY",
    "sr4x-pool": "1VIA8haw3Oy0OqL-CeEM2Rekk92tL0gD0",
    "sr4x-bicubic": "1QfpggccSV9llWMBrklZ6OPdlGR7qRd6F",
    "inpaint-center": "1ounBKyUezkZmjC7d3tzbBwfEBe0Y7bkM",
    "inpaint-freeform1020": "1WGYzrxO-t4Q6XadgwWdUuh6Ue966LYKw",
    "inpaint-freeform2030": "18Q1ZtUcl3z63v0VOSR5hVH3T5fGNgf3I",
}
