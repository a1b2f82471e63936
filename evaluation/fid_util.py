"""FID under the names that scripts of the original and its forks import."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from dataset.imagenet import build_lmdb_dataset
from dataset.transforms import build_test_transform
from evaluation.fid import FeatureSums, frechet_distance, load_statistics, save_statistics, statistics_path
from evaluation.inception import build_inception
from evaluation.reference import content, features_of


def compute_fid_from_numpy(
    numpy_arr: np.ndarray, ref_mu: ArrayLike, ref_sigma: ArrayLike, batch_size: int = 256, mode: str = "legacy_pytorch"
) -> float:
    """FID of images [n, H, W, 3] uint8 to the statistics of others, mu [D] and sigma [D, D]."""
    network, sums = _network(mode), FeatureSums(len(numpy_arr))
    for start in range(0, len(numpy_arr), batch_size):
        sums.add(network(torch.tensor(numpy_arr[start : start + batch_size]).permute(0, 3, 1, 2)))
    found = sums.finish()
    return frechet_distance(found.mu, found.sigma, ref_mu, ref_sigma)


def compute_fid_ref_stat(opt: Any, log: Any) -> tuple[np.ndarray, np.ndarray]:
    """(mu, sigma) of a split of a data set, kept in data/fid_imagenet_{S}_{split}.npz; an existing file is read.

    opt: `mode` (clean-fid's), `split` ("train" or "val"), `image_size` and `dataset_dir` are read.
    """
    path = statistics_path(opt.image_size, opt.split, opt.mode)
    if not path.is_file():
        dataset = build_lmdb_dataset(opt, log, opt.split == "train", build_test_transform(opt.image_size))
        found = features_of(dataset, _network(opt.mode), batch_size=64)
        save_statistics(path, found, f"{content(dataset)}, {opt.image_size} px")
    found, _ = load_statistics(path)
    return found.mu, found.sigma


def _network(mode: str) -> torch.nn.Module:
    return build_inception(mode, "cuda" if torch.cuda.is_available() else "cpu")
