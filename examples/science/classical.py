"""The classical answers of docs/science.md: each method's best setting on training images, its PSNR on held-out ones.

`python classical.py tissue|ct|mri DIR`, DIR as make_data.py wrote it.
"""

import argparse
from itertools import product
from pathlib import Path

import numpy as np
import tifffile
import torch
from make_data import CT_RANGE
from operators import Fourier, Photons, each, non_local_means
from PIL import Image
from skimage.restoration import denoise_tv_chambolle, wiener

NUM_TUNED = 12  # training images that settings are compared on
SPOT = np.outer(*[[0.25, 0.5, 0.25]] * 2)  # of the Wiener filter


def tissue(folder, split):
    """(degraded, clean) images [n,1,H,W] in [-1,1]; method -> (function of degraded ones and a setting, settings)."""
    clean = pictures(folder / split)
    photons = type("Photons20", (Photons,), {"peak": 20})(clean.shape[-2:])
    methods = {
        "non-local means": (non_local_means, product((0.5, 0.6, 0.7, 0.8), [1.0], (3, 5, 7))),
        "total variation": (denoise_tv_chambolle, product((0.7, 1.0, 1.2, 1.4, 1.6, 2.0))),
    }
    degraded = photons(clean, generator=torch.Generator().manual_seed(0))
    return degraded, clean, _with(lambda x, f, s: photons.baseline(x, None, f, *s), methods)


def ct(folder, split):
    low, high = CT_RANGE
    sides = [np.stack([tifffile.imread(path) for path in sorted((folder / f"{split}{s}").glob("*.tif"))]) for s in "AB"]
    degraded, clean = (torch.from_numpy((side - low) / (high - low) * 2 - 1).float()[:, None] for side in sides)
    sigma = (degraded - clean)[:NUM_TUNED].std().item()
    methods = {
        "non-local means": (non_local_means, product(np.r_[0.8:1.6:0.2] * sigma, [sigma], (3, 5, 7))),
        "total variation": (denoise_tv_chambolle, product((0.03, 0.04, 0.05, 0.06, 0.08))),
        "Wiener filter": (lambda x, balance: wiener(x, SPOT, balance, clip=False), product((0.03, 0.1, 0.3, 1, 3))),
    }
    return degraded, clean, _with(lambda x, f, s: each(f, x, *s), methods)


def mri(folder, split):
    clean = pictures(folder / split)
    fourier = type("Fourier4", (Fourier,), {"factor": 4})(clean.shape[-2:])
    methods = {
        "non-local means": (non_local_means, product((0.03, 0.04, 0.05, 0.07, 0.1))),
        "total variation": (denoise_tv_chambolle, product((0.0005, 0.001, 0.002, 0.004), [150], [1])),
    }
    return fourier(clean), clean, _with(lambda x, f, s: fourier.in_turn(x, f, *s), methods)


def _with(apply, methods):
    return {name: (lambda x, s, f=f: apply(x, f, s), settings) for name, (f, settings) in methods.items()}


def pictures(folder):
    arrays = [np.asarray(Image.open(path)) for path in sorted(folder.glob("*.png"))]
    return torch.from_numpy(np.stack(arrays))[:, None] / 127.5 - 1


def psnr(images, clean):
    """Mean over the images [dB]; white is 1, black -1."""
    return (10 * torch.log10(4 / ((images.clamp(-1, 1) - clean) ** 2).mean((1, 2, 3)))).mean().item()


KINDS = {"tissue": tissue, "ct": ct, "mri": mri}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("folder", type=Path, metavar="DIR")
    opt = parser.parse_args(argv)
    (degraded, clean, methods), (x, truth, _) = (KINDS[opt.kind](opt.folder, split) for split in ("train", "val"))
    print(f"degraded: {psnr(x, truth):.2f} dB")
    for name, (apply, settings) in methods.items():
        scores = {s: psnr(apply(degraded[:NUM_TUNED], s), clean[:NUM_TUNED]) for s in settings}
        best = max(scores, key=scores.get)
        tried = ", ".join(f"{score:.2f} {[round(float(v), 4) for v in s]}" for s, score in scores.items())
        print(f"{name}: {psnr(apply(x, best), truth):.2f} dB with {best}; on training images {tried}", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
