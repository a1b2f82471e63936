"""clean-fid's features: its resizing for batches, its networks, its modes, and where weights belong."""

import json
import warnings
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from golden.formulas import image
from webserver import closed_address

from evaluation import inception, reference
from evaluation.inception import MODES, build_inception, resize
from evaluation.metrics import MetricUnavailable
from i2sb import addresses
from i2sb.addresses import Remote
from i2sb.pixels import to_uint8

GOLDEN_FOLDER = Path(__file__).parents[1] / "golden"
GOLDEN = np.load(GOLDEN_FOLDER / "metrics.npz")
MEANS = json.loads((GOLDEN_FOLDER / "metrics.json").read_text())


@pytest.fixture
def pixels():
    return to_uint8(torch.from_numpy(image(64, 2, "open")))


# Golden values were computed in float32 by other kernels (PIL's, for "clean"), on values up to 255.
@pytest.mark.parametrize("mode", ["legacy_pytorch", "clean"])
def test_resize_as_cleanfid(mode):
    out = resize(to_uint8(torch.from_numpy(image(256, 1, "open"))), mode)
    assert out.shape == (1, 3, 299, 299)
    assert out.dtype == torch.float32
    golden = f"cleanfid_resize_{mode}"
    hwc = out[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(hwc.reshape(-1)[::97], GOLDEN[f"{golden}_every97"], rtol=0, atol=2e-3)
    assert hwc.mean() == pytest.approx(MEANS[golden]["mean"], abs=1e-3)


@pytest.mark.parametrize("size", [64, 512])
@pytest.mark.parametrize("mode", MODES)
def test_resize_of_other_sizes_and_batches(mode, size):
    with warnings.catch_warnings():
        from cleanfid.resize import build_resizer

        theirs = build_resizer(mode)
    images = torch.randint(256, (2, 3, size, size), dtype=torch.uint8)
    expected = np.stack([theirs(x.permute(1, 2, 0).numpy()) for x in images]).astype(np.float32)
    np.testing.assert_allclose(resize(images, mode).permute(0, 2, 3, 1).numpy(), expected, rtol=0, atol=5e-3)


@pytest.fixture(scope="module")
def pytorch_weights(tmp_path_factory):
    """A file as published, with weights drawn at random (the true ones lie on the network)."""
    from cleanfid import inception_pytorch

    home = tmp_path_factory.mktemp("torch_home")
    path = home / "hub" / "checkpoints" / addresses.INCEPTION_PYTORCH.name
    path.parent.mkdir(parents=True)

    captured = {}

    def keep(network, state):
        captured.update(network.state_dict())

    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setattr(inception_pytorch, "load_state_dict_from_url", lambda url, progress: {})
        patch.setattr(torch.nn.Module, "load_state_dict", keep)
        warnings.simplefilter("ignore")
        inception_pytorch.fid_inception_v3()
    torch.save(captured, path, _use_new_zipfile_serialization=False)  # as old as the published file
    return home, path


def test_legacy_pytorch_features_are_cleanfids(pytorch_weights, monkeypatch, pixels):
    monkeypatch.setenv("TORCH_HOME", str(pytorch_weights[0]))
    monkeypatch.setattr(addresses, "INCEPTION_PYTORCH", replace(addresses.INCEPTION_PYTORCH, sha256=None))
    from cleanfid.features import build_feature_extractor
    from cleanfid.resize import build_resizer

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = build_feature_extractor("legacy_pytorch", torch.device("cpu"), use_dataparallel=False)
        resized = np.stack([build_resizer("legacy_pytorch")(x.permute(1, 2, 0).numpy()) for x in pixels])
    with torch.no_grad():
        expected = theirs(torch.from_numpy(resized).permute(0, 3, 1, 2))
    features = build_inception("legacy_pytorch")(pixels)
    assert features.shape == (2, 2048)
    assert not features.requires_grad
    assert features.std() > 0
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)


class Scripted(torch.nn.Module):
    """The interface of the published TorchScript file, in small: 2048 features that show what went in."""

    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Conv2d(3, 2048, 1))

    def forward(self, x, return_features: bool = False):
        return self.layers((x - 128) / 128)


@pytest.fixture
def torchscript_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(inception, "TORCHSCRIPT_FOLDER", tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(Scripted()).save(str(tmp_path / "inception-2015-12-05.pt"))
    return tmp_path


@pytest.mark.parametrize("mode", ["legacy_tensorflow", "clean"])
def test_torchscript_modes(torchscript_folder, mode, pixels):
    from cleanfid.inception_torchscript import InceptionV3W

    features = build_inception(mode)(pixels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = InceptionV3W(str(torchscript_folder), download=False, resize_inside=mode == "legacy_tensorflow")
        with torch.no_grad():
            expected = theirs(resize(pixels, mode))
    assert features.shape == (2, 2048)
    torch.testing.assert_close(features, expected)


# --- where weights belong


def assert_one_line(caught, remote: Remote, path: Path) -> None:
    """The message names the address and where the file belongs."""
    message = str(caught.value)
    assert remote.url in message
    assert str(path) in message
    assert "\n" not in message


@pytest.mark.parametrize("mode", inception.MODES)
def test_inception_says_where_its_weights_belong(tmp_path, monkeypatch, mode):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(inception, "TORCHSCRIPT_FOLDER", tmp_path)
    name = "INCEPTION_PYTORCH" if mode == "legacy_pytorch" else "INCEPTION_TORCHSCRIPT"
    remote = replace(getattr(addresses, name), url=closed_address())
    monkeypatch.setattr(addresses, name, remote)
    with pytest.raises(MetricUnavailable, match="the Inception weights: could not fetch") as caught:
        inception.build_inception(mode)
    folder = tmp_path / "home/hub/checkpoints" if mode == "legacy_pytorch" else tmp_path
    assert_one_line(caught, remote, folder / remote.name)


def test_training_statistics_say_where_they_belong(tmp_path, monkeypatch):
    remote = replace(addresses.FID_TRAIN_STATISTICS, url=closed_address())
    monkeypatch.setattr(addresses, "FID_TRAIN_STATISTICS", remote)
    with pytest.raises(MetricUnavailable, match="the FID statistics of ImageNet's training set") as caught:
        reference.build_reference(Namespace(fid_ref=None), Namespace(corrupt="sr4x-pool", channels=3), True, None, None)
    assert_one_line(caught, remote, tmp_path / "data" / remote.name)
