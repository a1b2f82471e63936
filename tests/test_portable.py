"""Weights for others: exported as safetensors, sampled from, trained from; broken ones refused."""

import importlib
import json
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_runs import ROOT, photos, sample_argv, train_argv

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
        assert export.main(["--ckpt", "a", "--out", "results/b"]) == 0
    return folder


@pytest.fixture
def here(place, tmp_path, monkeypatch):
    shutil.copytree(place, tmp_path / "run")
    monkeypatch.chdir(tmp_path / "run")
    return tmp_path / "run"


def test_the_files_hold_the_average_and_its_description(here):
    state = torch.load("results/a/latest.pt", weights_only=True)
    exported = load_file("results/b/ema.safetensors")
    assert sorted(exported) == sorted(state["net"])
    for name, average in zip(state["net"], state["ema"]["shadow_params"]):
        assert torch.equal(exported[name], average)
    about = json.loads((here / "results/b/ema.json").read_text())
    assert about["network"]["in_channels"] == 6
    assert about["bridge"]["interval"] == 10
    assert {path.name for path in (here / "results/b").iterdir()} == {"ema.json", "ema.safetensors"}


def test_the_folder_samples_as_the_checkpoint_does(here):
    for name in "ab":
        assert sample.main(sample_argv(here / "photos", name)) == 0
    arrays = [torch.load(f"results/{name}/samples_nfe2/recon.pt", weights_only=True)["arr"] for name in "ab"]
    assert torch.equal(*arrays)


def test_a_training_starts_from_it(here, capsys):
    assert train.main(train_argv(here / "photos", "--ckpt", "b", "--name", "c", "--num-itr", "2", "--cond-x1")) == 0
    assert "weights alone: a new training starts from them, at iteration 0" in capsys.readouterr().err
    assert torch.load("results/c/latest.pt", weights_only=True)["resume"]["iteration"] == 2


def without_a_tensor(folder):
    tensors = load_file(folder / "ema.safetensors")
    tensors.pop(sorted(tensors)[0])
    save_file(tensors, folder / "ema.safetensors")


def whole_numbers(folder):
    tensors = load_file(folder / "ema.safetensors")
    save_file({name: tensor.long() for name, tensor in tensors.items()}, folder / "ema.safetensors")


def written(name, data):
    return lambda folder: (folder / name).write_bytes(data)


def tensors_of(dtype, data):
    about = json.dumps({"x": {"dtype": dtype, "shape": [2], "data_offsets": [0, len(data)]}}).encode()
    return written("ema.safetensors", len(about).to_bytes(8, "little") + about + data)


def other_network(value, key="num_channels"):
    def change(folder):
        about = json.loads((folder / "ema.json").read_text())
        about["network"][key] = value
        (folder / "ema.json").write_text(json.dumps(about))

    return change


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without_a_tensor, "ema.safetensors: its network does not fit: it lacks"),
        (whole_numbers, "ema.safetensors: refused: it holds tensors that are no weights"),
        (written("ema.safetensors", b""), "ema.safetensors: refused: "),
        (written("ema.safetensors", b"\xff" * 8), "ema.safetensors: refused: "),
        (written("ema.safetensors", (2**40).to_bytes(8, "little") + b"{}"), "ema.safetensors: refused: "),
        (written("ema.json", b""), "ema.json: refused: it is no JSON"),
        (written("ema.json", b"[" * 100_000), "ema.json: refused: it is no JSON"),
        (written("ema.json", b"{}"), "ema.json: refused: it has no bridge and network of format 1"),
        (other_network(64), "ema.safetensors: its network does not fit: it has"),
        (tensors_of("F4", b"1"), "ema.safetensors: refused: it holds tensors that are no weights (torch.float4_e2m1fn"),
        (tensors_of("F8_E8M0", b"12"), "ema.safetensors: refused: it holds tensors that are no weights (torch.float8"),
        (tensors_of("F8_E5M2", b"12"), "ema.safetensors: refused: it holds tensors that are no weights (torch.float8"),
        (other_network(33), "ema.json: the network cannot be built: "),
        (other_network(True, "channel_mult"), "ema.json: the network cannot be built: channel_mult is True, which is"),
        (other_network([32]), "ema.json: refused: num_channels of its network is no plain value"),
    ],
)
def test_broken_ones_are_refused_in_one_line(here, capsys, damage, message):
    damage(here / "results/b")
    assert sample.main(sample_argv(here / "photos", "b")) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("sample.py: error: ")
    assert message in last
