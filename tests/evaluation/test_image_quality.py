"""PSNR by its formula, SSIM by scikit-image, LPIPS by torchmetrics with the same random weights, from a real server."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from golden.formulas import image
from torchvision.models import AlexNet_Weights, alexnet
from webserver import Site, serving

from evaluation.image_quality import luma, psnr, psnr_y, ssim
from evaluation.lpips import build_lpips
from evaluation.metrics import build_judges
from i2sb import addresses
from i2sb.pixels import nearest_uint8

NAME = "alexnet-owt-7be5be79.pth"


def pair(size=64, batch=3, noise=0.2):
    clean = torch.from_numpy(image(size, batch, "hidden"))
    return clean + noise * torch.randn_like(clean), clean


@pytest.mark.parametrize("size", [11, 33, 64])
@pytest.mark.parametrize("noise", [0.02, 0.5])
def test_ssim_as_scikit_image(size, noise):
    from skimage.metrics import structural_similarity

    images, clean = pair(size, noise=noise)
    expected = [
        structural_similarity(
            *(nearest_uint8(z).permute(1, 2, 0).numpy().astype(np.float64) / 255 for z in (x, y)),
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=1,
            channel_axis=2,
        )
        for x, y in zip(images, clean)
    ]
    assert ssim(images, clean).tolist() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("border", [0, 4])
def test_psnr_of_luma_by_its_formula_and_scikit_image(border):
    from skimage.color import rgb2ycbcr

    images, clean = (nearest_uint8(x) for x in pair())
    arrays = [x.permute(0, 2, 3, 1).numpy() for x in (images, clean)]
    exact = [16 + z.astype(np.float64) @ [65.481, 128.553, 24.966] / 255 for z in arrays]
    y = [np.floor(z + 0.5) for z in exact]  # MATLAB rounds halves up
    assert np.allclose(exact[0], rgb2ycbcr(arrays[0])[..., 0], atol=1e-6)
    assert (luma(images)[:, 0].numpy() == y[0]).all()
    inside = np.s_[:, border : 64 - border, border : 64 - border]
    expected = 10 * np.log10(255**2 / ((y[0] - y[1])[inside] ** 2).mean(axis=(1, 2)))
    assert psnr_y(images, clean, border).tolist() == pytest.approx(expected.tolist(), abs=1e-4)


def test_the_border_of_the_luma_is_the_task_s_scale():
    images, clean = pair(32)
    for scale, border in ((1, 0), (4, 4)):
        judge = build_judges(["psnr_y"], [], "cpu", shape=(3, 32, 32), scale=scale).per_image["psnr_y"]
        assert torch.equal(judge(images, clean, None), psnr_y(images, clean, border))


def test_refuses_what_does_not_match():
    images, clean = pair(16)
    with pytest.raises(ValueError, match="must be the same"):
        psnr(images, clean[:2])
    with pytest.raises(ValueError, match="SSIM needs at least 11 pixels"):
        ssim(images[..., :10, :10], clean[..., :10, :10])


def test_deep_images_are_not_rounded():
    clean = torch.linspace(-1, 0.9, 12 * 13).reshape(1, 1, 12, 13)
    step = 2 / 65535  # one of 16 bits: 96.33 dB
    assert psnr(clean + step, clean, deep=True).item() == pytest.approx(20 * np.log10(65535), abs=0.01)
    assert psnr(clean + step, clean).item() == pytest.approx(np.inf) or psnr(clean + step, clean).item() < 80
    assert ssim(clean + step, clean, deep=True).item() == pytest.approx(1, abs=1e-6)
    assert psnr(clean - 9, clean - 8, deep=True).item() == np.inf  # clipped


# --- LPIPS


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
