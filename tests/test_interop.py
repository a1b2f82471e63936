"""Files of the original release go in as they are, and what is written here goes back into it.

The original's own files lie beside the repository on developers' machines and CI; where they are absent, these tests
are skipped (the small ones among them are also in tests/interop, and read by other tests).
"""

import argparse
import importlib
import json
import pathlib
import pickle
import shutil
import sys
from pathlib import Path

import pytest
import torch
from small_runs import ROOT, metrics_argv, sample_argv

import compute_metrices
import sample
import train

sys.path.insert(0, str(ROOT / "scripts"))
export = importlib.import_module("export_safetensors")

HERE = ["--device", "cpu", "--num-workers", "0", "--eval-every", "0", "--dataset-dir", "dataset"]
INTEROP = ROOT.parent / "shared/interop"
# The original made these files on a CPU with channels last, where torch's group norm is up to 4e-3 from float64; ours
# keeps its digits there.
NEAR = 1e-2
pytestmark = pytest.mark.skipif(not INTEROP.is_dir(), reason="the original's result folders are not on this machine")


@pytest.fixture
def here(tmp_path):
    """A folder as the original left it, without its restored images: those are what we compare with."""
    shutil.copytree(INTEROP / "data", tmp_path / "data")
    shutil.copy(INTEROP / "val10k_fn.txt", tmp_path / "data/val_faster_imagefolder_10k_fn.txt")
    shutil.copytree(INTEROP / "dataset", tmp_path / "dataset")
    for name in ("jpeg-10", "jpeg-5-cond"):
        (tmp_path / "results" / name).mkdir(parents=True)
        for file in ("latest.pt", "options.pkl"):
            shutil.copy(INTEROP / "results" / name / file, tmp_path / "results" / name / file)
    return tmp_path


def load(path):
    """As the original loads its files."""
    return torch.load(path, map_location="cpu", weights_only=True)


@pytest.mark.parametrize(("name", "batch_size"), [("jpeg-10", 7), ("jpeg-5-cond", 32)])
def test_restored_images_equal_the_originals(here, name, batch_size):
    argv = sample_argv(here / "dataset", name, "--nfe", "1", "--batch-size", batch_size)
    assert sample.main(argv) == 0
    ours = load(here / f"results/{name}/samples_nfe1/recon.pt")
    theirs = load(INTEROP / f"results/{name}/samples_nfe1/recon.pt")
    assert set(theirs) == {"arr", "label_arr"} < set(ours)  # the original ignores what it does not know
    for key in theirs:
        assert ours[key].dtype == theirs[key].dtype
        assert ours[key].shape == theirs[key].shape
    assert torch.equal(ours["label_arr"], theirs["label_arr"])
    difference = (ours["arr"] - theirs["arr"]).abs().max().item()
    print(f"{name}: largest difference {difference:.1e}")
    assert difference < NEAR


def test_samples_of_the_original_are_judged(here):
    for name in ("samples_nfe1", "samples_nfe3"):
        shutil.copytree(INTEROP / f"results/jpeg-10/{name}", here / f"results/jpeg-10/{name}")
    argv = metrics_argv(here / "dataset", "jpeg-10", "samples_nfe1")
    at = argv.index("samples_nfe1")
    assert compute_metrices.main([*argv[: at + 1], "samples_nfe3", *argv[at + 1 :]]) == 0
    scores = json.loads((here / "results/jpeg-10/samples_nfe3/metrics.json").read_text())["scores"]
    assert scores["restored"]["psnr"]["num_images"] == 24


def test_parts_of_the_original(here, capsys):
    folder = here / "results/jpeg-10/samples_nfe3_clip"
    shutil.copytree(INTEROP / "results/jpeg-10/samples_nfe3_clip", folder)
    judge = metrics_argv(here / "dataset", "jpeg-10", "samples_nfe3_clip")
    assert compute_metrices.main(judge) == 2
    assert "the parts 1_4, 2_4, 3_4 are missing" in capsys.readouterr().err
    for part in ("1_4", "2_4", "3_4"):  # the original's first part, and the others by us
        argv = sample_argv(here / "dataset", "jpeg-10", "--nfe", "3", "--clip-denoise", "--partition", part)
        assert sample.main(argv) == 0
    assert compute_metrices.main(judge) == 0


@pytest.mark.parametrize("name", ["jpeg-10", "jpeg-5-cond"])
def test_training_resumes(here, name, capsys):
    before = load(here / f"results/{name}/latest.pt")
    corrupt = name.removesuffix("-cond")
    assert train.main(["--ckpt", name, "--corrupt", corrupt, "--num-itr", "4", "--log-every", "1", *HERE]) == 0
    said = capsys.readouterr().err
    assert "holds no data position and no random states" in said
    after = load(here / f"results/{name}/latest.pt")
    steps = [int(s["optimizer"]["state"][0]["step"]) for s in (before, after)]
    assert after["resume"]["iteration"] == steps[1] == 4
    assert after["sched"]["last_epoch"] == 4
    assert after["ema"]["num_updates"] == before["ema"]["num_updates"] + 4 - steps[0]


def layout(value, path=""):
    """Keys in order, types, dtypes and shapes of a nested state."""
    if isinstance(value, torch.Tensor):
        yield path, str(value.dtype), tuple(value.shape)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from layout(item, f"{path}/{key}")
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            yield from layout(item, f"{path}/{i}")
    else:
        yield path, type(value).__name__, ()


def test_a_checkpoint_of_ours_has_the_originals_layout(here):
    argv = ["--corrupt", "jpeg-10", "--name", "ours", "--image-size", "64", "--interval", "100", "--batch-size", "4"]
    assert train.main([*argv, "--num-itr", "1", "--wandb-api-key", "k" * 40, *HERE]) == 0
    ours, theirs = load(here / "results/ours/latest.pt"), load(INTEROP / "results/jpeg-10/latest.pt")
    assert {"net", "ema", "optimizer", "sched"} == set(theirs)
    for key in ("net", "ema"):
        assert list(layout(ours[key])) == list(layout(theirs[key]))
    for key in ("state", "param_groups"):
        mine, other = dict(x[:2] for x in layout(ours["optimizer"][key])), layout(theirs["optimizer"][key])
        values = {"lr", "initial_lr", "fused", "foreach"}  # the machine's way to compute
        for path, kind, _ in other:
            if path.rpartition("/")[2] not in values:
                assert mine[path] == kind, path
    assert set(theirs["sched"]) <= set(ours["sched"])

    options = pickle.loads((here / "results/ours/options.pkl").read_bytes())  # our own file, as the original opens it
    plain = (bool, int, float, str, list, dict, pathlib.PosixPath, type(None))
    assert {type(value) for value in vars(options).values()} <= set(plain)
    original = pickle.loads((INTEROP / "results/jpeg-10/options.pkl").read_bytes())
    assert isinstance(options, argparse.Namespace)
    assert set(vars(original)) <= set(vars(options))
    for key, value in vars(original).items():
        if value is not None and key != "name":
            assert isinstance(vars(options)[key], pathlib.PosixPath if isinstance(value, Path) else type(value)), key
    for path in (here / "results/ours", here / ".log"):
        for file in path.rglob("*"):
            assert not file.is_file() or b"kkkk" not in file.read_bytes(), file


def test_the_original_would_resume_from_ours(here):
    """Optimizer, schedule and average of ours fit torch's own classes over the original's parameters, by position."""
    assert train.main(["--ckpt", "jpeg-10", "--corrupt", "jpeg-10", "--num-itr", "4", *HERE]) == 0
    ours, theirs = load(here / "results/jpeg-10/latest.pt"), load(INTEROP / "results/jpeg-10/latest.pt")
    parameters = [torch.nn.Parameter(value.clone()) for value in theirs["net"].values()]
    optimizer = torch.optim.AdamW(parameters, lr=1.0)
    optimizer.load_state_dict(ours["optimizer"])
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1)
    schedule.load_state_dict(ours["sched"])
    for parameter, shadow in zip(parameters, ours["ema"]["shadow_params"], strict=True):
        assert optimizer.state[parameter]["exp_avg"].shape == shadow.shape == parameter.shape
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    schedule.step()
    assert {int(state["step"]) for state in optimizer.state.values()} == {5}
    assert schedule.last_epoch == 5


def equals_the_originals(recon):
    theirs = load(INTEROP / "results/jpeg-10/samples_nfe1/recon.pt")["arr"]
    return (load(recon)["arr"] - theirs).abs().max() < NEAR


def test_exported_weights_of_the_original_sample_alike(here):
    assert export.main(["--ckpt", "jpeg-10", "--out", "results/exported"]) == 0
    shutil.rmtree(here / "results/jpeg-10")
    (here / "data/256x256_diffusion_uncond_fixedsigma.pkl").unlink()  # ema.safetensors says it by itself
    assert sample.main(sample_argv(here / "dataset", "exported", "--nfe", "1")) == 0
    assert equals_the_originals(here / "results/exported/samples_nfe1/recon.pt")


def test_a_network_named_by_hand_serves_as_well(here):
    file = here / "data/256x256_diffusion_uncond_fixedsigma.pkl"
    kwargs = pickle.loads(file.read_bytes())  # our fixture's own
    file.unlink()
    names = ("num_channels", "num_res_blocks", "channel_mult", "num_head_channels")
    flags = [word for name in names for word in (f"--{name.replace('_', '-')}", str(kwargs[name]))]
    flags += ["--net", "adm-256", "--attention-resolutions", "128"]  # half the size, as 32 is of the original's 64
    assert sample.main(sample_argv(here / "dataset", "jpeg-10", "--nfe", "1", *flags)) == 0
    assert equals_the_originals(here / "results/jpeg-10/samples_nfe1/recon.pt")


def test_options_of_a_gpu_machine_serve_here(here):
    shutil.copy(INTEROP / "options_cuda.pkl", here / "results/jpeg-10/options.pkl")
    argv = sample_argv(here / "dataset", "jpeg-10", "--nfe", "1", "--image-size", "64", "--batch-size", "24")
    assert sample.main(argv) == 0
    ours = load(here / "results/jpeg-10/samples_nfe1/recon.pt")["arr"]
    assert ours.isfinite().all()
