"""The three scripts, one after the other, as a user runs them: train, sample, judge."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_runs import metrics_argv, photos, refusal, sample_argv, train_argv

import compute_metrices
import sample
import train


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a data set and one trained checkpoint, results/sr4x-pool."""
    folder = tmp_path_factory.mktemp("place")
    dataset = photos(folder / "photos")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert train.main(train_argv(dataset, "--ot-ode")) == 0
    return folder


def load(path):
    return torch.load(path, weights_only=True)


def test_metrics_agree_with_numpy(here, capsys):
    assert sample.main(sample_argv(here / "photos", "sr4x-pool")) == 0
    assert compute_metrices.main(metrics_argv(here / "photos", "sr4x-pool", "samples_nfe2")) == 0
    assert "samples_nfe2 over bicubic enlargement: PSNR " in capsys.readouterr().out
    folder = here / "results/sr4x-pool/samples_nfe2"
    scores = json.loads((folder / "metrics.json").read_text())["scores"]
    paths = sorted((here / "photos/val").glob("*/*.png"))
    clean = np.stack([np.asarray(Image.open(path)) for path in paths]).astype(np.float64)
    arr = load(folder / "recon.pt")["arr"].double().numpy().transpose(0, 2, 3, 1)
    restored = np.round(np.clip((arr + 1) * 127.5, 0, 255))
    blocks = clean.reshape(len(clean), 8, 4, 8, 4, 3).mean((2, 4))
    degraded = np.round(blocks.repeat(4, 1).repeat(4, 2))
    small = [Image.fromarray(image[::4, ::4].astype(np.uint8)) for image in degraded]
    baseline = np.stack([image.resize((32, 32), Image.Resampling.BICUBIC) for image in small]).astype(np.float64)
    for name, images in {"restored": restored, "degraded": degraded, "baseline": baseline}.items():
        psnr = 20 * np.log10(255) - 10 * np.log10(((images - clean) ** 2).mean((1, 2, 3)))
        assert scores[name]["psnr"]["value"] == pytest.approx(psnr.mean(), abs=0.02)
    rows = (folder / "metrics_per_image.csv").read_text().splitlines()
    assert rows[0] == "image,psnr_degraded,ssim_degraded,psnr_baseline,ssim_baseline,psnr_restored,ssim_restored,run"
    assert len(rows) == 13


@pytest.mark.parametrize(
    ("corrupt", "flags"),
    [
        ("jpeg-10", []),
        ("blur-uni", ["--add-x1-noise"]),
        ("sr4x-bicubic", ["--cond-x1", "--add-x1-noise"]),
        ("inpaint-center", ["--cond-x1"]),
        ("inpaint-freeform2030", []),
        ("mixture", ["--cond-x1"]),
        ("denoise-25", ["--ot-ode"]),
        ("sr2x-bicubic", ["--ot-ode"]),
        ("blur-gauss-2", ["--ot-ode"]),
        ("inpaint-masks=masks", ["--ot-ode"]),
        ("colorize", ["--ot-ode"]),
    ],
)
def test_every_kind_of_task_trains_and_samples(here, corrupt, flags):
    Path("masks").mkdir()
    Image.linear_gradient("L").save("masks/half.png")
    argv = train_argv(here / "photos", "--num-itr", "1", "--name", "x", *flags, corrupt=corrupt)
    assert train.main(argv) == 0
    assert sample.main(sample_argv(here / "photos", "x")) == 0
    assert compute_metrices.main(metrics_argv(here / "photos", "x", "samples_nfe2")) == 0
    arr = load("results/x/samples_nfe2/recon.pt")["arr"]
    assert arr.isfinite().all()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (lambda h: train_argv(h / "photos"), "there is a checkpoint already; resume it by --ckpt"),
        (
            lambda h: train_argv(h / "photos", "--ckpt", "sr4x-pool", "--beta-max", "1.0"),
            "cannot be resumed with --beta-max 1.0 .trained with 0.3.",
        ),
        (lambda h: train_argv(h / "nowhere", "--name", "x"), "there is no such folder"),
    ],
)
def test_training_errors_are_one_line(here, capsys, argv, message):
    assert re.search(message, refusal(capsys, train, argv(here)))


def test_judging_errors_are_one_line(here, capsys):
    judge = metrics_argv(here / "photos", "sr4x-pool", "samples_nfe9")
    assert "there is no folder results/sr4x-pool/samples_nfe9" in refusal(capsys, compute_metrices, judge)
    assert sample.main(sample_argv(here / "photos", "sr4x-pool")) == 0
    other = metrics_argv(photos(here / "other", val=2), "sr4x-pool", "samples_nfe2")
    assert "holds 12 images, the data set has 6" in refusal(capsys, compute_metrices, other)
    ten = sample_argv(here / "photos", "sr4x-pool", "--nfe", "10")
    assert "trained with --interval 10: at most 9" in refusal(capsys, sample, ten)
