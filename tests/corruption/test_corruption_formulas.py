"""Tables of the operators against independent sources; golden values show what becomes of images."""

import io

import numpy as np
import pytest
from PIL import Image

from corruption.blur import GaussBlur, UniformBlur, blur_matrix, spectrum
from corruption.jpeg import CHROMA_TABLE, LUMA_TABLE, scaled_table

# --- JPEG ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quality", [5, 10, 75])
def test_jpeg_tables_are_those_of_libjpeg(quality):
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "JPEG", quality=quality)
    theirs = Image.open(file).quantization
    assert scaled_table(LUMA_TABLE, quality).ravel().tolist() == list(theirs[0])
    assert scaled_table(CHROMA_TABLE, quality).ravel().tolist() == list(theirs[1])


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
