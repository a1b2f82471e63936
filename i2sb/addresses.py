"""Every address that data are fetched from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Remote:
    """A file to fetch: its address (or id on Google Drive), its name here, and what is known of it."""

    name: str
    what: str
    url: str = ""
    drive_id: str = ""
    size: int | None = None
    sha256: str | None = None


_ADM = "https://openaipublic.blob.core.windows.net/diffusion/jul-2021"

ADM_WEIGHTS = Remote(
    name="256x256_diffusion_uncond.pt",
    what="the pretrained ADM weights",
    url=f"{_ADM}/256x256_diffusion_uncond.pt",
)
FID_TRAIN_STATISTICS = Remote(
    name="VIRTUAL_imagenet256_labeled.npz",
    what="the FID statistics of ImageNet's training set",
    url=f"{_ADM}/ref_batches/imagenet/256/VIRTUAL_imagenet256_labeled.npz",
)
FREEFORM_BANK = Remote(
    name="imagenet_freeform_masks.npz",
    what="the freeform masks",
    drive_id="1-5YRGsekjiRKQWqo0BV5RVQu0bagc12w",
)
VAL_10K_LIST = Remote(
    name="val_faster_imagefolder_10k_fn.txt",
    what="the list of the 10k validation images",
    url="https://raw.githubusercontent.com/NVlabs/I2SB/master/dataset/val_faster_imagefolder_10k_fn.txt",
    size=640_000,
    sha256="3aaa918ba6123ed0460dcfc09b77f6c27867f760ece383ab2f0a895099af397c",
)

# Google Drive folders, each with latest.pt and options.pkl
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
