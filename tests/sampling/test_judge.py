"""compute_metrices.py with real features: FID against clean-fid's own pipeline, its references, parts, folders.

Inception cannot be fetched everywhere; EfficientNet-Lite0, pretrained on ImageNet, comes inside a wheel.
"""

import json
import shlex
import shutil
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from cleanfid.fid import fid_from_feats
from PIL import Image
from processes import ROOT
from small_runs import FOLDER, NAME, efficientnet, images, metrics_argv, refusal, sample_argv, train_argv

import compute_metrices
import sample
import train
from evaluation import inception, lpips
from evaluation.fid import Features as Statistics
from evaluation.fid import FeatureSums, save_statistics
from evaluation.kid import kid
from evaluation.metrics import MetricUnavailable
from i2sb.pixels import to_float

DIM = 12  # features: a covariance of 24 images tells no more than 23 apart


class Features(torch.nn.Module):
    """uint8 [B, 3, H, W] -> pooled features of EfficientNet-Lite0, turned into DIM of them."""

    num_features = DIM

    def __init__(self):
        super().__init__()
        self.network = efficientnet()
        basis = np.linalg.qr(np.random.default_rng(0).standard_normal((1280, DIM)))[0]
        self.register_buffer("basis", torch.from_numpy(basis).float())
        self.images = 0

    def forward(self, x):
        self.images += len(x)
        return self.network.extract_features(to_float(x)).mean(dim=(2, 3)) @ self.basis


@pytest.fixture(scope="module")
def network():
    return Features()


@pytest.fixture
def features(network, monkeypatch):
    """In Inception's place."""
    monkeypatch.setattr(inception, "build_inception", lambda mode, device: network)
    network.images = 0
    return network


def judge(here, *flags, name=NAME):
    argv = metrics_argv(here / "photos", name, "samples_nfe2", "--batch-size", "7", *flags)
    assert compute_metrices.main(argv) == 0
    return json.loads((here / "results" / name / "samples_nfe2/metrics.json").read_text())


def retrain(here, corrupt="jpeg-10"):
    """The checkpoint becomes another one, of another task."""
    argv = train_argv(here / "photos", "--num-itr", "1", "--name", NAME, "--overwrite", corrupt=corrupt)
    assert train.main(argv) == 0


def values(content):
    return {metric: score["value"] for metric, score in content["scores"]["restored"].items()}


def read(folder):
    """uint8 [n, 3, S, S], by Pillow."""
    pictures = [np.asarray(Image.open(path)) for path in sorted(folder.rglob("*.png"))]
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()


def statistics(features, images):
    sums = FeatureSums(len(images))
    sums.add(features(images))
    return sums.finish()


def test_fid_equals_cleanfids_and_every_kind_of_reference_agrees(restored, features, tmp_path):
    truncated = ((images(restored / FOLDER) + 1) * 127.5).clamp(0, 255).to(torch.uint8)
    clean = read(restored / "photos/val")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # clean-fid calls scipy's sqrtm in a way that SciPy deprecates
        expected = fid_from_feats(*(features(pixels).double().numpy() for pixels in (truncated, clean)))
    assert expected > 1e-2
    save_statistics(tmp_path / "file.npz", statistics(features, clean))
    found = {}
    for reference in (None, tmp_path / "file.npz", restored / "photos/val", restored / "photos"):
        flags = [] if reference is None else ["--fid-ref", reference]
        found[str(reference)] = values(judge(restored, "--metrics", "fid", *flags))["fid"]
    assert found == pytest.approx(dict.fromkeys(found, expected), rel=1e-6)


def test_statistics_of_the_validation_set_are_kept(restored, features):
    first = judge(restored, "--metrics", "fid")
    assert features.images == 48
    (path,) = (restored / "data").glob("fid_data-*_32_val.npz")
    judge(restored, "--metrics", "fid")
    assert features.images == 72  # the restored ones only
    path.unlink()
    assert values(judge(restored, "--metrics", "fid")) == values(first)


def test_imagenets_statistics_have_the_published_name(here, features):
    for folder in (here / "photos").glob("*.lmdb*"):
        shutil.rmtree(folder) if folder.is_dir() else folder.unlink()
    for split in ("train", "val"):
        for number, folder in enumerate(sorted((here / "photos" / split).iterdir())):
            folder.rename(folder.with_name(f"n{number:08d}"))
    paths = sorted((here / "photos/val").glob("*/*.png"))
    (here / "list.txt").write_text("".join(f"{path.parent.name}/{path.name}\n" for path in paths[::2]))
    limit = ["--val-list", str(here / "list.txt")]
    assert train.main(train_argv(here / "photos", "--num-itr", "1", *limit, corrupt="jpeg-10")) == 0
    assert sample.main(sample_argv(here / "photos", "jpeg-10", *limit)) == 0
    path = here / "data/fid_imagenet_32_val.npz"
    save_statistics(path, Statistics(np.zeros(DIM), np.eye(DIM)), "other images")  # is computed again
    content = judge(here, "--metrics", "fid", *limit, name="jpeg-10")
    assert content["settings"]["num_images"] == 12
    with np.load(path) as arrays:
        # of the whole set, as published
        np.testing.assert_allclose(arrays["mu"], features(read(here / "photos/val")).double().mean(0), atol=1e-5)
    save_statistics(path, Statistics(np.zeros(DIM), np.eye(DIM)))  # the original names no source: trusted
    features.images = 0
    judge(here, "--metrics", "fid", *limit, name="jpeg-10")
    assert features.images == 12  # the restored ones


def test_kid_needs_images_and_has_them(restored, features, tmp_path):
    truncated = ((images(restored / FOLDER) + 1) * 127.5).clamp(0, 255).to(torch.uint8)
    clean = read(restored / "photos/val")
    expected = 1000 * kid(features(truncated), features(clean))
    assert values(judge(restored, "--metrics", "kid", "fid"))["kid"] == pytest.approx(expected, rel=1e-4)
    save_statistics(tmp_path / "file.npz", statistics(features, clean))
    score = judge(restored, "--metrics", "kid", "--fid-ref", tmp_path / "file.npz")["scores"]["restored"]["kid"]
    assert score["value"] is None
    assert "needs images as its reference" in score["note"]


def test_several_folders_and_parts_are_judged_alike(restored, capsys):
    assert sample.main(sample_argv(restored / "photos", NAME, "--nfe", "1", "--recon-dtype", "uint8")) == 0
    whole = judge(restored)
    name = restored / "results" / NAME / "samples_nfe3"
    for part in ("0_2", "1_2"):
        assert sample.main(sample_argv(restored / "photos", NAME, "--nfe", "3", "--partition", part)) == 0
    capsys.readouterr()
    together = metrics_argv(restored / "photos", NAME, "samples_nfe1", "samples_nfe2", "samples_nfe3")
    assert compute_metrices.main(together) == 0
    out = capsys.readouterr().out
    assert all(out.count(f"restored, samples_nfe{nfe}") == 1 for nfe in (1, 2, 3))
    assert out.count("degraded") == 1
    assert json.loads((restored / FOLDER / "metrics.json").read_text()) == whole
    assert json.loads((name / "metrics.json").read_text())["scores"]["restored"]["psnr"]["num_images"] == 24
    (name / "recon_1_2.pt").unlink()
    last = refusal(capsys, compute_metrices, together)
    assert "the parts 1_2 are missing; sample.py --partition makes them" in last
    assert json.loads((restored / FOLDER / "metrics.json").read_text()) == whole


def test_the_degraded_images_see_the_noise_of_the_samples(here):
    """A mixture draws which degradation an image gets: judging with another seed must not draw again."""
    argv = train_argv(here / "photos", "--num-itr", "1", corrupt="mixture")
    assert train.main(argv) == 0
    assert sample.main(sample_argv(here / "photos", "mixture", "--seed", "3")) == 0
    scores = [judge(here, "--seed", seed, name="mixture")["scores"]["degraded"] for seed in (0, 3)]
    assert scores[0] == scores[1]


def test_nan_in_an_image_is_one_line(restored, capsys):
    as_the_original_writes(restored, brighter=float("nan"))
    argv = metrics_argv(restored / "photos", NAME, "samples_nfe2")
    assert "NaN or inf in images 0 to 23" in refusal(capsys, compute_metrices, argv)


def test_metrics_without_weights_say_why(restored, monkeypatch):
    def nothing(*args):
        raise MetricUnavailable("the weights: could not be fetched")

    monkeypatch.setattr(inception, "build_inception", nothing)
    monkeypatch.setattr(lpips, "build_lpips", nothing)
    scores = judge(restored, "--metrics", "psnr", "accuracy", "fid", "kid", "lpips")["scores"]["restored"]
    assert scores["psnr"]["value"] > 0
    assert {m for m, s in scores.items() if s["value"] is None} == {"accuracy", "fid", "kid", "lpips"}
    assert all(scores[m]["note"] == "the weights: could not be fetched" for m in ("fid", "kid", "lpips"))
    assert scores["accuracy"]["note"]


def columns(folder):
    return (folder / "metrics_per_image.csv").read_text().splitlines()[0].split(",")


def test_scores_of_the_same_run_are_merged_and_of_another_dropped(restored, features):
    folder = restored / FOLDER
    first = values(judge(restored, "--metrics", "psnr", "ssim"))
    merged = values(judge(restored, "--metrics", "psnr"))
    assert merged == first
    assert {"psnr_restored", "ssim_restored", "ssim_degraded"} < set(columns(folder))
    with_fid = judge(restored, "--metrics", "fid", "--fid-ref", restored / "photos/val")
    assert set(values(with_fid)) == {"psnr", "ssim", "fid"}
    assert list(with_fid["scores"]) == ["degraded", "baseline", "restored"]
    kept = judge(restored, "--metrics", "psnr")
    assert kept["scores"] == with_fid["scores"]
    assert kept["settings"]["fid_reference"] == str(restored / "photos/val")
    assert set(values(judge(restored, "--metrics", "kid"))) == {"psnr", "ssim", "kid"}  # another reference

    again = sample_argv(restored / "photos", NAME, "--seed", "1", "--overwrite")
    assert sample.main(again) == 0
    now = values(judge(restored, "--metrics", "psnr"))
    assert set(now) == {"psnr"}
    assert now["psnr"] != first["psnr"]
    assert columns(folder) == ["image", "psnr_degraded", "psnr_baseline", "psnr_restored", "run"]


def as_the_original_writes(place, brighter=0.0):
    """recon.pt with nothing that says how it was made."""
    path = place / FOLDER / "recon.pt"
    content = torch.load(path, weights_only=True)
    torch.save({"arr": content["arr"] + brighter, "label_arr": content["label_arr"]}, path)
    path.with_suffix(".json").unlink(missing_ok=True)


def test_scores_of_a_replaced_original_are_dropped(restored):
    as_the_original_writes(restored)
    assert set(values(judge(restored))) == {"psnr", "ssim"}
    shutil.copy(restored / FOLDER / "recon.pt", restored / "copy.pt")
    (restored / "copy.pt").rename(restored / FOLDER / "recon.pt")  # another age, the same images
    assert set(values(judge(restored, "--metrics", "psnr"))) == {"psnr", "ssim"}
    as_the_original_writes(restored, brighter=0.1)
    assert set(values(judge(restored, "--metrics", "psnr"))) == {"psnr"}


def test_samples_are_judged_as_the_task_they_were_made_for(restored, capsys):
    before = judge(restored)
    retrain(restored)
    capsys.readouterr()
    after = judge(restored)
    assert after["scores"] == before["scores"]
    assert after["settings"]["corrupt"] == "sr4x-pool"
    assert "is no longer the checkpoint that restored these images" in "".join(capsys.readouterr())
    as_the_original_writes(restored)  # nothing says the task: the checkpoint's
    assert judge(restored)["settings"]["corrupt"] == "jpeg-10"


def test_folders_of_several_tasks_are_judged_one_by_one(restored, capsys):
    retrain(restored)
    assert sample.main(sample_argv(restored / "photos", NAME, "--nfe", "1")) == 0
    last = refusal(capsys, compute_metrices, metrics_argv(restored / "photos", NAME, "samples_nfe1", "samples_nfe2"))
    assert "differ in task (samples_nfe1: jpeg-10, samples_nfe2: sr4x-pool)" in last


def test_fid_of_one_image_loses_no_other_score(restored, features):
    path = sorted((restored / "photos/val").glob("*/*.png"))[0]
    (restored / "one.txt").write_text(f"{path.parent.name}/{path.name}\n")
    one = ["--val-list", str(restored / "one.txt")]
    assert sample.main(sample_argv(restored / "photos", NAME, "--overwrite", *one)) == 0
    scores = judge(restored, "--metrics", "psnr", "fid", "kid", *one)["scores"]["restored"]
    assert scores["psnr"]["value"] > 0
    assert all((scores[m]["value"], scores[m]["note"]) == (None, "needs at least two images") for m in ("fid", "kid"))


def test_a_standard_output_that_nobody_reads_costs_the_table_alone(restored):
    command = [sys.executable, ROOT / "compute_metrices.py", *metrics_argv(restored / "photos", NAME, "samples_nfe2")]
    line = f"{shlex.join(map(str, [*command, '--report']))} | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], stderr=subprocess.PIPE, text=True, timeout=120)
    folder = restored / FOLDER
    assert (folder / "metrics.json").exists()
    assert (folder / "report.html").exists()
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
