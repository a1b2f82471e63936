"""Weights for others: exported as safetensors, sampled from, trained from; broken ones refused."""

import importlib
import json
import sys

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_runs import ROOT, photos, refusal, sample_argv, train_argv

import sample
import train

sys.path.insert(0, str(ROOT / "scripts"))
export = importlib.import_module("export_safetensors")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("place")
    photos(folder / "photos")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert train.main(train_argv(folder / "photos", "--name", "a", "--cond-x1")) == 0
        assert export.main(["--ckpt", "results/a/latest.pt", "--out", "results/b"]) == 0
    return folder


def test_the_files_hold_the_average_and_its_description(here):
    state = torch.load("results/a/latest.pt", weights_only=True)
    exported = load_file("results/b/ema.safetensors")
    assert sorted(exported) == sorted(state["net"])
    for name, average in zip(state["net"], state["ema"]["shadow_params"]):
        assert torch.equal(exported[name], average)
    about = json.loads((here / "results/b/ema.json").read_text())
    assert about["bridge"]["network"]["in_channels"] == 6
    assert about["bridge"]["interval"] == 10
    assert {path.name for path in (here / "results/b").iterdir()} == {"ema.json", "ema.safetensors", "README.md"}
    card = (here / "results/b/README.md").read_text()
    assert card.startswith("---\npipeline_tag: image-to-image\n")
    assert "\n| task | sr4x-pool |\n" in card
    assert "\n| interval | 10 |\n" in card
    program = card.partition("```python\n")[2].partition("```")[0]
    (here / "card").mkdir()
    Image.new("RGB", (8, 8), "red").save("card/degraded.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here / "card")
        exec(program.replace('"."', '"../results/b"').replace("nfe=10", "nfe=2"))
    with Image.open("card/restored.png") as picture:
        assert picture.size == (32, 32)


def test_the_folder_samples_as_the_checkpoint_does(here):
    for name in "ab":
        assert sample.main(sample_argv(here / "photos", name)) == 0
    arrays = [torch.load(f"results/{name}/samples_nfe2/recon.pt", weights_only=True)["arr"] for name in "ab"]
    assert torch.equal(*arrays)


def test_a_training_starts_from_it(here, capsys):
    assert train.main(train_argv(here / "photos", "--ckpt", "b", "--name", "c", "--num-itr", "2", "--cond-x1")) == 0
    shown = capsys.readouterr().err
    assert "weights alone: a new training starts from them, at iteration 0" in shown
    assert "[Resume] --" not in shown  # of its training it says nothing
    assert "resumed c" not in shown
    assert torch.load("results/c/latest.pt", weights_only=True)["resume"]["iteration"] == 2


def resave(folder, change):
    path = folder / "ema.safetensors"
    with safe_open(path, "pt") as file:
        metadata = {key: value for key, value in file.metadata().items() if key != "sha256"}
    changed = {name: change(name, tensor) for name, tensor in load_file(path).items()}
    save_file({name: tensor for name, tensor in changed.items() if tensor is not None}, path, metadata)


def of_another_bridge(folder):
    about = json.loads((folder / "ema.json").read_text())
    about["bridge"]["beta_max"] = 1.0
    (folder / "ema.json").write_text(json.dumps(about))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda folder: resave(folder, lambda name, tensor: None if name.endswith("out.2.bias") else tensor),
            "ema.safetensors: its weights do not fit the network of the options: Missing key",
        ),
        (
            lambda folder: resave(folder, lambda name, tensor: tensor.long()),
            "ema.safetensors: refused: its tensors hold integers",
        ),
        (
            lambda folder: save_file(load_file(folder / "ema.safetensors"), folder / "ema.safetensors"),
            "ema.safetensors: its metadata describe no bridge",
        ),
        (of_another_bridge, "ema.json: is not that of ema.safetensors (beta_max 1.0, not 0.3)"),
        (lambda folder: (folder / "ema.json").write_bytes(b"{"), "ema.json"),
        (lambda folder: (folder / "ema.json").write_bytes(b"{}"), "ema.json: describes no bridge"),
    ],
)
def test_what_does_not_belong_together_is_refused_in_one_line(here, capsys, damage, message):
    damage(here / "results/b")
    assert message in refusal(capsys, sample, sample_argv(here / "photos", "b"))


@pytest.mark.parametrize("where", [b'\\"beta_max\\": 0.', b"the last tensor"])
def test_a_flipped_bit_is_found(here, capsys, where):
    (here / "results/b/ema.json").unlink()
    path = here / "results/b/ema.safetensors"
    content = bytearray(path.read_bytes())
    content[content.index(where) + len(where) if where in content else -3] ^= 1
    path.write_bytes(content)
    assert "ema.safetensors: damaged" in refusal(capsys, sample, sample_argv(here / "photos", "b"))


def test_weights_alone_are_enough_and_without_a_checksum_a_warning(here, capsys):
    (here / "results/b/ema.json").unlink()
    resave(here / "results/b", lambda name, tensor: tensor)
    assert sample.main(sample_argv(here / "photos", "b")) == 0
    assert "ema.safetensors: was written without a checksum" in capsys.readouterr().err
