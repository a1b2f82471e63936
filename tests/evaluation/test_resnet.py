"""The classifier: its input as published, its weights, accuracy on real photographs and nowhere else."""

import importlib.util
import logging
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from golden.formulas import image
from small_runs import efficientnet
from torchvision.models import ResNet50_Weights, resnet50

from dataset.splits import open_folder, transform_of
from evaluation import build_resnet50
from evaluation.metrics import MetricUnavailable, build_judges
from evaluation.resnet import Normalizer, top1
from i2sb import addresses
from i2sb.pixels import nearest_uint8, to_float, to_uint8

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "metrics.npz")


@pytest.fixture
def weights_path(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(addresses, "RESNET50", replace(addresses.RESNET50, sha256=None))
    path = tmp_path / "hub" / "checkpoints" / "resnet50-0676ba61.pth"
    path.parent.mkdir(parents=True)
    return path


@pytest.mark.parametrize(("size", "batch"), [(64, 2), (256, 1)])
def test_input_as_published(size, batch):
    x = Normalizer()(torch.from_numpy(image(size, batch, "open")))
    assert x.shape == (batch, 3, 224, 224)
    np.testing.assert_allclose(
        x.numpy().reshape(-1)[::97], GOLDEN[f"resnet_normalizer_{size}_every97"], rtol=0, atol=1e-5
    )


def test_builds_from_the_file_in_torchs_cache(weights_path):
    network = resnet50(weights=None).eval()
    torch.save(network.state_dict(), weights_path)
    model = build_resnet50()
    assert addresses.RESNET50.url == ResNet50_Weights.IMAGENET1K_V1.url
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
    x = torch.from_numpy(image(64, 2, "open"))
    with torch.no_grad():
        torch.testing.assert_close(model(x), network(Normalizer()(x)))


def test_a_file_of_other_weights_is_named(weights_path):
    torch.save({"conv1.weight": torch.zeros(3)}, weights_path)
    with pytest.raises(MetricUnavailable) as caught:
        build_resnet50()
    assert str(weights_path) in str(caught.value)
    assert addresses.RESNET50.url in str(caught.value)
    assert "\n" not in str(caught.value)


def test_accuracy_is_for_imagenets_classes_only():
    for classes in ([f"n{i:08d}" for i in range(3)], [f"class{i}" for i in range(1000)]):
        assert "needs ImageNet's 1000 classes" in build_judges(["accuracy"], classes, "cpu").unavailable["accuracy"]


# --- real photographs


def test_known_photographs_are_recognised(tmp_path):
    """Through every conversion on a restored image's way: 8 bits, [-1, 1], 8 bits, and the classifier's input."""
    package = importlib.util.find_spec("foolbox")  # its images are wanted, its code is not
    if package is None:
        pytest.skip("foolbox has the photographs: the extra `test` brings it")
    for path in (Path(package.origin).parent / "data").glob("imagenet_*.jpg"):
        (tmp_path / path.name).symlink_to(path)
    opt = Namespace(image_size=224)
    dataset = open_folder(tmp_path, opt, transform_of(opt, train=False), logging.getLogger("test"), classes=False)
    names = [Path(path).stem for path, _ in dataset.samples]  # imagenet_00_243
    labels = torch.tensor([int(name.rpartition("_")[2]) for name in names])
    images = torch.stack([nearest_uint8(image) for image, _ in dataset])
    assert len(images) == 20
    model = efficientnet()
    for convert in (to_uint8, nearest_uint8):
        logits = model(Normalizer()(to_float(convert(to_float(images)))))
        assert top1(logits, labels).sum() >= 15
        assert top1(logits, labels.roll(1)).sum() <= 2  # two neighbours are of one class
