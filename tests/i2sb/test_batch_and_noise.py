"""Both ends of the bridge from a clean batch, and where the noise comes from."""

import json
from pathlib import Path

import pytest
import torch

from corruption import create_corruption
from i2sb.batch import make_batch, unpack
from i2sb.errors import UserError
from i2sb.noise import ImageNoise, TrainingDraws
from i2sb.pixels import nearest_uint8, to_float, to_uint8

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "metrics.json").read_text())
LEVELS = torch.arange(256, dtype=torch.uint8)


def clean(count: int = 3) -> torch.Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_a_hole_holds_noise_and_cond_holds_the_same():
    x0 = clean()
    batch = make_batch(x0, create_corruption("inpaint-center", 32), cond_x1=True)
    hole = batch.mask.bool().expand_as(x0)
    assert torch.equal(batch.x1[~hole], x0[~hole])
    assert batch.x1[hole].std() > 0.9
    assert torch.equal(batch.cond, batch.x1)


def test_added_noise_is_not_in_cond():
    x0, corrupt = clean(), create_corruption("jpeg-10", 32)
    batch = make_batch(x0, corrupt, cond_x1=True, add_x1_noise=True)
    assert torch.equal(batch.cond, corrupt(x0))
    assert 0.9 < (batch.x1 - batch.cond).std() < 1.1


@pytest.mark.parametrize("partner", [clean()[..., ::4, ::4], (clean() * 127).byte(), clean()[:, :1]])
def test_pairs_that_do_not_fit_are_not_taken_for_labels(partner):
    with pytest.raises(UserError, match=r"a pair of images must have one shape .* resize the degraded one"):
        unpack([clean(), partner, torch.tensor([1, 2, 3])])


def test_the_memory_layout_moves_no_noise():
    """The JPEG operator hands on channels-last memory: 1 and 2 ranks, training and restoring draw as ever."""
    x = torch.zeros(4, 3, 8, 8)
    layouts = (x, x.contiguous(memory_format=torch.channels_last))

    def alone(x):
        torch.manual_seed(5)
        return TrainingDraws().randn_like(x)

    def two_ranks(x):
        return torch.cat([TrainingDraws(rank, 2, seed=5).randn_like(x[:2]) for rank in range(2)])

    for draw in (alone, two_ranks, lambda x: ImageNoise(5, range(4)).randn_like(x)):
        plain, channels_last = map(draw, layouts)
        assert torch.equal(plain, channels_last)
    assert torch.equal(alone(layouts[1]), two_ranks(layouts[1]))
    assert make_batch(clean(), create_corruption("jpeg-10", 32)).x1.is_contiguous()


def test_each_image_has_its_own_noise():
    x = torch.zeros(3, 3, 4, 4)
    together = ImageNoise(7, [4, 9, 2])
    first, second = together.randn_like(x), together.randn_like(x)
    alone = ImageNoise(7, [9])
    assert torch.equal(alone.randn_like(x[:1])[0], first[1])
    assert torch.equal(alone.randn_like(x[:1])[0], second[1])
    assert not torch.equal(ImageNoise(8, [9]).randn_like(x[:1])[0], first[1])
    with pytest.raises(ValueError, match="noise for 3 images was asked for 2"):
        together.randn_like(x[:2])


# --- from [-1, 1] to 8 bits and back


def test_truncates_and_clamps_as_published():
    golden = GOLDEN["convert_to_numpy"]
    assert to_uint8(torch.tensor(golden["inp"])).tolist() == golden["out"]


def test_nearest_recovers_every_level_of_a_data_set_image():
    x = LEVELS.float().div(255) * 2 - 1  # what ToTensor, then 2x - 1, makes of a file
    assert torch.equal(nearest_uint8(x), LEVELS)
    assert torch.equal(nearest_uint8(to_float(LEVELS)), LEVELS)


def test_uint8_is_handed_through_as_a_copy():
    pixels = LEVELS.clone()
    for convert in (to_uint8, nearest_uint8):
        out = convert(pixels)
        out.zero_()
        assert torch.equal(pixels, LEVELS)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_types_do_not_lose_levels_to_arithmetic(dtype):
    x = torch.tensor([-1.0, -0.5, 0.0, 0.5, 1.0], dtype=dtype)
    assert to_uint8(x).tolist() == [0, 63, 127, 191, 255]


@pytest.mark.parametrize("convert", [to_uint8, nearest_uint8])
def test_refuses_what_is_no_image(convert):
    with pytest.raises(ValueError, match="1 of 3 pixel values are not finite"):
        convert(torch.tensor([0.0, float("nan"), 1.0]))
    with pytest.raises(ValueError, match=r"torch\.int64"):
        convert(torch.tensor([1, 2]))
