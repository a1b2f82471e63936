"""DISTS with random weights from a real server, against torchmetrics' own function with the same file."""

import io
from dataclasses import replace

import pytest
import torch
from golden.formulas import image
from torch import Tensor
from torchvision.models import VGG16_Weights, vgg, vgg16
from webserver import Site, serving

from evaluation.metrics import build_judges
from i2sb import addresses
from i2sb.pixels import nearest_uint8


def saved(state) -> bytes:
    torch.save(state, file := io.BytesIO())
    return file.getvalue()


def files_of_dists() -> dict[str, bytes]:
    """VGG16; nothing stands for each tensor of its classifier, which torchvision wants and DISTS does not use."""
    torch.manual_seed(0)
    with torch.device("meta"):
        state = vgg16(weights=None).state_dict()
    layers = vgg.make_layers(vgg.cfgs["D"], batch_norm=False).state_dict()
    unused = {name: torch.zeros(()).expand(value.shape) for name, value in state.items()}
    return {"VGG16": saved({**unused, **{f"features.{name}": value for name, value in layers.items()}})}


@pytest.fixture
def serve(tmp_path, monkeypatch):
    """Files, by their names in `addresses`, are published on a server; TORCH_HOME is empty."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    files: dict[str, bytes] = {}

    def publish(new: dict[str, bytes]) -> None:
        for name, data in new.items():
            remote = getattr(addresses, name)
            files[f"/{remote.name}"] = data
            monkeypatch.setattr(addresses, name, replace(remote, url=f"{site.url}/{remote.name}", sha256=None))

    def answer(handler):
        handler.send_page(files[handler.path], headers={"Content-Type": "application/octet-stream"})

    with serving(Site(answer=answer)) as site:
        yield publish


def judge(name: str, images: Tensor, clean: Tensor) -> Tensor:
    found = build_judges([name], [], "cpu", shape=tuple(images.shape[1:]))
    assert not found.unavailable
    return found.per_image[name](images, clean, None)


def pair() -> tuple[Tensor, Tensor]:
    clean = torch.from_numpy(image(64, 2, "hidden"))
    return clean + 0.2 * torch.randn_like(clean), clean


def test_dists_equals_torchmetrics(serve):
    from torchmetrics.functional.image.dists import deep_image_structure_and_texture_similarity as theirs

    assert VGG16_Weights.DEFAULT.url == addresses.VGG16.url
    serve(files_of_dists())
    images, clean = pair()
    got = judge("dists", images, clean)
    expected = theirs(*(nearest_uint8(x).float() / 255 for x in (images, clean)))  # finds the file that we fetched
    torch.testing.assert_close(got, expected.detach(), rtol=1e-5, atol=1e-6)
    assert len({0.0, *got.tolist()}) == 3
    assert judge("dists", clean[:1], clean[:1]).tolist() == pytest.approx([0], abs=1e-5)


def test_other_files_are_refused(serve):
    serve({"VGG16": saved({"x": torch.zeros(1)})})
    found = build_judges(["dists"], [], "cpu")
    assert "VGG16 weights (for DISTS) at " in found.unavailable["dists"]
