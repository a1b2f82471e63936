"""LPIPS against torchmetrics' own function, with the same weights: random ones, from a server on this machine."""

import io
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F
from torchvision.models import AlexNet_Weights, alexnet
from webserver import Site, serving

from evaluation.lpips import build_lpips
from i2sb import addresses
from i2sb.pixels import nearest_uint8

NAME = "alexnet-owt-7be5be79.pth"


def weights_file(whole: bool) -> bytes:
    """AlexNet's; nothing stands for each tensor of its classifier unless `whole`: LPIPS does not use it."""
    torch.manual_seed(0)
    with torch.device("meta"):  # the classifier's 58 million random numbers are for nothing
        state = alexnet(weights=None).state_dict()
    layers = alexnet(weights=None, num_classes=1).features.state_dict()
    for key, value in state.items():
        known = layers.get(key.removeprefix("features."))
        unused = torch.zeros(()).expand(value.shape) if whole else torch.zeros(0)
        state[key] = unused if known is None else known
    file = io.BytesIO()
    torch.save(dict(state), file)
    return file.getvalue()


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """TORCH_HOME after LPIPS was built once, its weights fetched."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch, serving(Site(weights_file(whole=False))) as site:
        patch.setenv("TORCH_HOME", str(home))
        there = replace(addresses.ALEXNET, url=f"{site.url}/{NAME}", sha256=None)
        patch.setattr(addresses, "ALEXNET", there)
        yield home, build_lpips()
        assert [path for path, _ in site.requests] == [f"/{NAME}"]


@pytest.fixture
def network(hub):
    return hub[1]


def pair(num=3, size=64):
    rng = torch.Generator().manual_seed(1)
    clean = F.interpolate(torch.rand(num, 3, 8, 8, generator=rng) * 2 - 1, (size, size), mode="bicubic").clamp(-1, 1)
    return clean + 0.2 * torch.randn(clean.shape, generator=rng), clean


def test_equals_torchmetrics(hub, tmp_path, monkeypatch):
    from torchmetrics.functional.image import learned_perceptual_image_patch_similarity as theirs

    home, network = hub
    assert AlexNet_Weights.IMAGENET1K_V1.url.endswith(NAME)
    fetched = next(home.rglob(NAME))
    whole = tmp_path / fetched.relative_to(home)  # where torchvision would find the file that we fetched
    whole.parent.mkdir(parents=True)
    whole.write_bytes(weights_file(whole=True))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    images, clean = pair()
    seen = [nearest_uint8(x).double() / 127.5 - 1 for x in (images, clean)]
    expected = theirs(*seen, net_type="alex", reduction="none")
    got = network(images, clean)
    assert got.shape == (3,)
    assert len(set(got.tolist())) == 3
    torch.testing.assert_close(got.double(), expected, rtol=1e-4, atol=1e-7)


def test_sizes(network):
    images, clean = pair(size=31)
    assert network(images, clean).shape == (3,)
    with pytest.raises(ValueError, match="LPIPS needs at least 31 pixels"):
        network(images[..., :30, :], clean[..., :30, :])
    with pytest.raises(ValueError, match="must be the same"):
        network(images, clean[:2])
