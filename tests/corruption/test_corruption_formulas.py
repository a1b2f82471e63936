"""The operators against independent float64 formulas."""

import io

import numpy as np
import pytest
import scipy.fft
import torch
from PIL import Image

from corruption import create_corruption
from corruption.blur import GaussBlur, UniformBlur, blur_matrix, spectrum
from corruption.jpeg import CHROMA_TABLE, LUMA_TABLE, scaled_table
from corruption.superres import cubic

RNG = np.random.default_rng(7)


def random_images(size: int, batch: int = 2) -> np.ndarray:
    return RNG.uniform(-1, 1, (batch, 3, size, size)).astype(np.float32)


def apply(task: str, x: np.ndarray) -> np.ndarray:
    return create_corruption(task, x.shape[-1])(torch.from_numpy(x)).numpy()


# --- JPEG ------------------------------------------------------------------------------------------------


def block_by_block(plane: np.ndarray, table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """By scipy's DCT of every block: the decoded plane, and how far each coefficient is from a tie."""
    decoded, margin = np.empty_like(plane), np.empty_like(plane)
    for r in range(0, len(plane), 8):
        for c in range(0, len(plane), 8):
            here = np.s_[r : r + 8, c : c + 8]
            coefficients = scipy.fft.dctn(plane[here] - 128, norm="ortho") / table
            margin[here] = np.abs(np.abs(coefficients) % 1 - 0.5)
            decoded[here] = scipy.fft.idctn(np.rint(coefficients) * table, norm="ortho") + 128
    return decoded, margin


def jpeg_reference(x: np.ndarray, quality: int) -> tuple[np.ndarray, float]:
    """One image [3,S,S] in [-1,1] through textbook JPEG, float64.  Also the smallest distance from a tie."""
    red, green, blue = (x.astype(np.float64) + 1) * 127.5
    planes = [
        0.299 * red + 0.587 * green + 0.114 * blue,
        (-0.1687 * red - 0.3313 * green + 0.5 * blue + 128)[::2, ::2],
        (0.5 * red - 0.4187 * green - 0.0813 * blue + 128)[::2, ::2],
    ]
    tables = [scaled_table(t, quality) for t in (LUMA_TABLE, CHROMA_TABLE, CHROMA_TABLE)]
    (y, m0), (cb, m1), (cr, m2) = map(block_by_block, planes, tables)
    cb, cr = (np.kron(c, np.ones((2, 2))) - 128 for c in (cb, cr))
    rgb = [
        y + 1.40198758 * cr - 0.0000368199903 * cb,
        y - 0.344113281 * cb - 0.714103821 * cr,
        y + 1.77197812 * cb - 0.000134583413 * cr,
    ]
    return np.stack(rgb) / 127.5 - 1, min(m.min() for m in (m0, m1, m2))


@pytest.mark.parametrize("quality", [5, 10])
def test_jpeg_is_a_dct_of_every_block(quality):
    x = random_images(32, batch=4)
    y = apply(f"jpeg-{quality}", x)
    for image, ours in zip(x, y):
        expected, margin = jpeg_reference(image, quality)
        assert margin > 1e-5, "the random image sits on a tie: choose another seed"
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("quality", [5, 10, 75])
def test_jpeg_tables_are_those_of_libjpeg(quality):
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "JPEG", quality=quality)
    theirs = Image.open(file).quantization
    assert scaled_table(LUMA_TABLE, quality).ravel().tolist() == list(theirs[0])
    assert scaled_table(CHROMA_TABLE, quality).ravel().tolist() == list(theirs[1])


# --- super-resolution ------------------------------------------------------------------------------------


def test_pool_is_the_mean_of_each_square():
    x = random_images(32)
    means = x.astype(np.float64).reshape(2, 3, 8, 4, 8, 4).mean(axis=(3, 5))
    np.testing.assert_allclose(apply("sr4x-pool", x), np.kron(means, np.ones((4, 4))), atol=1e-6)


def test_bicubic_is_a_weighted_sum_of_mirrored_pixels():
    size = 32
    x = random_images(size, batch=1)
    padded = np.pad(x[0, 0].astype(np.float64), 8, mode="symmetric")  # mirrors with the border pixel repeated
    k = np.array([cubic(np.array((t - 7.5) / 4)) for t in range(16)])
    k /= k.sum()
    small = np.empty((8, 8))
    for r in range(8):
        for c in range(8):
            small[r, c] = k @ padded[4 * r + 2 : 4 * r + 18, 4 * c + 2 : 4 * c + 18] @ k
    np.testing.assert_allclose(apply("sr4x-bicubic", x)[0, 0], np.kron(small, np.ones((4, 4))), atol=1e-5)


# --- blur ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kernel", "row_sum"), [(UniformBlur.kernel, 8 / 9), (GaussBlur.kernel, 0.802)])
def test_blur_matrix_lacks_the_last_tap(kernel, row_sum):
    a = blur_matrix(kernel, 32)
    half = len(kernel) // 2
    np.testing.assert_allclose(a[half:-half].sum(axis=1), row_sum, atol=1e-3)
    for i in range(32):
        for j in range(32):
            expected = kernel[j - i + half] if i - half <= j < i + half else 0
            assert a[i, j] == expected


@pytest.mark.parametrize("kernel", [UniformBlur.kernel, GaussBlur.kernel])
def test_blur_gains_one_by_one(kernel):
    """The rule, coefficient after coefficient, with Python's own (stable) sort."""
    size = 16
    u, v, gains = spectrum(kernel, size)
    s = np.linalg.svd(blur_matrix(kernel, size), compute_uv=False)
    s = [value if value >= 0.03 else 0.0 for value in s]
    products = [(i, j, s[i] * s[j]) for i in range(size) for j in range(size)]
    ranked = sorted(products, key=lambda p: -p[2])
    for p, (i, j, _) in enumerate(ranked):
        for c in range(3):
            assert gains[c, i, j] == pytest.approx(ranked[(3 * p + c) % size**2][2], abs=1e-12)
    kept = np.array(s)
    np.testing.assert_allclose(u @ np.diag(kept) @ v.T, blur_matrix(kernel, size), atol=0.031)
