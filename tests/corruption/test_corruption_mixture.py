"""The mixture is its nine parts, chosen per image."""

from argparse import Namespace

import pytest
import torch

from corruption import create_corruption
from corruption.inpaint import get_center_mask
from corruption.mixture import MixtureCorruptDatasetTrain, MixtureCorruptDatasetVal

SIZE = 32
NINE = ["jpeg-5", "jpeg-10", "blur-uni", "blur-gauss", "sr4x-pool", "sr4x-bicubic", "inpaint-center"]
NINE += ["inpaint-freeform1020", "inpaint-freeform2030"]


@pytest.fixture(scope="module")
def mixture():
    return create_corruption("mixture", SIZE)


def noisy(batch: int) -> torch.Tensor:
    return torch.rand(batch, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(2)) * 2 - 1


def expected_image(task: str, x: torch.Tensor, number: int, noise: torch.Tensor) -> torch.Tensor:
    """One image [3,S,S] through one task alone, its hole filled with `noise`."""
    operator = create_corruption(task, SIZE)
    out = operator(x[None], index=torch.tensor([number]))
    if not operator.has_mask:
        return out[0]
    image, mask = out
    return torch.where(mask.bool(), noise, image)[0]


def test_evaluation_goes_round_the_nine_in_the_published_order(mixture):
    numbers = torch.tensor([0, 1, 2, 3, 4, 5, 6, 7, 8, 17, 9, 10006])
    x, noise = noisy(len(numbers)), torch.randn(len(numbers), 3, SIZE, SIZE)
    y = mixture(x, index=numbers, randn=lambda like: noise)
    for row, number in enumerate(numbers.tolist()):
        expected = expected_image(NINE[number % 9], x[row], number, noise[row])
        torch.testing.assert_close(y[row], expected, rtol=0, atol=1e-5)


def test_training_draws_all_nine(mixture):
    x = noisy(1).expand(200, -1, -1, -1)
    assert len(mixture(x, randn=torch.zeros_like)[:, :, 0].unique(dim=0)) > 9  # of which 7 without a mask of their own


@pytest.mark.parametrize("numbers", [[0], [6], [0, 6, 7]])
def test_noise_is_asked_for_once_for_the_whole_batch(mixture, numbers):
    """So that a source with one generator per image does not depend on the neighbours' kinds."""
    asked = []
    x = noisy(len(numbers))
    mixture(x, index=torch.tensor(numbers), randn=lambda like: asked.append(like.shape) or torch.randn_like(like))
    assert asked == [x.shape]


# --- the original's data sets of pairs --------------------------------------------------------------------

IMAGES = [(image, 3 * i) for i, image in enumerate(noisy(18))]


def test_training_pairs_are_drawn_afresh():
    pairs = MixtureCorruptDatasetTrain(Namespace(image_size=SIZE), IMAGES)
    assert len(pairs) == 18
    clean, degraded, label = pairs[5]
    assert torch.equal(clean, IMAGES[5][0])
    assert label == 15
    assert degraded.shape == clean.shape
    assert not torch.equal(pairs[5][1], degraded) or not torch.equal(pairs[5][1], degraded)
    loaded = next(iter(torch.utils.data.DataLoader(pairs, batch_size=18, num_workers=1)))
    assert torch.equal(loaded[0], noisy(18))
    assert loaded[2].tolist() == [3 * i for i in range(18)]


def test_validation_pairs_are_the_same_every_time():
    pairs = MixtureCorruptDatasetVal(Namespace(image_size=SIZE, corrupt="mixture", device="cuda"), IMAGES)
    for i in range(18):
        clean, degraded, _ = pairs[i]
        assert torch.equal(degraded, pairs[i][1])
        kind = create_corruption(NINE[i % 9], SIZE)
        if not kind.has_mask:
            torch.testing.assert_close(degraded, kind(clean[None])[0], rtol=0, atol=1e-6)
            continue
        shown, mask = kind(clean[None], index=torch.tensor([i]))
        keep = (1 - mask[0]).expand_as(clean).bool()
        assert torch.equal(degraded[keep], shown[0][keep])
        assert degraded[~keep].std() > 0.8
    assert not torch.equal(pairs[6][1][:, 8:24, 8:24], pairs[15][1][:, 8:24, 8:24])


def test_centre_mask_of_the_original():
    mask = get_center_mask([8, 12])
    assert mask.dtype == torch.uint8
    assert mask.shape == (1, 8, 12)
    assert mask[:, 2:6, 3:9].all()
    assert mask.sum() == 4 * 6
