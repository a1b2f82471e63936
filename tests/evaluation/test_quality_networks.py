"""DISTS and ARNIQA with random weights from a real server, against torchmetrics' own functions with the same files."""

import io
import warnings
import zipfile
from dataclasses import replace

import pytest
import torch
from bad_files import attacks
from golden.formulas import image
from PIL import Image
from small_runs import refusal
from torch import Tensor, nn
from torchvision.models import VGG16_Weights, resnet50, vgg, vgg16
from webserver import Site, serving

import compute_metrices
from evaluation.metrics import build_judges
from i2sb import addresses
from i2sb.errors import UserError
from i2sb.pixels import nearest_uint8
from i2sb.runtime.reading import load_script


def saved(state) -> bytes:
    torch.save(state, file := io.BytesIO())
    return file.getvalue()


class Regressor(nn.Module):
    """In the form of the published one, which is a TorchScript archive."""

    def __init__(self) -> None:
        super().__init__()
        self.weights, self.biases = nn.Parameter(torch.randn(1, 4096) * 100), nn.Parameter(torch.tensor(50.0))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weights.T + self.biases


def scripted(module: nn.Module) -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated
        torch.jit.save(torch.jit.script(module), file := io.BytesIO())
    return file.getvalue()


def files_of_arniqa() -> dict[str, bytes]:
    torch.manual_seed(0)
    encoder = nn.Sequential(*list(resnet50(weights=None).children())[:-1])
    state = {f"model.{name}": value for name, value in encoder.state_dict().items()}
    return {
        "ARNIQA_ENCODER": saved({**state, "projector.0.weight": torch.zeros(2)}),
        "ARNIQA_REGRESSOR": scripted(Regressor()),
    }


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


def test_arniqa_equals_torchmetrics(serve):
    from torchmetrics.functional.image.arniqa import _base_url, arniqa

    for remote in (addresses.ARNIQA_ENCODER, addresses.ARNIQA_REGRESSOR):
        assert remote.url.startswith(f"{_base_url}/")
    serve(files_of_arniqa())
    images, clean = pair()
    got = judge("arniqa", images, clean)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its way to open TorchScript
        expected = arniqa(nearest_uint8(images).float() / 255, reduction="none")  # finds the files that we fetched
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    assert len(set(got.tolist())) == 2


def test_pictures_without_clean_ones(serve, tmp_path, capsys):
    serve(files_of_arniqa())
    images, _ = pair()
    pixels = nearest_uint8(images).permute(0, 2, 3, 1).numpy()
    (tmp_path / "photos").mkdir()
    for number, array in enumerate(pixels):
        Image.fromarray(array).save(tmp_path / f"photos/{number}.png")
    Image.fromarray(pixels[0, :, :40, 0]).save("grey.png")
    argv = ["--device", "cpu", "--input", "photos", "grey.png"]
    assert compute_metrices.main(argv) == 0
    shown = capsys.readouterr().out
    mean = judge("arniqa", images, images).mean()
    grey = judge("arniqa", images[:1, :1, :, :40].expand(-1, 3, -1, -1), images)
    assert f"{mean:.4f} ±" in shown
    assert f"{grey.item():.4f}" in shown
    (tmp_path / "photos/broken.png").write_bytes(b"x")
    assert compute_metrices.main(argv) == 1
    said = capsys.readouterr()
    assert "photos/broken.png: it is no picture" in said.err
    assert f"{mean:.4f} ±" in said.out
    line = refusal(capsys, compute_metrices, [*argv, "--metrics", "psnr"])
    assert "--metrics psnr: does not judge pictures alone; what does: arniqa" in line


def test_a_torchscript_archive_is_read_without_its_code(tmp_path):
    torch.manual_seed(0)
    module = Regressor()
    path = tmp_path / "regressor.pth"
    path.write_bytes(scripted(module))
    for name, value in load_script(path).items():
        assert torch.equal(value, getattr(module, name))
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    (pickle,) = [name for name in members if name.endswith("/data.pkl")]
    for name, content in attacks(tmp_path).items():
        with zipfile.ZipFile(path, "w") as archive:
            for member, data in {**members, pickle: content}.items():
                archive.writestr(member, data)
        with pytest.raises(UserError, match="refused"):
            load_script(path)
        assert not (tmp_path / "executed").exists(), name


@pytest.mark.parametrize("kind", ["empty", "text", "a state dict", "another module", "cut off"])
def test_other_files_are_no_torchscript(kind, serve):
    files = files_of_arniqa()
    others = {"empty": b"", "text": b"x" * 100, "a state dict": saved({"weights": torch.zeros(1)})}
    others |= {"another module": scripted(nn.Linear(1, 1)), "cut off": files["ARNIQA_REGRESSOR"][:-90]}
    serve({**files, "ARNIQA_REGRESSOR": others[kind]})
    found = build_judges(["arniqa"], [], "cpu")
    assert "ARNIQA's regressor" in found.unavailable["arniqa"]
