"""The trained models in the package: found by name from any folder, and better than the classical answer."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_runs import refusal

import i2sb.export
import sample
from corruption.build import create_corruption
from i2sb.bridge import Bridge
from i2sb.export import demos
from i2sb.photographs import from_pil
from scripts import restore_examples

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples/photographs"
TASKS = {"demo-sr4x-bicubic": "sr4x-bicubic", "demo-jpeg-10": "jpeg-10", "demo-deblur": "blur-gauss-2"}


def photograph(side=160):
    """The middle of an example photograph."""
    with Image.open(EXAMPLES / "moose.jpg") as image:
        left, top = (image.width - side) // 2, (image.height - side) // 2
        return image.convert("RGB").crop((left, top, left + side, top + side))


def psnr(image, clean):
    return -10 * np.log10(np.mean((np.asarray(image, float) - np.asarray(clean, float)) ** 2) / 255**2)


def test_all_are_there_small_and_described():
    files = demos()
    assert set(files) == set(TASKS)
    sizes = [file.stat().st_size for file in files.values()]
    assert max(sizes) <= 8e6
    assert sum(sizes) <= 25e6
    for file in files.values():
        card = file.with_suffix(".md").read_text()
        for said in ("scripts/train_demo.sh", "Seed", "PSNR", "not good for"):
            assert said in card, (file, said)


@pytest.mark.parametrize("name", TASKS)
def test_restores_better_than_the_classical_answer(name):
    bridge, clean = Bridge.from_pretrained(name), photograph()
    assert bridge.config.task == TASKS[name]
    given = bridge.degrade(clean)
    restored = bridge.restore(given, nfe=1)
    operator = create_corruption(bridge.config.task, (clean.height, clean.width), "cpu")
    classical = operator.baseline(from_pil(given, 3).tensor()[None])[0]
    classical = ((classical.clamp(-1, 1) + 1) * 127.5).round().permute(1, 2, 0).numpy()
    assert psnr(restored, clean) > psnr(classical, clean)


def test_by_name_from_the_command_line(tmp_path):
    photograph().save(tmp_path / "moose.png")
    argv = ["--ckpt", "demo-jpeg-10", "--input", "moose.png", "--output", "out", "--nfe", "1"]
    assert sample.main(argv) == 0
    restored = Bridge.from_pretrained("demo-jpeg-10").restore(photograph(), nfe=1)
    with Image.open(tmp_path / "out/moose.png") as image:
        assert np.array_equal(image, restored)


def test_results_of_the_same_name_come_first():
    """Whoever trains a demo model further gets their own weights."""
    Bridge.create({"task": "jpeg-5", "network": "tiny", "image_size": 32}).save_pretrained("results/demo-jpeg-10")
    assert Bridge.from_pretrained("demo-jpeg-10").config.task == "jpeg-5"


def test_float16_halves_an_export(tmp_path):
    bridge = Bridge.create({"task": "jpeg-5", "network": "tiny", "image_size": 32})
    for folder, dtype in (("full", torch.float32), ("half", torch.float16)):
        i2sb.export.export(bridge.runner, tmp_path / folder, dtype)
    full, half = ((tmp_path / f / "ema.safetensors").stat().st_size for f in ("full", "half"))
    assert 0.45 < half / full < 0.55
    pictures = [Bridge.from_pretrained(tmp_path / f).restore(photograph(64), nfe=1) for f in ("full", "half")]
    difference = np.abs(np.subtract(*(np.asarray(p, float) for p in pictures)))
    assert difference.max() <= 1


def test_examples_are_drawn_with_their_scores(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    photograph().save(tmp_path / "in/moose.png")
    argv = ["--input", "in", "--ckpt", "demo-jpeg-10", "--nfe", "1", "--out", "p.png"]
    assert restore_examples.main(argv) == 0
    bridge = Bridge.from_pretrained("demo-jpeg-10")
    shown = bridge.degrade(photograph())
    expected = [psnr(shown, photograph()), psnr(bridge.restore(shown, nfe=1), photograph())]
    printed = [float(value) for value in re.findall(r"([\d.]+) dB", capsys.readouterr().out)]
    assert printed == pytest.approx(expected, abs=0.02)
    with Image.open(tmp_path / "p.png") as picture:
        assert picture.width > 3 * 300
    nothing = refusal(capsys, restore_examples, ["--input", "nowhere"])
    assert nothing.endswith("--input nowhere: there are no photographs")
