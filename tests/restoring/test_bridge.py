"""The bridge from Python: the same pictures as sample.py, every form, several threads, a loop of one's own."""

import doctest
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from bridges import NETWORK, argv, make_bridge, photograph
from PIL import Image
from small_runs import ROOT

import i2sb.bridge
import sample
from i2sb import Bridge
from i2sb.errors import UserError


def test_the_example_in_its_docstring():
    assert doctest.testmod(i2sb.bridge).failed == 0


def test_importing_the_package_imports_no_torch():
    code = "import sys, i2sb; assert 'torch' not in sys.modules; assert 'Bridge' in i2sb.__all__"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.fixture
def bridge(here):
    return Bridge.from_pretrained("jpeg-10", device="cpu")


def test_it_gives_what_sample_gives_in_every_form(bridge, here):
    assert sample.main(argv("jpeg-10", "--input", "pictures", "--output", "out", "--seed", "5")) == 0
    rgb = Image.open("pictures/a.jpg").convert("RGB")
    rgb.save("rgb.png")
    assert sample.main(argv("jpeg-10", "--input", "rgb.png", "--output", "out", "--seed", "5")) == 0
    expected, options = np.array(Image.open("out/rgb.png")), {"nfe": 2, "seed": 5}
    found = bridge.restore(rgb, **options)
    assert isinstance(found, Image.Image)
    assert (np.asarray(found) == expected).all()
    pixels = np.asarray(rgb)
    assert (bridge.restore(pixels, **options) == expected).all()
    one, deep = bridge.restore([pixels / 255, pixels.astype(np.uint16) * 257], **options)
    assert (one.dtype, deep.dtype) == (np.float64, np.uint16)
    assert np.abs(one * 255 - expected).max() <= 0.51
    assert np.abs(deep / 257 - expected).max() <= 0.51
    x = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    both = bridge.restore(torch.cat([x, x.flip(3)]), **options)
    assert both.shape == (2, 3, 50, 70)
    assert ((both[0].permute(1, 2, 0) + 1) * 127.5 - torch.from_numpy(expected)).abs().clamp(max=1).mean() < 0.5
    grey, alpha = (bridge.restore(Image.open(f"pictures/sub/{name}"), **options) for name in ("grey.png", "alpha.webp"))
    assert (grey.mode, alpha.mode) == ("L", "RGBA")
    assert (np.asarray(grey) == np.asarray(Image.open("out/sub/grey.png"))).all()
    assert (np.asarray(alpha) == np.asarray(Image.open("out/sub/alpha.webp"))).all()


@pytest.mark.parametrize(
    ("image", "mask", "message"),
    [
        (np.full((8, 8, 3), 200.0), None, r"lie in \[0,1\], this one in \[200,200\]"),
        (np.full((8, 8, 3), np.nan), None, "192 of its 192 values are NaN or inf"),
        (torch.full((1, 3, 8, 8), 255.0), None, "this one has 255"),
        (torch.zeros(0, 3, 8, 8), None, "a tensor"),
        (torch.zeros(3, 8, 8), None, r"\[B,C,H,W\].*\[3, 8, 8\]"),
        (np.zeros((8, 8, 3), int), None, "int64"),
        (np.zeros((8, 8, 5)), np.ones((8, 8)), "5 channels"),
        (np.zeros((8, 8)), [np.ones((8, 8))] * 2, "2 masks for 1 images"),
        (torch.zeros(2, 3, 8, 8), torch.ones(3, 1, 8, 8), "3 masks for a batch of 2"),
        (torch.zeros(2, 3, 8, 8), torch.ones(2, 3, 8, 8), r"a mask is a tensor \[B,1,H,W\]"),
        (np.zeros((8, 8)), Path("hole.png"), "a mask is a PIL image.*Path"),
    ],
)
def test_what_is_no_picture_says_why(here, image, mask, message):
    bridge = Bridge.from_pretrained("jpeg-10" if mask is None else "inpaint-center", device="cpu")
    with pytest.raises(ValueError, match=message):
        bridge.restore(image, nfe=1, mask=mask)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"task": "jpeg-1O"}, "jpeg-1O"),
        ({"task": None}, "None"),
        ({"beta-max": 1.0}, "a bridge has no 'beta-max'"),
        ({"device": "tpu"}, "'tpu': choose one of auto"),
        ({"precision": "int8"}, "'int8': choose one of fp32"),
    ],
)
def test_what_makes_no_bridge_says_why(more, message):
    others = {key: more.pop(key, default) for key, default in (("device", "cpu"), ("precision", "fp32"))}
    with pytest.raises(ValueError, match=message):
        Bridge.create({"task": "jpeg-10", "image_size": 32, "network": NETWORK, **more}, **others)


@pytest.mark.parametrize("sampler", ["ddpm", "dbim", "dbim2"])
def test_known_pixels_come_back_as_given_and_a_mask_may_be_of_ones(here, sampler):
    bridge = Bridge.from_pretrained("inpaint-center", device="cpu")
    image, hole = np.asarray(photograph(40, 30)).astype(np.uint16) * 257, np.zeros((30, 40), bool)
    hole[5:20, 7:30] = True
    expected = bridge.restore(image, nfe=4, sampler=sampler, mask=hole)
    assert (expected[~hole] == image[~hole]).all()
    assert (expected[hole] != image[hole]).mean() > 0.9
    for mask in (hole.astype(np.uint8), Image.fromarray(hole), torch.from_numpy(hole)):
        assert (bridge.restore(image, nfe=4, sampler=sampler, mask=mask) == expected).all()


def test_two_threads_give_what_one_gives(bridge):
    pictures = [np.asarray(photograph(60 + 7 * i, 40)) for i in range(4)]

    def work(picture):
        return bridge.restore(bridge.degrade(picture), nfe=3)

    alone = [work(picture) for picture in pictures]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(work, pictures))
    assert all((a == b).all() for a, b in zip(alone, together))


def test_threads_share_a_bridge_that_can_be_trained():
    bridge = Bridge.create({"task": "jpeg-10", "image_size": 16, "network": "tiny", "interval": 20}, device="cpu")
    x = torch.rand(1, 3, 16, 16) * 2 - 1
    bridge.ema.update()
    with torch.no_grad():  # far from their average
        for parameter in bridge.parameters():
            parameter += 0.1
    weights, alone = [p.clone() for p in bridge.parameters()], bridge.restore(x, nfe=5)
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(lambda _: bridge.restore(x, nfe=5), range(9)))
    assert all(torch.equal(one, alone) for one in together)
    assert all(map(torch.equal, weights, bridge.parameters()))


def test_degrading_gives_the_same_form_and_its_masks(here):
    bridge = Bridge.from_pretrained("inpaint-center", device="cpu")
    picture = photograph(60, 40)
    shown, hole = bridge.degrade(picture)
    assert (shown.size, hole.mode, np.asarray(hole).mean()) == ((60, 40), "L", 255 / 4)
    assert (np.asarray(shown)[np.asarray(hole) > 0] == 255).all()
    restored = bridge.restore(shown, nfe=2, mask=hole)
    same = np.asarray(hole) == 0
    assert (np.asarray(restored)[same] == np.asarray(picture)[same]).all()
    batch = torch.zeros(2, 3, 40, 60)
    shown, holes = bridge.degrade(batch)
    assert holes.shape == (2, 1, 40, 60)
    (_, second), masks = bridge.degrade([batch, np.asarray(picture)])
    assert second.dtype == np.uint8
    assert masks[1].dtype == bool
    with pytest.raises(ValueError, match="give a mask"):
        bridge.restore(picture)
    with pytest.raises(ValueError, match="1 masks for 2 images"):
        bridge.restore([picture, picture], mask=[hole])
    with pytest.raises(ValueError, match="a tensor is"):
        bridge.restore(batch[0])


def test_super_resolution_enlarges_small_pictures_and_undoes_its_own(here):
    bridge = Bridge.from_pretrained("sr4x-pool", device="cpu")
    assert bridge.restore(photograph(11, 7), nfe=2).size == (44, 28)
    assert bridge.restore(bridge.degrade(photograph(45, 30)), nfe=2).size == (45, 30)


def test_a_network_for_transparency_takes_pictures_without_it_as_opaque(here):
    make_bridge(here, "jpeg-10", "rgba", channels=4)
    bridge, colours = Bridge.from_pretrained("rgba", device="cpu"), np.array(photograph(20, 14))
    opaque = np.dstack([colours, np.full((14, 20), 255, np.uint8)])
    restored = bridge.restore(opaque, nfe=2)
    assert restored.shape == (14, 20, 4)
    assert np.array_equal(bridge.restore(colours, nfe=2), restored[..., :3])
    assert bridge.restore(photograph(20, 14).convert("L"), nfe=2).mode == "L"


def test_names_folders_and_files_are_loaded(here, monkeypatch):
    by_name = Bridge.from_pretrained("jpeg-10", device="cpu")
    Path("results/jpeg-10/ema.safetensors").rename("renamed.safetensors")
    for path in ("renamed.safetensors", here / "renamed.safetensors"):
        assert Bridge.from_pretrained(path, device="cpu").runner.identity == by_name.runner.identity
    assert Bridge.from_pretrained(here / "results/grey", device="cpu").config.channels == 1
    with pytest.raises(UserError, match="there is no folder results/nothing"):
        Bridge.from_pretrained("nothing", device="cpu")
    (here / "results/grey/latest.pt").touch()
    new = Bridge.create({"task": "jpeg-5", "image_size": 32, "network": NETWORK}, device="cpu")
    with pytest.raises(UserError, match=r"latest\.pt, which would be loaded"):
        new.save_pretrained("results/grey")


@pytest.mark.parametrize("average", [False, True])
def test_a_loop_of_ones_own_trains_what_sample_restores_with(here, average):
    fields = {"task": "paired", "image_size": 32, "network": NETWORK, "interval": 20, "cond_x1": True}
    bridge = Bridge.create(fields, device="cpu")
    optimizer = torch.optim.AdamW(bridge.parameters(), lr=5e-3)
    clean = torch.from_numpy(np.array(photograph(32, 32))).permute(2, 0, 1)[None] / 127.5 - 1
    degraded, losses = -clean, []
    for _ in range(20):
        optimizer.zero_grad()
        losses.append(bridge.loss(clean, degraded))
        losses[-1].backward()
        optimizer.step()
        if average:
            bridge.ema.update()
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
    bridge.save_pretrained("results/mine")
    restored = bridge.restore(degraded, nfe=2)
    loaded = Bridge.from_pretrained("mine", device="cpu")
    assert loaded.config == bridge.config
    assert torch.allclose(loaded.restore(degraded, nfe=2), restored, atol=1e-3)
    with pytest.raises(ValueError, match="only restores"):
        loaded.loss(clean, degraded)
    again = Bridge.from_pretrained("mine", device="cpu", trainable=True)
    zeros = torch.zeros_like(clean)
    again.loss(clean, degraded, cond=zeros).backward()
    assert not torch.equal(again.restore(degraded, nfe=2, cond=zeros), again.restore(degraded, nfe=2))
    assert next(again.parameters()).grad is not None


def test_what_is_seen_besides_is_taken_channel_by_channel_too():
    fields = {"task": "denoise-25", "image_size": 32, "network": NETWORK, "interval": 20, "cond_x1": True}
    bridge = Bridge.create({**fields, "channels": 1}, device="cpu")
    colour, seen = torch.rand(2, 1, 3, 32, 32) * 2 - 1
    whole = bridge.restore(colour, nfe=2, cond=seen)
    single = [bridge.restore(colour[:, c : c + 1], nfe=2, cond=seen[:, c : c + 1]) for c in range(3)]
    assert torch.allclose(whole, torch.cat(single, dim=1), atol=1e-5)
