"""Both ends of the bridge from a clean batch, and where the noise comes from."""

import pytest
import torch

from corruption import create_corruption
from i2sb.batch import make_batch
from i2sb.diffusion import Diffusion, label_from_x0, marginal, posterior, x0_from_label
from i2sb.noise import ImageNoise, TrainingDraws
from i2sb.schedule import accumulated_stds, make_betas


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


@pytest.mark.parametrize("beta_max", [0.3, 1.0])
def test_composed_posteriors_keep_the_marginal(beta_max):
    """In float64: a step of Eq. 4 from the marginal at n (Eq. 11) gives the marginal at n - 1 without bridge noise
    of x1's side: its x0 and x1 weights, and its variance, as the products of Gaussians demand."""
    std_fwd, std_bwd = accumulated_stds(make_betas(100, beta_max))
    mu_x0, mu_x1, std_sb = marginal(std_fwd, std_bwd)
    for n in (5, 50, 98):
        w0, wn, var = posterior(std_fwd[n - 1], std_fwd[n])
        step0, step1 = w0 + wn * mu_x0[n], wn * mu_x1[n]
        assert step0 + step1 == pytest.approx(1, abs=1e-14)
        # beta_n counts in both directions: the bridge that these steps compose has std_bwd without beta_{n-1}
        total = std_fwd[n - 1] ** 2 + (std_fwd[n] ** 2 - std_fwd[n - 1] ** 2) + std_bwd[n] ** 2
        assert step1 == pytest.approx(std_fwd[n - 1] ** 2 / total, rel=1e-12)
        variance = var + wn**2 * std_sb[n] ** 2
        assert variance == pytest.approx(std_fwd[n - 1] ** 2 * (total - std_fwd[n - 1] ** 2) / total, rel=1e-12)


def test_label_and_prediction_are_inverse():
    bridge = Diffusion(make_betas(100, 0.3))
    x0, xt = clean().double(), clean(3).flip(0).double()
    std = bridge.get_std_fwd(torch.tensor([0, 50, 99]), xdim=(3, 32, 32)).double()
    assert torch.allclose(x0_from_label(std, label_from_x0(std, x0, xt), xt), x0, atol=1e-14)
