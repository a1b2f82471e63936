"""Every address that files are fetched from."""

from __future__ import annotations

from dataclasses import dataclass


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


_ADM = "https://openaipublic.blob.core.windows.net/diffusion/jul-2021"

ADM_WEIGHTS = Remote("256x256_diffusion_uncond.pt", "the pretrained ADM weights", f"{_ADM}/256x256_diffusion_uncond.pt")
FID_TRAIN_STATISTICS = Remote(
    "VIRTUAL_imagenet256_labeled.npz",
    "the FID statistics of ImageNet's training set",
    f"{_ADM}/ref_batches/imagenet/256/VIRTUAL_imagenet256_labeled.npz",
)
FREEFORM_BANK = Remote(
    "imagenet_freeform_masks.npz",
    "the freeform masks",
    "https://drive.google.com/file/d/1-5YRGsekjiRKQWqo0BV5RVQu0bagc12w/view",
)
VAL_10K_LIST = Remote(
    "val_faster_imagefolder_10k_fn.txt",
    "the list of the 10k validation images",
    "https://raw.githubusercontent.com/NVlabs/I2SB/master/dataset/val_faster_imagefolder_10k_fn.txt",
    size=640_000,
    sha256="3aaa918ba6123ed0460dcfc09b77f6c27867f760ece383ab2f0a895099af397c",
)

# Networks that images are judged with: torchvision's IMAGENET1K_V1, and clean-fid's two forms of Inception.
RESNET50 = Remote(
    "resnet50-0676ba61.pth",
    "the ResNet-50 weights",
    "https://download.pytorch.org/models/resnet50-0676ba61.pth",
    sha256="0676ba61",
)
ALEXNET = Remote(
    "alexnet-owt-7be5be79.pth",
    "the AlexNet weights (for LPIPS)",
    "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
    sha256="7be5be79",
)
INCEPTION_PYTORCH = Remote(
    "pt_inception-2015-12-05-6726825d.pth",
    "the Inception weights",
    "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
    sha256="6726825d",
)
INCEPTION_TORCHSCRIPT = Remote(
    "inception-2015-12-05.pt",
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
CHECKPOINT_FILES = ("options.pkl", "latest.pt")
