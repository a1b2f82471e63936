"""What FID and KID compare with when it is not ImageNet: a file of statistics, a folder of images, or batches."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from evaluation.fid import feature_statistics, load_statistics
from evaluation.frechet import Statistics
from evaluation.kid import FeatureReservoir
from i2sb.errors import UserError


def reference_from(
    reference: str | os.PathLike | Iterable[Tensor],
    features: Callable[[Tensor], Tensor],
    image_size: int,
    batch_size: int = 32,
    reservoir: FeatureReservoir | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> Statistics:
    """Statistics of the images to compare with.

    reference: an .npz file with mu and sigma, a folder of images (see `folder_batches`), or batches of uint8
    [B, 3, S, S].  features: batch -> [B, D]; its attribute `num_features` (D), if any, is checked against a file.
    reservoir: takes in the features for KID; it stays empty where the reference is a file.
    on_batch: called with the number of images in each batch when it is done.

    Raises UserError where there is no such file or folder, or it does not hold at least two images or the
    statistics of these features.
    """
    if isinstance(reference, (str, os.PathLike)):
        path = Path(reference)
        if not path.is_dir():
            return _read_statistics(path, getattr(features, "num_features", None))
        reference = folder_batches(path, image_size, batch_size)
    if reservoir is not None:
        features = reservoir.tap(features)
    return feature_statistics(reference, features, on_batch)


def find_images(folder: str | os.PathLike) -> list[Path]:
    """All image files below `folder`, sorted by path; hidden files and folders are left out.

    Links to folders are followed, and each folder is visited once: a link to one above must not go for ever.
    Raises UserError where there are fewer than two.
    """
    from torchvision.datasets.folder import IMG_EXTENSIONS

    seen = {os.path.realpath(folder)}

    def is_new(path: Path) -> bool:
        before = len(seen)
        seen.add(os.path.realpath(path))
        return len(seen) > before

    found: list[Path] = []
    for place, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in sorted(folders) if name[0] != "." and is_new(Path(place, name))]
        found += [Path(place, name) for name in files if name[0] != "." and name.lower().endswith(IMG_EXTENSIONS)]
    if len(found) < 2:
        kinds = " ".join(suffix[1:] for suffix in IMG_EXTENSIONS)
        raise UserError(f"{folder}: has {len(found)} image files ({kinds}), a reference needs at least two")
    return sorted(found)


def folder_batches(
    folder: str | os.PathLike, image_size: int, batch_size: int = 32, num_threads: int | None = None
) -> Iterator[Tensor]:
    """The images below `folder` as uint8 [B, 3, S, S], in the order of their paths.

    Shorter side resized to S (bilinear, by Pillow) and the centre cropped, as in the data sets.  At most two
    batches are in memory: threads read one while the other is used.
    Raises UserError at the first call for fewer than two images, later for one that cannot be read.
    """
    paths = find_images(folder)
    return _read_batches(paths, image_size, batch_size, num_threads or min(8, os.cpu_count() or 1))


def _read_batches(paths: Sequence[Path], size: int, batch_size: int, num_threads: int) -> Iterator[Tensor]:
    read = functools.partial(_read_image, size=size)
    parts = [paths[start : start + batch_size] for start in range(0, len(paths), batch_size)]
    with ThreadPoolExecutor(num_threads) as pool:  # Pillow decodes and resizes outside Python's lock
        ahead = pool.map(read, parts[0])
        for part in [*parts[1:], []]:
            images = list(ahead)
            ahead = pool.map(read, part)
            yield torch.stack(images)


def _read_image(path: Path, size: int) -> Tensor:
    """uint8 [3, S, S]; grey, palette and CMYK images are converted to RGB as Pillow does."""
    from torchvision.transforms import functional

    try:
        with Image.open(path) as image:
            image = functional.center_crop(functional.resize(image.convert("RGB"), size), size)
            return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
    except UnidentifiedImageError as error:
        raise UserError(f"{path}: is no image that Pillow knows: remove or replace it") from error
    except Exception as error:  # Pillow's plug-ins raise errors of many types
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path}: the image cannot be read ({reason}): remove or replace it") from error


def _read_statistics(path: Path, num_features: int | None) -> Statistics:
    wanted = "an .npz file with FID statistics (mu, sigma) or a folder of images"
    if not path.exists():
        raise UserError(f"{path}: there is no such file or folder, expected {wanted}")
    if path.suffix != ".npz":
        raise UserError(f"{path}: is neither {wanted}")
    statistics = load_statistics(path)
    if num_features not in (None, len(statistics.mu)):
        raise UserError(
            f"{path}: has statistics of {len(statistics.mu)} features per image, the network gives {num_features}:"
            " choose the file of this network, or a folder of images"
        )
    return statistics
