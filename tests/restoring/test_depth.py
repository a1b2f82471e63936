"""Pictures of more than 8 bits: through files and windows without loss, and through training and its scores."""

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from bridges import NETWORK, argv
from PIL import Image
from small_runs import metrics_argv, refusal, sample_argv, train_argv

import compute_metrices
import sample
import train
from i2sb import Bridge
from i2sb.photographs import Photograph, encode, read
from i2sb.runtime.reading import load_torch

RAMP = np.arange(65536, dtype=np.uint16).reshape(256, 256)
RANGE = (-1000.0, 3000.0)


def identity(name, channels=1, **fields):
    """A bridge whose network gives zero, so that it predicts what it sees."""
    fields = {"task": "denoise-25", "image_size": 32, "network": NETWORK, "interval": 20, **fields}
    Bridge.create({**fields, "channels": channels}, device="cpu").save_pretrained(Path("results", name))


def restored(name, *paths, more=()):
    """The folder with what sample.py makes of the files."""
    out = Path(f"out-{name}-{len(more)}")
    assert sample.main(argv(name, "--nfe", "1", "--input", *paths, "--output", out, *more)) == 0
    return out


def values(path):
    return np.load(path) if path.suffix == ".npy" else read(path, 1, (0, 1)).levels[..., 0]


def test_every_value_of_a_ramp_comes_back_in_windows_too():
    Path("deep.png").write_bytes(encode(Photograph.of(RAMP, 1)))
    tifffile.imwrite("deep.tif", RAMP)
    tifffile.imwrite("float.tif", np.float32(RAMP / 65535))
    np.save("double.npy", RAMP / 65535)
    tifffile.imwrite("hounsfield.tif", np.float32(RAMP / 65535 * 4000 - 1000))
    np.save("hounsfield.npy", RAMP / 65535 * 4000 - 1000)
    tifffile.imwrite("signed.tif", (RAMP.astype(np.int32) - 32768).astype(np.int16))
    identity("typed")
    identity("ranged", value_range=RANGE)
    identity("signed", value_range=[-32768, 32767])
    levels = {"deep.png": 65535, "deep.tif": 65535, "float.tif": 1, "double.npy": 1}
    ranged = {"hounsfield.tif": 4000, "hounsfield.npy": 4000}
    windows = ["--tile", "96"]
    for bridge, files, more in (
        ("typed", levels, windows),
        ("ranged", ranged, windows),
        ("signed", {"signed.tif": 65535}, windows),
        ("typed", {"deep.png": 65535}, []),
    ):
        out = restored(bridge, *files, more=more)
        for name, width in files.items():
            before, after = values(Path(name)), values(out / name)
            assert after.dtype == before.dtype, name
            assert np.abs(after.astype(float) - before).max() <= width / 65535, name


def test_what_lies_outside_is_clipped_and_counted_and_nan_is_named(capsys):
    identity("ranged", value_range=RANGE)
    pixels = np.linspace(-1000, 3000, 24 * 16, dtype=np.float32).reshape(24, 16)
    pixels[0, :3] = -1001, 5000, -2000
    tifffile.imwrite("a.tif", pixels)
    after = values(restored("ranged", "a.tif") / "a.tif")
    assert "a.tif: 3 of 384 values lie outside -1000 to 3000 and are clipped" in capsys.readouterr().err
    assert after[0, :3] == pytest.approx([-1000, 3000, -1000], abs=0.1)
    found = Bridge.from_pretrained("ranged", device="cpu").restore(pixels, nfe=1)
    assert found.dtype == np.float32
    assert np.array_equal(found, after)
    pixels[5] = np.nan
    tifffile.imwrite("b.tif", pixels)
    assert sample.main(argv("ranged", "--input", "b.tif", "--output", "other")) == 1
    assert "b.tif (16 of its 384 values are NaN or inf)" in capsys.readouterr().err


def test_files_of_8_bits_in_a_wider_range_are_counted(capsys):
    Path("data/train").mkdir(parents=True)
    for number in range(3):
        Image.fromarray(RAMP[:32, :32].astype(np.uint8)).save(f"data/train/{number}.png")
    ours = ["--value-range", "0", "4095", "--channels", "1", "--num-itr", "1"]
    assert train.main(train_argv(Path("data"), *ours, corrupt="denoise-25")) == 0
    assert "3 of 3 files have 8 bits, whose white (255) is no white in --value-range 0 4095" in capsys.readouterr().err


def test_pairs_in_a_range_of_their_own_are_trained_restored_and_scored_with_all_their_bits(capsys):
    generator = np.random.default_rng(0)
    for split, count in (("train", 3), ("val", 2)):
        for number in range(count):
            clean = generator.uniform(-900, 2900, (16, 24)).astype(np.float32)
            for side, pixels in (("A", clean + 2), ("B", clean)):
                Path(f"data/{split}{side}").mkdir(parents=True, exist_ok=True)
                tifffile.imwrite(f"data/{split}{side}/{number}.tif", pixels)
    ours = ["--image-size", "16,24", "--channels", "1", "--eval-every", "2", "--eval-nfe", "1", "--name", "run"]
    argv_of_training = train_argv(Path("data"), *ours, corrupt="paired")
    assert "train.py --value-range LO HI says others" in refusal(capsys, train, argv_of_training)
    turned = [*argv_of_training, "--value-range", "3000", "-1000"]
    assert "--value-range 3000.0,-1000.0: LO must be below HI" in refusal(capsys, train, turned)
    tifffile.imwrite("data/trainA/0.tif", np.float32([[-1005] + [0] * 23] * 16))
    assert train.main([*argv_of_training, "--value-range", "-1000", "3000"]) == 0
    assert "16 of 2304 values lie outside -1000 to 3000 and are clipped" in capsys.readouterr().err
    more = ["--num-itr", "5", "--ckpt", "run"]
    last = refusal(capsys, train, [*argv_of_training, *more, "--value-range", "-1000", "2000"])
    assert "cannot be resumed with --value-range [-1000.0, 2000.0] (trained with" in last
    assert train.main([*argv_of_training, *more]) == 0

    assert sample.main(sample_argv(Path("data"), "run", "--save-images", "png")) == 0
    assert compute_metrices.main(metrics_argv(Path("data"), "run", "samples_nfe2")) == 0
    folder = Path("results/run/samples_nfe2")
    scores = json.loads((folder / "metrics.json").read_text())["scores"]
    assert scores["degraded"]["psnr"]["value"] == pytest.approx(20 * np.log10(4000 / 2), abs=0.01)
    arr = load_torch(folder / "recon.pt")["arr"][:, 0].clamp(-1, 1).double().numpy()
    clean = [tifffile.imread(f"data/valB/{number}.tif") for number in (0, 1)]
    errors = [np.square((x + 1) * 2000 - 1000 - y).mean() for x, y in zip(arr, clean)]
    assert scores["restored"]["psnr"]["value"] == pytest.approx(
        np.mean(10 * np.log10(4000**2 / np.array(errors))), abs=0.001
    )
    for path, x in zip(sorted(folder.glob("images/**/*.png")), arr, strict=True):
        with Image.open(path) as picture:
            assert np.abs(np.asarray(picture) - (x + 1) * 32767.5).max() <= 0.51
