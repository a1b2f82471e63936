"""Picture files beside recon.pt, their pixels and names; the batches that recon.pt is made of."""

import logging
import os
import subprocess
import sys

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from small_runs import ROOT, images, restore

from i2sb.pictures import picture_names
from i2sb.recon import SECONDS, Recon, made_with
from i2sb.recon_store import ReconStore, partition_range

LOG = logging.getLogger("test")


def pixels(arr):
    return ((arr + 1) * 127.5).clamp(0, 255).round().byte().permute(0, 2, 3, 1).numpy().astype(int)


def test_pictures_show_what_recon_holds(here):
    """As JPEG; PNG: below."""
    folder = restore(here, "--save-images", "jpg")
    paths = sorted((folder / "images").glob("*/*.jpg"))
    assert [str(path.relative_to(folder / "images").with_suffix("")) for path in paths] == [
        str(path.relative_to(here / "photos/val").with_suffix(""))
        for path in sorted((here / "photos/val").glob("*/*.png"))
    ]
    shown = np.stack([np.asarray(Image.open(path)) for path in paths]).astype(int)
    difference = shown - pixels(images(folder))
    grey = np.abs(difference @ np.array([0.299, 0.587, 0.114]))
    assert {Image.open(path).format for path in paths} == {"JPEG"}
    assert 0 < grey.mean() < 4  # JPEG halves the colours' resolution


def test_images_of_one_stem_do_not_overwrite_each_other():
    assert picture_names(["x/a.JPEG", "y/a.png", "x/b.c.jpg"], "png") == ["x/a.png", "y/a.png", "x/b.c.png"]
    names = picture_names(["x/a.jpg", "x/b.png", "x/a.png", "x/a.jpg"], "jpg")  # the last is listed twice
    assert names == ["x/a.00000.jpg", "x/b.jpg", "x/a.00002.jpg", "x/a.00003.jpg"]
    long = picture_names([f"x/{'n' * 250}.{suffix}" for suffix in ("jpg", "png")] + ["/no class.png"], "jpg")
    assert len(set(long)) == 3
    assert max(len(name) for name in long) <= len("x/") + 255
    assert long[2] == "no class.jpg"  # below the folder of pictures


def test_names_beyond_ascii_in_an_ascii_locale(tmp_path):
    code = (
        "import types, torch; from pathlib import Path; from i2sb.pictures import Pictures;"
        "data = types.SimpleNamespace(samples=[('a/\\u2603.png', 0)], short_name=str, is_deep=False);"
        "Pictures(Path('.'), data, 'png', 0)([0], torch.zeros(1, 1, 3, 8, 8))"
    )
    env = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], env=env, cwd=tmp_path, check=True)
    assert (tmp_path / "images/a/☃.png").is_file()


def test_a_finished_run_gets_its_pictures_later(here, capsys):
    folder = restore(here, "--recon-dtype", "uint8")
    written = (folder / "recon.pt").stat().st_mtime_ns
    restore(here, "--recon-dtype", "uint8", "--save-images", "png", "--save-trajectory", "2")
    assert "no trajectory of 2 images; --overwrite restores again" in capsys.readouterr().err
    assert (folder / "recon.pt").stat().st_mtime_ns == written
    paths = sorted((folder / "images").glob("*/*.png"))
    shown = np.stack([np.asarray(Image.open(path)) for path in paths])
    assert {Image.open(path).format for path in paths} == {"PNG"}
    assert np.array_equal(shown, images(folder).permute(0, 2, 3, 1).numpy())


def test_trajectories_begin_degraded_and_end_restored(here):
    folder = restore(here, "--save-trajectory", "3", "--nfe", "5").parent / "samples_nfe5"
    strips = sorted((folder / "trajectories").glob("*.png"))
    assert len(strips) == 3
    degraded = np.asarray(Image.open(sorted((here / "photos/val/chelsea").glob("*.png"))[0])).astype(float)
    degraded = degraded.reshape(8, 4, 8, 4, 3).mean((1, 3)).repeat(4, 0).repeat(4, 1)
    strip = np.asarray(Image.open(strips[0])).astype(float)
    assert all((band < 128).any() for band in (strip[:16], strip[-16:]))  # the name, the numbers of the steps
    strip = strip[16:-16]
    assert np.abs(strip[:, :32] - degraded).max() <= 1
    assert np.abs(strip[:, -32:] - pixels(images(folder))[0]).max() == 0
    with Image.open(strips[0].with_suffix(".webp")) as animation:
        assert animation.n_frames == strip.shape[1] // 32 == 6
        animation.seek(5)
        assert np.array_equal(np.asarray(animation.convert("RGB")), strip[:, -32:].astype(np.uint8))


# --- where restored images lie while they come


def make_store(folder, stop=10, **settings):
    store = ReconStore(folder, None, stop, settings, (3, 4, 4), "float32")
    assert not store.open(False, LOG)
    return store


def put(store, start, stop, seconds=1.0):
    images = torch.arange(start, stop).float().reshape(-1, 1, 1, 1).expand(-1, 3, 4, 4)
    store.write(list(range(start, stop)), images, torch.arange(start, stop), torch.arange(start, stop), seconds)


@given(count=st.integers(1, 60), parts=st.integers(1, 12))
def test_parts_are_the_whole_in_order(count, parts):
    ranges = [partition_range(f"{i}_{parts}", count) for i in range(parts)]
    assert [number for r in ranges for number in range(*r)] == list(range(count))
    assert max(b - a for a, b in ranges) - min(b - a for a, b in ranges) <= 1


def test_seconds_per_image_are_the_median_batch_and_not_a_setting(tmp_path):
    store = make_store(tmp_path, seed=1)
    put(store, 0, 4, seconds=2.0)
    put(store, 4, 8, seconds=2.0)
    put(store, 8, 10, seconds=100.0)
    made = made_with(store.finish())
    assert made[SECONDS] == 0.5
    assert made["seed"] == 1
    assert ReconStore(tmp_path, None, 10, {"seed": 1}, (3, 4, 4), "float32").open(False, LOG)


def test_images_are_taken_from_any_part(tmp_path):
    paths = []
    for part in range(3):
        store = ReconStore(tmp_path, f"{part}_3", 8, {}, (3, 4, 4), "float32")
        store.open(False, LOG)
        put(store, store.start, store.stop)
        paths.append(store.finish())
    recon = Recon(paths)
    assert recon.take([7, 0, 3, 2])[:, 0, 0, 0].tolist() == [7, 0, 3, 2]
    assert torch.cat(list(recon.batches(2)))[:, 0, 0, 0].tolist() == list(range(8))
