"""The tasks by parameter against independent sources: scipy, Pillow, and formulas in float64."""

import io

import numpy as np
import pytest
import scipy.fft
import scipy.ndimage
import torch
from PIL import Image

from corruption import create_corruption
from corruption.brush import draw_mask
from corruption.jpeg import CHROMA_TABLE, LUMA_TABLE, scaled_table
from corruption.mask_bank import FolderMasks

SIZES = [(1, 1), (3, 50), (37, 29), (64, 48)]


def rough(size: tuple[int, int], channels: int = 3) -> np.ndarray:
    """Gradients with noise [2,C,H,W], float64 in [-1,1]."""
    rng = np.random.default_rng(7)
    slopes = np.linspace(-0.7, 0.7, size[0])[:, None] * np.linspace(1, -0.5, size[1])
    return slopes + rng.uniform(-0.3, 0.3, (2, channels, *size))


def degraded(task: str, x: np.ndarray) -> np.ndarray:
    return create_corruption(task, x.shape[2:])(torch.from_numpy(x)).numpy()


# --- blur ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("sigma", [0.3, 1.5, 9])
def test_gaussian_blur_is_scipys(sigma, size):
    x = rough(size, 2)
    expected = scipy.ndimage.gaussian_filter(x, (0, 0, sigma, sigma), mode="reflect", truncate=4)
    np.testing.assert_allclose(degraded(f"blur-gauss-{sigma:g}", x), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("width", [2, 7, 30])
def test_box_blur_is_scipys(width, size):
    x = rough(size, 4)
    expected = scipy.ndimage.uniform_filter(x, (1, 1, width, width), mode="reflect")
    np.testing.assert_allclose(degraded(f"blur-box-{width}", x), expected, rtol=0, atol=1e-6)


# --- super-resolution ------------------------------------------------------------------------------------


def keys(t: float) -> float:
    """Cubic convolution, a = -0.5."""
    t = abs(t)
    return 1.5 * t**3 - 2.5 * t**2 + 1 if t <= 1 else -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2 if t < 2 else 0.0


def shrunk(x: np.ndarray, scale: int) -> np.ndarray:
    """The last axis, pixel by pixel: weights by the distance of centres, mirrored beyond the borders."""
    length = x.shape[-1]
    small = []
    for row in range(-(-length // scale)):
        centre = scale * (row + 0.5) - 0.5
        taps = range(int(centre) - 3 * scale, int(centre) + 3 * scale)
        weights = [keys((j - centre) / scale) for j in taps]
        pixels = [j % (2 * length) for j in taps]  # a mirrored row repeats after twice its length
        values = [x[..., j if j < length else 2 * length - 1 - j] for j in pixels]
        small.append(sum(w * v for w, v in zip(weights, values)) / sum(weights))
    return np.stack(small, axis=-1)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scale", [2, 3, 4, 8])
def test_bicubic_is_the_textbooks(scale, size):
    x = rough(size, 1)
    small = shrunk(shrunk(x, scale).swapaxes(2, 3), scale).swapaxes(2, 3)
    expected = small.repeat(scale, 2).repeat(scale, 3)[..., : size[0], : size[1]]
    np.testing.assert_allclose(degraded(f"sr{scale}x-bicubic", x), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("scale", [2, 3, 4, 8])
def test_pool_is_the_mean_of_the_pixels_that_are_there(scale):
    x = rough((37, 29))
    y = degraded(f"sr{scale}x-pool", x)
    for top in range(0, 37, scale):
        for left in range(0, 29, scale):
            cell = np.s_[..., top : top + scale, left : left + scale]
            mean = x[cell].mean((2, 3), keepdims=True)
            np.testing.assert_allclose(y[cell], np.broadcast_to(mean, y[cell].shape), rtol=0, atol=1e-12)


# --- JPEG ------------------------------------------------------------------------------------------------


def tables(quality: int) -> list[np.ndarray]:
    """Pillow's quantisation tables of luma and chroma."""
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "JPEG", quality=quality)
    return [np.reshape(table, (8, 8)) for table in Image.open(file).quantization.values()]


def quantised(plane: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Block after block through scipy's DCT."""
    out = np.empty_like(plane)
    for top in range(0, plane.shape[0], 8):
        for left in range(0, plane.shape[1], 8):
            block = np.s_[top : top + 8, left : left + 8]
            coefficients = scipy.fft.dctn(plane[block], norm="ortho")
            out[block] = scipy.fft.idctn(np.round(coefficients / table) * table, norm="ortho")
    return out


def test_jpeg_tables_are_those_of_libjpeg():
    for quality in range(1, 101):
        ours = [scaled_table(table, quality) for table in (LUMA_TABLE, CHROMA_TABLE)]
        assert np.array_equal(ours, tables(quality))


@pytest.mark.parametrize("size", [(1, 1), (17, 40), (37, 29)])
@pytest.mark.parametrize("quality", [1, 37, 80, 100])
def test_colour_jpeg_is_the_formula(quality, size):
    luma, chroma = tables(quality)
    x = rough(size)
    for image, found in zip(x, degraded(f"jpeg-{quality}", x)):
        padded = np.pad((image + 1) * 127.5, ((0, 0), (0, -size[0] % 16), (0, -size[1] % 16)), mode="edge")
        r, g, b = padded
        y = quantised(0.299 * r + 0.587 * g + 0.114 * b - 128, luma) + 128
        cb = quantised((-0.1687 * r - 0.3313 * g + 0.5 * b)[::2, ::2], chroma).repeat(2, 0).repeat(2, 1)
        cr = quantised((0.5 * r - 0.4187 * g - 0.0813 * b)[::2, ::2], chroma).repeat(2, 0).repeat(2, 1)
        red = y + 1.40198758 * cr - 0.0000368199903 * cb
        green = y - 0.344113281 * cb - 0.714103821 * cr
        blue = y + 1.77197812 * cb - 0.000134583413 * cr
        expected = np.stack([red, green, blue])[:, : size[0], : size[1]] / 127.5 - 1
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("quality", "alike"), [(1, 1), (20, 0.95), (50, 0.9), (75, 0.75), (100, 0)])
def test_grey_jpeg_is_pillows_file(quality, alike):
    """Its pixels are rounded, and ties among its coefficients too, away from zero: those blocks differ."""
    levels = np.clip((rough((61, 83), 1)[0, 0] + 1) * 127.5, 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(levels).save(file, "JPEG", quality=quality)
    theirs = np.asarray(Image.open(file)).astype(float)
    ours = degraded(f"jpeg-{quality}", levels[None, None] / 127.5 - 1)[0, 0]
    difference = np.abs(np.clip((ours + 1) * 127.5, 0, 255) - theirs)
    blocks = np.pad(difference, ((0, 3), (0, 5))).reshape(8, 8, 11, 8).max((1, 3))
    assert np.mean(blocks < 0.6) >= alike
    assert difference.max() < max(2, tables(quality)[0].max() / 2)


# --- noise and colour ------------------------------------------------------------------------------------


def test_noise_has_the_deviation_of_its_name():
    x = torch.from_numpy(rough((128, 160))).float()
    y = create_corruption("denoise-25", (128, 160))(x, generator=torch.Generator().manual_seed(1))
    noise = (y - x) * 127.5
    assert noise.std().item() == pytest.approx(25, rel=0.01)
    assert noise.mean().abs() < 0.2
    inside = [(noise.abs() < 25 * k).float().mean().item() for k in (1, 2, 3)]
    assert inside == pytest.approx([0.6827, 0.9545, 0.9973], abs=0.005)
    rows = noise.reshape(6, -1)
    assert (torch.corrcoef(rows) - torch.eye(6)).abs().max() < 0.03
    by_hand = create_corruption("denoise-25", (128, 160))(x, randn=torch.ones_like)
    torch.testing.assert_close(by_hand, x + 25 / 127.5)


def test_colorize_starts_from_pillows_grey():
    levels = np.random.default_rng(3).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    grey = np.asarray(Image.fromarray(levels).convert("L")).astype(float)
    y = (degraded("colorize", levels.transpose(2, 0, 1)[None] / 127.5 - 1)[0] + 1) * 127.5
    assert np.abs(y - grey).max() < 0.51


# --- holes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "top", "left"), [((20, 31), 6, 12), ((7, 7), 0, 0)])
def test_square_hole(size, top, left):
    _, mask = create_corruption("inpaint-center-7", size)(torch.zeros(2, 1, *size))
    expected = torch.zeros(2, 1, *size)
    expected[..., top : top + 7, left : left + 7] = 1
    assert torch.equal(mask, expected)


@pytest.fixture
def folder(tmp_path):
    """Masks 0 to 4, each in another mode; mask k has k + 1 white columns at the left of 30 x 20 pixels."""
    names = []
    for k, mode in enumerate(["1", "L", "RGB", "P", "I;16"]):
        levels = np.zeros((20, 30), np.uint16 if mode == "I;16" else np.uint8)
        levels[:, : k + 1] = 65535 if mode == "I;16" else 255
        image = Image.fromarray(levels)
        names.append(tmp_path / f"{k}.{'PNG' if k else 'png'}")
        (image if mode == "I;16" else image.convert(mode)).save(names[-1])
    (tmp_path / "note.txt").write_text("no mask")
    return tmp_path


def test_masks_of_a_folder(folder):
    operator = create_corruption(f"inpaint-masks={folder}", (20, 30))
    assert f"5 masks of {folder}" in operator.extra_repr()
    _, mask = operator(torch.zeros(6, 3, 20, 30), index=torch.tensor([0, 1, 2, 3, 4, 13]))
    assert mask.sum((1, 2, 3)).tolist() == [20, 40, 60, 80, 100, 80]
    assert mask[4, 0, :, :5].all()
    _, drawn = operator(torch.zeros(60, 1, 20, 30))
    assert sorted(set(drawn.sum((1, 2, 3)).tolist())) == [20, 40, 60, 80, 100]


@pytest.mark.parametrize("size", [(1, 1), (40, 60), (13, 70)])
def test_masks_of_another_size_are_resized(folder, size):
    masks = FolderMasks(str(folder), (20, 30)).take(np.arange(5))
    _, mask = create_corruption(f"inpaint-masks={folder}", size)(torch.zeros(5, 1, *size), index=torch.arange(5))
    expected = torch.nn.functional.interpolate(torch.from_numpy(masks)[:, None].float(), size=size)
    assert torch.equal(mask, expected)


def test_a_folder_without_masks_and_a_damaged_mask_are_named(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"inpaint-masks=.*empty: there are no PNG files in this folder"):
        create_corruption(f"inpaint-masks={tmp_path / 'empty'}", 16)
    (folder / "1.PNG").write_bytes((folder / "1.PNG").read_bytes()[:45])
    operator = create_corruption(f"inpaint-masks={folder}", 16)
    with pytest.raises(ValueError, match=r"1\.PNG: cannot be read as a mask"):
        operator(torch.zeros(1, 3, 16, 16), index=torch.tensor([1]))


@pytest.mark.parametrize("size", [(16, 200), (120, 31)])
def test_brush_on_rectangles(size):
    masks = np.array([draw_mask(size, 0.2, 0.3, seed) for seed in range(40)])
    assert masks.shape[1:] == size
    ratios = masks.mean((1, 2))
    assert 0.2 <= ratios.min() <= ratios.max() <= 0.3
    assert np.ptp(ratios) > 0.05
    assert (masks.mean(0) > 0).mean() > 0.9  # strokes get everywhere
    _, mask = create_corruption("inpaint-freeform2030", size)(torch.zeros(1, 3, *size), index=torch.tensor([7]))
    assert np.array_equal(mask[0, 0].numpy(), masks[7])
