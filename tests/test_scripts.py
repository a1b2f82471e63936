"""The three scripts, one after the other, as a user runs them: train, resume, sample, judge."""

import json
import re

import numpy as np
import pytest
import torch
from small_runs import metrics_argv, photos, refusal, sample_argv, script, train_argv

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


def test_train_resume_sample_judge_in_own_processes(tmp_path):
    dataset = photos(tmp_path / "photos")
    done = script("train", train_argv(dataset, "--ot-ode", "--eval-every", "100", "--eval-nfe", "2"), tmp_path)
    assert done.returncode == 0, done.stderr
    assert "[Eval] psnr/baseline" in done.stderr
    assert "psnr/degraded" in done.stderr
    folder = tmp_path / "results/sr4x-pool"
    assert {"latest.pt", "options.pkl", "options.json"} <= {p.name for p in folder.iterdir()}
    assert load(folder / "latest.pt")["resume"]["iteration"] == 4

    again = script("train", ["--ckpt", "sr4x-pool", *train_argv(dataset, "--ot-ode", "--num-itr", "6")], tmp_path)
    assert again.returncode == 0, again.stderr
    assert "after iteration 4, 16 images" in again.stderr
    state = load(folder / "latest.pt")
    assert state["resume"]["iteration"] == 6
    assert state["ema"]["num_updates"] == 6
    log = (tmp_path / ".log/sr4x-pool/log.txt").read_text()
    assert "started sr4x-pool" in log
    assert "resumed sr4x-pool" in log

    restored = script("sample", sample_argv(dataset, "sr4x-pool"), tmp_path)
    assert restored.returncode == 0, restored.stderr
    recon = load(folder / "samples_nfe2/recon.pt")
    assert recon["arr"].shape == (12, 3, 32, 32)
    assert recon["arr"].dtype == torch.float32
    assert recon["label_arr"].tolist() == [label for label in range(3) for _ in range(4)]

    judged = script("compute_metrices", metrics_argv(dataset, "sr4x-pool", "samples_nfe2"), tmp_path)
    assert judged.returncode == 0, judged.stderr
    assert "PSNR" in judged.stdout
    scores = json.loads((folder / "samples_nfe2/metrics.json").read_text())["scores"]
    assert set(scores) == {"degraded", "baseline", "restored"}
    assert "samples_nfe2 over bicubic enlargement: PSNR " in judged.stdout
    assert scores["restored"]["psnr"]["num_images"] == 12


def test_metrics_agree_with_numpy(here):
    assert sample.main(sample_argv(here / "photos", "sr4x-pool")) == 0
    assert compute_metrices.main(metrics_argv(here / "photos", "sr4x-pool", "samples_nfe2")) == 0
    folder = here / "results/sr4x-pool/samples_nfe2"
    scores = json.loads((folder / "metrics.json").read_text())["scores"]
    from PIL import Image

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
    ],
)
def test_every_kind_of_task_trains_and_samples(here, corrupt, flags):
    argv = train_argv(here / "photos", "--num-itr", "1", *flags, corrupt=corrupt)
    assert train.main(argv) == 0
    assert sample.main(sample_argv(here / "photos", corrupt)) == 0
    assert compute_metrices.main(metrics_argv(here / "photos", corrupt, "samples_nfe2")) == 0
    arr = load(here / f"results/{corrupt}/samples_nfe2/recon.pt")["arr"]
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
