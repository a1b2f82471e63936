"""Grey images, images with more channels, rectangles, pairs, and folders without classes, through the three scripts."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_runs import metrics_argv, refusal, sample_argv, train_argv

import compute_metrices
import sample
import train
from evaluation import inception, lpips
from evaluation.metrics import build_judges
from i2sb.runtime.reading import load_torch

MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def write_images(folder: Path, channels: int, size: tuple[int, int], count: int, seed: int = 0) -> list[np.ndarray]:
    """Images [H,W,C] of smooth colours: PNG, or arrays where PNG has no such channels."""
    folder.mkdir(parents=True)
    rng, height, width = np.random.default_rng(seed), *size
    images = []
    for number in range(count):
        small = rng.integers(0, 256, (3, 3, channels), dtype=np.uint8)
        bands = [Image.fromarray(small[..., c]).resize((width, height), Image.BICUBIC) for c in range(channels)]
        images.append(np.stack([np.asarray(band) for band in bands], axis=2))
        path = folder / f"{number}.png"
        if channels in MODES:
            Image.fromarray(images[-1].squeeze()).save(path)
        else:
            np.save(path.with_suffix(".npy"), images[-1])
    return images


def psnr(image: np.ndarray, clean: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((image.astype(float) - clean) ** 2)))


def run(data: Path, name: str, train_flags: list[str], metrics: list[str], corrupt: str) -> tuple[dict, torch.Tensor]:
    """Train, restore, evaluate with a report; what metrics.json holds, and the restored images."""
    assert train.main(train_argv(data, "--name", name, *train_flags, corrupt=corrupt)) == 0
    looks = ["--save-images", "png", "--save-trajectory", "1", "--batch-size", "2"]
    assert sample.main(sample_argv(data, name, *looks)) == 0
    judged = metrics_argv(data, name, "samples_nfe2", "--metrics", *metrics, "--report")
    assert compute_metrices.main(judged) == 0
    folder = Path("results", name, "samples_nfe2")
    return json.loads((folder / "metrics.json").read_text())["scores"], load_torch(folder / "recon.pt")["arr"]


def features_of_rgb(images: torch.Tensor) -> torch.Tensor:
    """In Inception's place: uint8 [B,3,H,W] -> [B,6]."""
    assert images.shape[1] == 3
    return torch.cat([images.float().mean(dim=(2, 3)), images.float().std(dim=(2, 3))], dim=1)


def distance_of_rgb(images: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
    """In LPIPS's place."""
    assert images.shape == clean.shape
    assert images.shape[1] == 3
    return (images - clean).abs().mean(dim=(1, 2, 3))


def test_metrics_that_small_images_are_too_small_for():
    found = build_judges(["psnr", "ssim", "lpips"], [], "cpu", shape=(3, 10, 40))
    assert set(found.per_image) == {"psnr"}
    texts = {"ssim": "needs images of at least 11 pixels", "lpips": "needs images of at least 31 pixels"}
    assert found.unavailable == texts


@pytest.mark.parametrize(
    ("channels", "height", "width", "corrupt", "flags"),
    [(1, 32, 40, "jpeg-10", ["--cond-x1"]), (4, 20, 12, "sr4x-pool", []), (5, 16, 16, "inpaint-center", [])],
)
def test_a_bridge_of_other_images(tmp_path, monkeypatch, channels, height, width, corrupt, flags):
    monkeypatch.setattr(inception, "build_inception", lambda mode, device: features_of_rgb)
    monkeypatch.setattr(lpips, "build_lpips", lambda device: distance_of_rgb)
    write_images(tmp_path / "data/train", channels, (height, width), 6, seed=1)
    clean = write_images(tmp_path / "data/val", channels, (height, width), 3)
    size = f"{height},{width}"
    train_flags = ["--channels", str(channels), "--image-size", size, "--eval-every", "2", "--eval-nfe", "2", *flags]
    train_flags += ["--log-writer", "tensorboard"]
    scores, restored = run(
        tmp_path / "data", "other", train_flags, ["psnr", "ssim", "accuracy", "fid", "lpips"], corrupt
    )

    assert list(restored.shape) == [3, channels, height, width]
    pixels = ((restored + 1) * 127.5).clamp(0, 255).round().byte().permute(0, 2, 3, 1).numpy()
    restored_scores = scores["restored"]
    expected = np.mean([psnr(image, target) for image, target in zip(pixels, clean)])
    assert restored_scores["psnr"]["value"] == pytest.approx(expected, abs=1e-3)
    assert restored_scores["ssim"]["value"] > 0
    no_accuracy = "this data set has no classes" if channels == 1 else f"not available for {channels} channels"
    assert restored_scores["accuracy"]["note"] == no_accuracy
    for metric in ("fid", "lpips"):
        if channels == 1:
            assert restored_scores[metric]["value"] > 0
        else:
            assert restored_scores[metric]["note"] == f"not available for {channels} channels"

    folder = Path("results/other/samples_nfe2")
    shown = pixels if channels == 4 else pixels[..., : min(channels, 3)].squeeze()
    for path, expected in zip(sorted(folder.glob("images/**/*.png")), shown, strict=True):
        with Image.open(path) as picture:
            assert picture.mode == MODES.get(channels, "RGB")
            np.testing.assert_array_equal(np.asarray(picture), expected)
    page = (folder / "report.html").read_text()
    assert f'width="{width}" height="{height}"' in page
    assert page.count('<figure class="card trajectory') == 1  # it ends in the restored image
    assert re.search(rf"<dt><bdi>image_size</bdi></dt><dd><bdi>{size if height != width else height}<", page)


def test_rgba_rectangles_are_resumed_and_not_mixed_up(tmp_path, capsys):
    for split in ("train", "val"):
        write_images(tmp_path / "data" / split, 4, (20, 12), 2)
    argv = train_argv(tmp_path / "data", "--channels", "4", "--image-size", "20,12", "--name", "run")
    assert train.main([*argv, "--num-itr", "1"]) == 0
    of_run = train_argv(tmp_path / "data", "--ckpt", "run")
    of_run = of_run[: of_run.index("--image-size")] + of_run[of_run.index("--image-size") + 2 :]
    assert train.main([*of_run, "--num-itr", "2"]) == 0
    said = capsys.readouterr().err
    assert "--channels 4, as run was trained with" in said
    assert "--image-size 20,12, as run was trained with" in said
    last = refusal(capsys, train, [*of_run, "--channels", "3"])
    assert "cannot be resumed with --channels 3 (trained with 4)" in last
    assert sample.main(sample_argv(tmp_path / "data", "run", "--save-images", "jpg")) == 0
    judged = metrics_argv(tmp_path / "data", "run", "samples_nfe2", "--metrics", "psnr")
    assert compute_metrices.main(judged) == 0


def test_pairs_are_restored_and_evaluated_as_they_are(tmp_path):
    """The degraded image is the pair's own; no operator is asked."""
    for split, count in (("train", 6), ("val", 3)):
        clean = write_images(tmp_path / f"data/{split}B", 3, (16, 16), count, seed=count)
        (tmp_path / f"data/{split}A").mkdir()
        degraded = [255 - image // 2 for image in clean]
        for number, image in enumerate(degraded):
            Image.fromarray(image).save(tmp_path / f"data/{split}A/{number}.png")
    flags = ["--image-size", "16", "--cond-x1", "--eval-every", "2", "--eval-nfe", "2"]
    scores, restored = run(tmp_path / "data", "pairs", flags, ["psnr"], "paired")
    assert list(restored.shape) == [3, 3, 16, 16]
    expected = np.mean([psnr(image, target) for image, target in zip(degraded, clean)])
    assert scores["degraded"]["psnr"]["value"] == pytest.approx(expected, abs=1e-3)


def test_a_bridge_of_pairs_goes_on_as_one_of_another_task(tmp_path):
    write_images(tmp_path / "data/train", 3, (16, 32), 2)
    argv = train_argv(tmp_path / "data", "--image-size", "16", "--name", "run")
    assert train.main([*argv, "--corrupt", "paired", "--pair-layout", "side-by-side", "--num-itr", "1"]) == 0
    assert train.main([*argv, "--ckpt", "run", "--num-itr", "2"]) == 0
