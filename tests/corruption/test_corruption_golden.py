"""Every published degradation gives the release's own values."""

from pathlib import Path

import numpy as np
import pytest
import torch
from golden.formulas import image

from corruption import create_corruption

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
OPEN = np.load(GOLDEN / "corruption_open.npz")
STABLE_BLUR = np.load(GOLDEN / "blur_stable_sort.npz")  # the release's own sort is unstable among ties

TASKS = ["jpeg-5", "jpeg-10", "blur-uni", "blur-gauss", "sr4x-pool", "sr4x-bicubic", "inpaint-center"]


def degraded(task: str, size: int) -> np.ndarray:
    out = create_corruption(task, size)(torch.from_numpy(image(size, 2, "open")))
    return (out[0] if isinstance(out, tuple) else out).numpy()


@pytest.mark.parametrize("size", [64, 256])
@pytest.mark.parametrize("task", TASKS)
def test_matches_the_release(task, size):
    """The file holds one pixel in 97 at 256 px; a wrong block elsewhere shows in the moments."""
    blur = task.startswith("blur")
    key, step = ("full", 1) if size == 64 else ("every97", 97)
    y = degraded(task, size)
    expected = (STABLE_BLUR if blur else OPEN)[f"{size}/{task}/{key}"].reshape(-1)
    np.testing.assert_allclose(y.reshape(-1)[::step], expected, rtol=0, atol=1e-4)
    if not blur:
        y = y.astype(np.float64)
        np.testing.assert_allclose([y.mean(), y.std(), y.min(), y.max()], OPEN[f"{size}/{task}/moments"], atol=1e-5)


@pytest.mark.parametrize(("task", "size", "psnr"), [("blur-uni", 256, 66), ("blur-gauss", 64, 54)])
def test_blur_is_near_the_release_with_its_unstable_sort(task, size, psnr):
    """PSNR on the [0,1] scale, as corruption_open.npz was made; the ideal blur would be at 28-32 dB."""
    key, step = ("full", 1) if size == 64 else ("every97", 97)
    theirs = OPEN[f"{size}/{task}/{key}"].reshape(-1)
    error = (degraded(task, size).reshape(-1)[::step] - theirs) / 2
    assert -10 * np.log10(np.mean(error**2)) > psnr - 1


@pytest.mark.parametrize("size", [64, 256])
def test_center_hole_has_the_release_place(size):
    _, mask = create_corruption("inpaint-center", size)(torch.zeros(2, 3, size, size))
    top, bottom, left, right = OPEN[f"{size}/inpaint-center/mask_bbox"]
    expected = torch.zeros(2, 1, size, size)
    expected[..., top:bottom, left:right] = 1
    assert torch.equal(mask, expected)
