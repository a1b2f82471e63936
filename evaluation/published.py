"""The published results: Liu et al., "I2SB: Image-to-Image Schrodinger Bridge", ICML 2023 (arXiv 2302.05872).

With the published checkpoints; ImageNet 256x256, NFE 999.  FID by clean-fid's "legacy_pytorch" features, against
the training set for sr4x-* and the validation set for the others; accuracy by torchvision's ResNet-50
(IMAGENET1K_V1).  sr4x-* on the 50,000 validation images, the others on the 10,000 of Palette's subset.
"""

SOURCE = "Liu et al. 2023, arXiv 2302.05872: ImageNet 256x256, NFE 999"
IMAGE_SIZE = 256

PUBLISHED = {  # task -> metric -> value; accuracy in per cent
    "jpeg-5": {"fid": 4.6, "accuracy": 67.9},
    "jpeg-10": {"fid": 3.6, "accuracy": 72.1},
    "blur-uni": {"fid": 3.9, "accuracy": 73.7},
    "blur-gauss": {"fid": 3.0, "accuracy": 75.0},
    "sr4x-pool": {"fid": 2.7, "accuracy": 71.0},
    "sr4x-bicubic": {"fid": 2.8, "accuracy": 70.7},
    "inpaint-center": {"fid": 4.9, "accuracy": 66.1},
    "inpaint-freeform1020": {"fid": 2.9, "accuracy": 74.9},
    "inpaint-freeform2030": {"fid": 3.2, "accuracy": 73.4},
}
