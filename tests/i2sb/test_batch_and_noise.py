"""Both ends of the bridge from a clean batch, and where the noise comes from."""

import pytest
import torch

from corruption import create_corruption
from i2sb.batch import make_batch, unpack
from i2sb.errors import UserError
from i2sb.noise import ImageNoise, TrainingDraws


def clean(count: int = 3) -> torch.Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_no_hole():
    x0 = clean()
    batch = make_batch(x0, create_corruption("sr4x-pool", 32))
    assert torch.equal(batch.x1, create_corruption("sr4x-pool", 32)(x0))
    assert batch.mask is None
    assert batch.cond is None


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


def test_any_function_serves_as_a_degradation():
    x0 = clean()
    assert torch.equal(make_batch(x0, lambda x: -x).x1, -x0)


@pytest.mark.parametrize("partner", [clean()[..., ::4, ::4], (clean() * 127).byte(), clean()[:, :1]])
def test_pairs_that_do_not_fit_are_not_taken_for_labels(partner):
    with pytest.raises(UserError, match=r"a pair of images must have one shape .* resize the degraded one"):
        unpack([clean(), partner, torch.tensor([1, 2, 3])])


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8, torch.bool])
def test_a_pair_with_a_mask(dtype):
    x0, degraded, mask = clean(), clean() * 0.5, torch.zeros(3, 1, 32, 32, dtype=dtype)
    mask[..., 8:24] = 1
    batch = make_batch(unpack([x0, degraded, mask]), lambda x: pytest.fail("called for a pair"))
    assert torch.equal(batch.x1[..., :8], degraded[..., :8])
    assert 0.9 < batch.x1[..., 8:24].std() < 1.1
    assert (batch.mask.dtype, batch.mask.mean()) == (torch.float32, 0.5)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_ranks_share_the_numbers_of_one(world_size):
    torch.manual_seed(5)
    alone = TrainingDraws()
    expected = [alone.integers(1000, 6), alone.randn_like(torch.zeros(6, 2)), alone.integers(9, 6)]
    torch.manual_seed(5)
    ranks = [TrainingDraws(rank, world_size, seed=5) for rank in range(world_size)]
    count = 6 // world_size
    found = [
        torch.cat([rank.integers(1000, count) for rank in ranks]),
        torch.cat([rank.randn_like(torch.zeros(count, 2)) for rank in ranks]),
        torch.cat([rank.integers(9, count) for rank in ranks]),
    ]
    for one, together in zip(expected, found):
        assert torch.equal(one, together)


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
