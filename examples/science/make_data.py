"""Data for docs/science.md: `python make_data.py tissue|ct|mri --out DIR`; a seed gives the same files every time."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import skimage
import tifffile
from PIL import Image
from scipy.ndimage import gaussian_filter
from skimage.transform import iradon, radon

CT_RANGE = -1000, 1500  # Hounsfield units
PHOTONS = 5000  # that leave the tube towards each pixel of the detector


def tissue(out: Path, size: int, **_) -> None:
    """Grey windows of scikit-image's `ihc`, a stained section: the upper three quarters train, the lowest is held out.

    Beside them cell.png, another specimen under another microscope.
    """
    folder = Path(skimage.__file__).parent / "data"
    slide = np.asarray(Image.open(folder / "ihc.png").convert("L"))
    for split, rows, step in (("train", range(0, 385 - size, size // 2), size // 2), ("val", [384], size)):
        for top in rows:
            for left in range(0, 513 - size, step):
                window = slide[top : top + size, left : left + size]
                _save(Image.fromarray(window), out / split / f"{top:03d}_{left:03d}.png")
    _save(Image.open(folder / "cell.png").crop((306, 276, 506, 476)), out / "cell.png")


def ct(out: Path, size: int, num_train: int, num_val: int, rng: np.random.Generator) -> None:
    """Pairs of int16 TIFF in Hounsfield units: slices of a drawn body, reconstructed (filtered back projection) from
    few photons (A) and from as many as one likes (B)."""
    angles = np.linspace(0, 180, 90, endpoint=False)
    for number in range(num_train + num_val):
        split, name = ("train", number) if number < num_train else ("val", number - num_train)
        rays = radon(body(size, rng) / 1000 + 1, angles) * (5 / size)  # attenuation; water across the image: 5
        counts = rng.poisson(PHOTONS * np.exp(-rays)).clip(1)
        for side, sinogram in (("A", -np.log(counts / PHOTONS)), ("B", rays)):
            slice_ = (iradon(sinogram * (size / 5), angles, output_size=size) - 1) * 1000
            path = out / f"{split}{side}" / f"{name:04d}.tif"
            path.parent.mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(path, slice_.clip(*CT_RANGE).round().astype(np.int16))


def mri(out: Path, size: int, num_train: int, num_val: int, rng: np.random.Generator) -> None:
    """Grey PNG of drawn heads; the operator in operators.py undersamples them."""
    for number in range(num_train + num_val):
        split, name = ("train", number) if number < num_train else ("val", number - num_train)
        pixels = (head(size, rng) * 255).clip(0, 255).round().astype(np.uint8)
        _save(Image.fromarray(pixels), out / split / f"{name:04d}.png")


def head(size: int, rng: np.random.Generator) -> np.ndarray:
    """Scalp, skull, folded grey and white matter, ventricles and lesions, with the coil's shading: [S,S] in [0,1]."""
    fine, turn = 2 * size, rng.uniform(-0.3, 0.3)  # drawn at twice the size: edges come out smooth
    image = np.zeros((fine, fine))
    wide, tall = rng.uniform(0.62, 0.74), rng.uniform(0.78, 0.92)
    for shrink, value in ((0, 0.9), (0.06, 0.08), (0.13, 0.3)):
        image[_ellipse(fine, (0, 0), (tall - shrink, wide - shrink), turn)] = value
    inside = _ellipse(fine, (0, 0), (tall - 0.16, wide - 0.16), turn, _texture(fine, 0.05, rng) * 0.05)
    image[inside] = (0.6 + 0.14 * np.tanh(4 * _texture(fine, 0.014, rng)))[inside]
    for side in (-1, 1):
        place = (rng.uniform(-0.1, 0.1), side * rng.uniform(0.08, 0.14))
        image[_ellipse(fine, place, (rng.uniform(0.15, 0.3), 0.06), turn - side * 0.3)] = 0.15
    for _ in range(rng.integers(0, 5)):
        place, radii = rng.uniform(-0.4, 0.4, 2), rng.uniform(0.02, 0.08, 2)
        image[_ellipse(fine, place, radii, rng.uniform(0, 3))] = rng.uniform(0.2, 1)
    image *= 1 + 0.1 * _texture(fine, 0.3, rng)
    return _halved(image + 0.01 * (image > 0) * _texture(fine, 0.006, rng))


def body(size: int, rng: np.random.Generator) -> np.ndarray:
    """A slice of an abdomen in air: fat, muscle, organs with vessels, gas, ribs and spine: [S,S] Hounsfield units."""
    fine, turn = 2 * size, rng.uniform(-0.1, 0.1)
    image = np.full((fine, fine), -1000.0)
    tall, wide = rng.uniform(0.58, 0.68), rng.uniform(0.78, 0.9)
    for shrink, value in ((0, -100), (0.08, 50), (0.14, -90)):
        image[_ellipse(fine, (0, 0), (tall - shrink, wide - shrink), turn)] = value
    kinds = ((6, 0.1, 0.28, 20, 110), (12, 0.02, 0.05, 120, 220), (3, 0.03, 0.09, -900, -500))
    for count, least, most, low, high in kinds:  # organs, vessels, gas
        for _ in range(count):
            angle, far = rng.uniform(0, 2 * np.pi), 0.62 * np.sqrt(rng.uniform())
            place = far * (tall - 0.14) * np.sin(angle), far * (wide - 0.14) * np.cos(angle)
            image[_ellipse(fine, place, rng.uniform(least, most, 2), rng.uniform(0, 3))] = rng.uniform(low, high)
    for angle in np.linspace(0, 2 * np.pi, 14) + rng.uniform(0, 0.4):
        place = (tall - 0.11) * np.sin(angle), (wide - 0.11) * np.cos(angle)
        image[_ellipse(fine, place, (0.025, 0.05), angle)] = rng.uniform(400, 900)
    spine = _ellipse(fine, (tall - 0.28, 0), (0.1, 0.13), turn)
    image[spine] = (350 + 120 * _texture(fine, 0.008, rng))[spine]
    return _halved(image + (image > -150) * 12 * _texture(fine, 0.012, rng))


def _ellipse(size: int, centre, radii, turn: float, wobble: np.ndarray | float = 0) -> np.ndarray:
    """Bool [S,S]; coordinates run from -1 to 1, downwards and to the right."""
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    y, x = y - centre[0], x - centre[1]
    y, x = y * np.cos(turn) + x * np.sin(turn), x * np.cos(turn) - y * np.sin(turn)
    return np.hypot(y / radii[0], x / radii[1]) + wobble < 1


def _texture(size: int, scale: float, rng: np.random.Generator) -> np.ndarray:
    """Smooth noise [S,S] of deviation 1; scale: its size over the image's."""
    noise = gaussian_filter(rng.standard_normal((size, size)), scale * size, mode="wrap")
    return noise / noise.std()


def _halved(image: np.ndarray) -> np.ndarray:
    return image.reshape(image.shape[0] // 2, 2, image.shape[1] // 2, 2).mean((1, 3))


def _save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


KINDS = {"tissue": tissue, "ct": ct, "mri": mri}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--size", type=int, default=128, help="side of the images [pixels]")
    parser.add_argument("--num-train", type=int, default=400, help="drawn images to train on")
    parser.add_argument("--num-val", type=int, default=24, help="drawn images that are held out")
    given = vars(parser.parse_args(argv))
    KINDS[given.pop("kind")](**given, rng=np.random.default_rng(0))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
