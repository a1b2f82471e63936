"""Free-form holes: the brush, stored banks, and which mask an image gets."""

import argparse
import logging
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage
import torch

from corruption import build_corruption, create_corruption
from corruption.brush import draw_mask
from corruption.inpaint import load_freeform_masks
from corruption.mask_bank import KINDS as KINDS_ON_DISK
from corruption.mask_bank import PUBLISHED_FILE
from dataset.freeform import bank_for, fetch_bank
from i2sb.errors import UserError

KINDS = [("inpaint-freeform1020", 0.10, 0.20), ("inpaint-freeform2030", 0.20, 0.30)]
RANGES = [(low, high) for _, low, high in KINDS]
SIZE = 32
LOG = logging.getLogger("dataset")


def bank(low: float, high: float, count: int = 12, size: int = SIZE) -> np.ndarray:
    """Masks that differ in their size: mask k has k hole pixels less than the middle of the range."""
    masks = np.zeros((count, size * size), dtype=np.uint8)
    for k in range(count):
        masks[k, : round((low + high) / 2 * size * size) - k] = 1
    return masks.reshape(count, size, size)


# --- the brush -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [16, 64, 256])
@pytest.mark.parametrize(("low", "high"), RANGES)
def test_hole_ratio_is_inside_for_every_seed(size, low, high):
    seeds = range(200 if size <= 64 else 40)
    masks = [draw_mask(size, low, high, seed) for seed in seeds]
    assert {mask.shape for mask in masks} == {(size, size)}
    assert set(np.unique(masks)) == {0, 1}
    ratios = np.mean(masks, axis=(1, 2))
    assert ratios.min() >= low
    assert ratios.max() <= high
    assert np.ptp(ratios) > 0.6 * (high - low)  # and it uses the range


@pytest.mark.parametrize(("low", "high"), RANGES)
def test_holes_are_thick_connected_strokes(low, high):
    """Few pieces, no speckle: an opening with a small disc leaves nearly everything."""
    for seed in range(30):
        mask = draw_mask(128, low, high, seed).astype(bool)
        assert scipy.ndimage.label(mask)[1] <= 8
        opened = scipy.ndimage.binary_opening(np.pad(mask, 4, mode="edge"), iterations=2)[4:-4, 4:-4]
        assert opened.sum() > 0.9 * mask.sum()


# --- without a bank --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("task", "low", "high"), KINDS)
def test_evaluation_mask_belongs_to_the_image(task, low, high):
    """Image i has the same mask in any batch, order and run."""
    x = torch.zeros(4, 3, SIZE, SIZE)
    _, mask = create_corruption(task, SIZE)(x, index=torch.tensor([7, 3, 20000, 7]))
    for row, seed in enumerate([7, 3, 20000, 7]):
        assert np.array_equal(mask[row, 0].numpy(), draw_mask(SIZE, low, high, seed))
    _, alone = create_corruption(task, SIZE)(x[:1], index=torch.tensor([3]))
    assert torch.equal(alone[0], mask[1])


# --- with a bank -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_function", [False, True])
@pytest.mark.parametrize(("task", "low", "high"), KINDS)
def test_evaluation_takes_mask_number_i(task, low, high, as_function):
    stored = bank(low, high)
    asked = []
    source = (lambda kind: asked.append(kind) or stored) if as_function else stored
    operator = create_corruption(task, SIZE, mask_bank=source)
    _, mask = operator(torch.zeros(3, 3, SIZE, SIZE), index=torch.tensor([11, 0, 4]))
    assert np.array_equal(mask[:, 0].numpy(), stored[[11, 0, 4]])
    assert asked == ([task.removeprefix("inpaint-")] if as_function else [])


@pytest.mark.parametrize("size", [16, 48, 64])
def test_a_bank_of_another_size_is_resized(size, caplog):
    """As torch's nearest neighbour does."""
    caplog.set_level(logging.INFO)
    stored = bank(0.1, 0.2)
    operator = create_corruption("inpaint-freeform1020", size, mask_bank=stored, log=logging.getLogger("t"))
    _, mask = operator(torch.zeros(2, 3, size, size), index=torch.tensor([3, 11]))
    expected = torch.nn.functional.interpolate(torch.from_numpy(stored[[3, 11]])[:, None].float(), size=size)
    assert torch.equal(mask, expected)
    assert "12 stored masks, resized from 32 px" in caplog.text


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ([0, 12], r"12 masks, none for image 12 \(counted from 0\)"),
        ([0, -1], r"index: expected 2 positions, counted from 0, got torch.int64 \[0, -1\]"),
        ([0], r"index: expected 2 positions, counted from 0, got torch.int64 \[0\]"),
    ],
)
def test_wrong_index_is_refused(index, message):
    operator = create_corruption("inpaint-freeform1020", SIZE, mask_bank=bank(0.1, 0.2))
    with pytest.raises(ValueError, match=message):
        operator(torch.zeros(2, 3, SIZE, SIZE), index=torch.tensor(index))


# --- files in data/ --------------------------------------------------------------------------------------


def published(kind: str, count: int = 10) -> np.ndarray:
    """uint8 [count,256,256] with the right share of holes."""
    masks = np.zeros((count, 256, 256), np.uint8)
    for k in range(count):
        masks[k, k : k + round(256 * (KINDS_ON_DISK[kind][1] + 0.05))] = 1
    return masks


def put(name: str, **arrays: np.ndarray) -> Path:
    Path("data").mkdir(exist_ok=True)
    np.savez_compressed(Path("data") / name, **arrays)
    return Path("data") / name


BARE = {"image_size": 256, "device": "cpu"}  # of the original's options, those that build_corruption reads


@pytest.mark.parametrize("shape", [(-1,), (10, 256, 32)])
def test_build_corruption_uses_the_published_file(shape):
    arrays = {key: np.packbits(published(kind)).reshape(shape) for kind, (key, *_) in KINDS_ON_DISK.items()}
    put(PUBLISHED_FILE, **arrays)
    for kind in ("freeform1020", "freeform2030"):
        operator = build_corruption(Namespace(corrupt=f"inpaint-{kind}", **BARE), None)
        _, mask = operator(torch.zeros(2, 3, 256, 256), index=torch.tensor([9, 4]))
        assert np.array_equal(mask[:, 0].numpy(), published(kind)[[9, 4]])
        assert np.array_equal(load_freeform_masks(kind), published(kind)[:, None])
    mixture = build_corruption(Namespace(corrupt="jpeg-5", **BARE), None, "mixture")
    y = mixture(torch.zeros(1, 3, 256, 256), torch.tensor([8]), randn=torch.ones_like)
    assert np.array_equal(y[0, 0].numpy(), published("freeform2030")[8])


def test_build_corruption_uses_the_unpacked_file_of_the_original():
    put("imagenet_freeform1020_masks.npz", mask=published("freeform1020"))
    operator = build_corruption(Namespace(corrupt="inpaint-freeform1020", **BARE), None)
    _, mask = operator(torch.zeros(1, 3, 256, 256), index=torch.tensor([7]))
    assert np.array_equal(mask[0, 0].numpy(), published("freeform1020")[7])
    assert load_freeform_masks("freeform1020").shape == (10, 1, 256, 256)
    small = build_corruption(Namespace(corrupt="inpaint-freeform1020", image_size=64, device="cpu"), None)
    _, mask = small(torch.zeros(1, 3, 64, 64), index=torch.tensor([7]))
    assert np.array_equal(mask[0, 0].numpy(), published("freeform1020")[7, ::4, ::4])


def test_without_files_build_corruption_means_the_brush():
    operator = build_corruption(Namespace(corrupt="inpaint-freeform1020", **BARE, freeform_bank=None), None)
    _, mask = operator(torch.zeros(1, 3, 256, 256), index=torch.tensor([7]))
    assert np.array_equal(mask[0, 0].numpy(), draw_mask(256, 0.1, 0.2, 7))
    with pytest.raises(FileNotFoundError, match=f"{PUBLISHED_FILE}: not there"):
        load_freeform_masks("freeform1020")


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"<html>sorry</html>"])
def test_a_damaged_file_is_refused_by_name(damage):
    path = put(PUBLISHED_FILE, **{"10-20% freeform": np.packbits(published("freeform1020"))})
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=f"data/{PUBLISHED_FILE}: not a whole npz file") as e:
        build_corruption(Namespace(corrupt="inpaint-freeform1020", **BARE), None)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("name", "arrays", "message"),
    [
        (PUBLISHED_FILE, {"mask": np.zeros(3)}, "holds no '10-20% freeform': put the right file there"),
        (PUBLISHED_FILE, {"10-20% freeform": np.zeros(8192, np.int64)}, r"is int64 \[8192\], not packed bits"),
        (PUBLISHED_FILE, {"10-20% freeform": np.packbits(published("freeform2030"))}, "holes cover 25"),
        ("imagenet_freeform1020_masks.npz", {"mask": np.zeros((2, 8, 256))}, r"got float64 \[2, 8, 256\]"),
        ("imagenet_freeform1020_masks.npz", {"mask": published("freeform2030")}, r"25.0% .* on average, not 10% to"),
        ("imagenet_freeform1020_masks.npz", {"mask": 1 - published("freeform1020")}, r"holes cover 85.2%"),
        ("imagenet_freeform1020_masks.npz", {"mask": 255 * published("freeform1020")}, "hole\\), got .* other values"),
        ("imagenet_freeform1020_masks.npz", {"mask": np.array([{}])}, "not a whole npz file"),
    ],
)
def test_another_file_is_refused_by_name(name, arrays, message):
    put(name, **arrays)
    with pytest.raises(ValueError, match=f"^data/{name}: .*{message}") as e:
        build_corruption(Namespace(corrupt="inpaint-freeform1020", **BARE), None)
    assert "\n" not in str(e.value)


def test_unknown_kind():
    with pytest.raises(ValueError, match=r"no free-form masks of kind 'freeform5060'; choose one of: freeform1020, "):
        load_freeform_masks("freeform5060")


# --- the published bank, fetched for the runs that need it


@pytest.fixture
def asked(monkeypatch):
    """What would have been fetched; the address cannot be reached."""
    remotes = []

    def fetch(remote, folder, log):
        remotes.append(remote)
        raise UserError("out of reach")

    monkeypatch.setattr("i2sb.fetch.fetch", fetch)
    return remotes


def fetched(task="inpaint-freeform1020", image_size=256, imagenet=True):
    return bank_for(argparse.Namespace(corrupt=task, image_size=image_size), imagenet, LOG)


def test_it_is_fetched_for_imagenet_at_its_size_only(asked, caplog):
    for task in ("inpaint-freeform1020", "inpaint-freeform2030", "mixture"):
        assert fetched(task)("freeform1020") is None
    assert len(asked) == 3
    assert "1-5YRGsekjiRKQWqo0BV5RVQu0bagc12w" in asked[0].url
    assert "out of reach; until then brush strokes" in caplog.text
    fetched(image_size=64)
    fetched(imagenet=False)
    assert fetched("jpeg-5") is None
    assert len(asked) == 3
    with pytest.raises(UserError, match="out of reach"):
        fetch_bank(LOG)
