"""All samplers: their formulas against exact laws, and what they refuse."""

import math

import pytest
import torch

from i2sb.diffusion import Diffusion
from i2sb.noise import ImageNoise
from i2sb.options.shared import SAMPLERS as SAID
from i2sb.samplers import SAMPLERS, Walk, sample
from i2sb.schedule import SPACINGS, make_betas, visited_steps

BRIDGE = Diffusion(make_betas(1000, 0.3))
SIDE, MEAN, VAR, X1 = 120, 0.3, 0.04, -0.4  # x0 ~ N(MEAN, VAR), one x1; as many pixels, each a problem of its own


def walk(bridge=BRIDGE):
    return Walk(bridge, None, 0, None, False, None)


def posterior_mean(bridge):
    """E[x0 | x_n, x1]: the network that nothing can be better than."""

    def predict(xt, n):
        a, b, c = walk(bridge).marginal(n)
        gain = VAR * b / (b**2 * VAR + c**2) if c else 0.0
        return MEAN + gain * (xt - b * MEAN - a * X1)

    return predict


def noise(seed=0):
    return ImageNoise(seed, [0]).randn_like


def restored(name, steps, bridge=BRIDGE, seed=0, **options):
    x1 = torch.full((1, 1, SIDE, SIDE), X1, dtype=torch.float64)
    return sample(name, bridge, steps, posterior_mean(bridge), x1, randn=noise(seed), **options)


def test_the_table_of_names_is_the_one_that_help_shows():
    assert list(SAMPLERS) == list(SAID)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("nfe", [1, 2, 7, 100])
def test_eta_1_is_ddpm(nfe, spacing):
    steps = visited_steps(1000, nfe, spacing, BRIDGE.std_fwd_list)
    torch.testing.assert_close(restored("dbim", steps, eta=1.0), restored("ddpm", steps), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "eta"), [("ddpm", None), ("dbim", None), ("dbim", 0.3), ("dbim", 1.0), ("dbim2", None)]
)
def test_the_law_of_the_result_is_that_of_the_bridge(name, eta):
    """q(x_0 | x1), by 14,400 draws: mean and variance.  `mean` and `anchor` do not claim it: they draw nothing."""
    steps = visited_steps(1000, 300, "logsnr", BRIDGE.std_fwd_list)
    a, b, c = walk().marginal(0)
    found = restored(name, steps, eta=eta)
    last_noise = 0 if name == "ddpm" or eta == 1.0 else c**2  # published: no noise in the last step
    variance = b**2 * VAR + last_noise
    assert found.mean().item() == pytest.approx(b * MEAN + a * X1, abs=4 * math.sqrt(VAR) / SIDE)
    assert found.var().item() == pytest.approx(variance, rel=0.04)


def test_the_mean_samplers_draw_nothing_and_end_at_the_predicted_mean():
    a, b, _ = walk().marginal(0)
    for name in ("mean", "anchor"):
        found = sample(name, BRIDGE, [0, 500, 999], posterior_mean(BRIDGE), torch.full((1, 1, 2, 2), X1), randn=None)
        assert found.mean().item() == pytest.approx(b * MEAN + a * X1, abs=0.01), name


def states(name, predict, steps, bridge=BRIDGE):
    """step -> state, of a bridge whose network sees only the step."""
    found = {}
    x1 = torch.full((1, 1, 1, 1), X1, dtype=torch.float64)
    at = lambda xt, n: torch.full_like(xt, predict(n))  # noqa: E731
    sample(name, bridge, steps, at, x1, randn=noise(), on_step=lambda n, x, x0: found.update({n: x.item()}))
    return found


def exact(bridge, predict, s, t, xt, points=20_001):
    """The state at s from that at t: x / c - (a / c) x1 moves by the integral of exp(lambda) x0 over lambda."""
    (a_s, _, c_s), (a_t, _, c_t) = walk(bridge).marginal(s), walk(bridge).marginal(t)
    lam = torch.linspace(walk(bridge).log_snr(t), walk(bridge).log_snr(s), points, dtype=torch.float64)
    moved = torch.trapezoid(lam.exp() * predict(lam), lam).item()
    return c_s * ((xt - a_t * X1) / c_t + moved) + a_s * X1


def of_lambda(bridge, function):
    return lambda n: float(function(torch.tensor(max(walk(bridge).log_snr(n), -30), dtype=torch.float64)))


def test_second_order_is_exact_where_the_prediction_is_linear_in_lambda():
    def line(lam):
        return 0.2 + 0.1 * lam

    steps = visited_steps(1000, 12, "logsnr", BRIDGE.std_fwd_list)
    second, first = (states(name, of_lambda(BRIDGE, line), steps) for name in ("dbim2", "dbim"))
    t, s = steps[-3], steps[1]  # behind the two first steps, and before the last
    assert second[s] == pytest.approx(exact(BRIDGE, line, s, t, second[t]), abs=1e-6)
    assert abs(first[s] - exact(BRIDGE, line, s, t, first[t])) > 1e-3


def test_the_error_falls_with_the_square_of_the_step():
    """With twice as many steps over the same stretch of lambda: by 4 for dbim2, by 2 for dbim."""
    bridge = Diffusion(make_betas(20_000, 0.3))  # so fine that rounding the steps to indices does not count
    fall = {}
    for name in ("dbim", "dbim2"):
        errors = []
        for nfe in (20, 40):
            steps = visited_steps(20_000, nfe, "logsnr", bridge.std_fwd_list)
            found = states(name, of_lambda(bridge, torch.sin), steps, bridge)
            t, s = steps[-1 - nfe // 5], steps[nfe // 5]
            errors.append(abs(found[s] - exact(bridge, torch.sin, s, t, found[t])))
        fall[name] = errors[0] / errors[1]
    print("errors fall by", fall)
    assert 1.7 < fall["dbim"] < 2.4
    assert 3.4 < fall["dbim2"] < 5


@pytest.mark.parametrize("name", SAMPLERS)
def test_an_image_comes_out_the_same_whatever_the_batch(name):
    torch.manual_seed(0)
    x1 = torch.rand(3, 3, 8, 8) * 2 - 1
    steps = visited_steps(1000, 5, "quadratic")

    def restore(numbers):
        return sample(name, BRIDGE, steps, lambda xt, n: 0.5 * xt, x1[numbers], randn=ImageNoise(7, numbers).randn_like)

    assert torch.equal(restore([0, 1, 2])[1:2], restore([1]))


@pytest.mark.parametrize("name", SAMPLERS)
def test_known_pixels_stay_known(name):
    """Up to the noise of step 0, which is 0.01."""
    torch.manual_seed(0)
    x1, mask = torch.rand(1, 3, 16, 16), torch.zeros(1, 1, 16, 16)
    mask[..., 4:12, 4:12] = 1
    found = sample(name, BRIDGE, [0, 250, 500, 999], lambda xt, n: torch.full_like(xt, -1.0), x1, mask=mask)
    known = (mask == 0).expand_as(x1)
    assert (found - x1)[known].abs().max() < 0.05
    assert found[~known].max() < -0.9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "euler"}, "unknown sampler 'euler'; choose one of ddpm, dbim, dbim2, mean, anchor"),
        ({"name": "dbim", "ot_ode": True}, "a network trained with --ot-ode saw none; choose ddpm, mean, anchor"),
        ({"name": "dbim2", "ot_ode": True}, "sampler dbim2 draws noise"),
        ({"name": "ddpm", "eta": 0.5}, "sampler ddpm has no eta, dbim has"),
        ({"name": "dbim", "eta": 1.5}, r"eta must lie in 0..1, got 1.5"),
    ],
)
def test_what_does_not_suit_is_refused_with_the_reason(options, message):
    with pytest.raises(ValueError, match=message):
        sample(options.pop("name"), BRIDGE, [0, 999], lambda xt, n: xt, torch.zeros(1, 3, 4, 4), **options)


def test_networks_without_noise_go_by_means():
    steps, x1 = [0, 300, 999], torch.full((1, 1, 2, 2), X1)
    ddpm, mean = (sample(name, BRIDGE, steps, lambda xt, n: 0.5 * xt, x1, ot_ode=True) for name in ("ddpm", "mean"))
    assert torch.equal(ddpm, mean)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("nfe", [1, 2, 3, 10, 97, 99])
def test_steps_are_distinct_and_reach_both_ends(spacing, nfe):
    steps = visited_steps(100, nfe, spacing, Diffusion(make_betas(100, 0.3)).std_fwd_list)
    assert len(steps) == nfe + 1
    assert steps == sorted(set(steps))
    assert (steps[0], steps[-1]) == (0, 99)


def test_where_the_steps_lie():
    assert visited_steps(1000, 4, "quadratic") == [0, 62, 250, 562, 999]
    assert visited_steps(12, 8, "quadratic") == [0, 1, 2, 3, 4, 5, 6, 8, 11]  # 0 0 1 2 3 4 6 8 11, moved up
    steps = visited_steps(1000, 10, "logsnr", BRIDGE.std_fwd_list)
    assert steps[-1] == 999
    levels = torch.tensor([walk().log_snr(n) for n in steps[:-1]])
    assert levels.diff().std() < 0.05 * levels.diff().mean().abs()
    with pytest.raises(ValueError, match="unknown spacing 'cubic'"):
        visited_steps(1000, 10, "cubic")
