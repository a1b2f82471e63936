"""Schedule, steps and posterior against the published release's values and float64 identities."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from i2sb.diffusion import Diffusion, label_from_x0, marginal, posterior, x0_from_label
from i2sb.ema import ExponentialMovingAverage
from i2sb.schedule import accumulated_stds, make_betas, noise_levels, sampling_steps, space_indices

GOLDEN = Path(__file__).parents[1] / "golden"
TABLES = np.load(GOLDEN / "schedule.npz")
SETTINGS = sorted({key.split("/")[0] for key in TABLES})


@pytest.mark.parametrize("setting", SETTINGS)
def test_tables_equal_the_published_ones(setting):
    interval, beta_max = setting.split("_")
    bridge = Diffusion(make_betas(int(interval), float(beta_max)))
    for name in ("betas", "std_fwd", "std_bwd", "std_sb", "mu_x0", "mu_x1"):
        np.testing.assert_allclose(getattr(bridge, name).numpy(), TABLES[f"{setting}/{name}/f64"], rtol=1e-6)
    levels = noise_levels(1e-4, 1.0, int(interval))
    np.testing.assert_allclose(levels, TABLES[f"{setting}/noise_levels/f32"], rtol=1e-6)


def test_steps_equal_the_published_ones():
    steps = json.loads((GOLDEN / "steps.json").read_text())
    for key, expected in steps["space_indices"].items():
        assert space_indices(*map(int, key.split(","))) == expected
    for nfe, expected in steps["sampling"].items():
        assert sampling_steps(1000, int(nfe)) == (expected["steps"], expected["log_steps"])


def test_posterior_equals_the_published_one():
    for case in json.loads((GOLDEN / "posterior.json").read_text()):
        bridge = Diffusion(make_betas(case["interval"], case["beta_max"]))
        one, zero = torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)
        nprev, n = case["nprev"], case["n"]

        def step(x_n, x0, noise):
            return bridge.p_posterior(nprev, n, x_n, x0, randn=lambda _: noise).item()  # noqa: B023

        # The release forms the difference of two float32 squares: right to float32's step next to 1, no better.
        assert step(zero, one, zero) == pytest.approx(case["coef_x0"], rel=1e-6, abs=3e-7)
        assert step(one, zero, zero) == pytest.approx(case["coef_xn"], rel=1e-6, abs=3e-7)
        std_prev = case["std_nprev"]
        assert (step(zero, zero, one) / std_prev) ** 2 == pytest.approx(
            (case["noise_std"] / std_prev) ** 2, rel=1e-6, abs=3e-7
        )


def test_posterior_composed_with_the_marginal_is_the_marginal():
    std_fwd, _ = accumulated_stds(make_betas(100, 0.3))
    # The release counts beta_n in both sums; the identity needs the sum that begins after n.
    after = np.sqrt(np.maximum(std_fwd[-1] ** 2 - std_fwd**2, 0))
    for nprev, n in [(3, 20), (10, 99), (50, 51)]:
        mu_x0, mu_x1, std = marginal(std_fwd[n], after[n])
        w0, wn, var = posterior(std_fwd[nprev], std_fwd[n])
        expected = marginal(std_fwd[nprev], after[nprev])
        assert w0 + wn * mu_x0 == pytest.approx(expected[0], rel=1e-12)
        assert wn * mu_x1 == pytest.approx(expected[1], rel=1e-12)
        assert var + (wn * std) ** 2 == pytest.approx(expected[2] ** 2, rel=1e-12)


def test_label_and_x0_are_inverse():
    x0, xt = torch.randn(2, 4, dtype=torch.float64)
    torch.testing.assert_close(x0_from_label(0.3, label_from_x0(0.3, x0, xt), xt), x0)


@pytest.mark.parametrize(("interval", "beta_max"), [(99, 0.3), (0, 0.3), (100, 0.0), (100, float("nan"))])
def test_wrong_schedules_are_refused(interval, beta_max):
    with pytest.raises(ValueError):
        make_betas(interval, beta_max)


@pytest.mark.parametrize("nfe", [0, -1, 100])
def test_wrong_nfe_is_refused(nfe):
    with pytest.raises(ValueError, match="nfe"):
        sampling_steps(100, nfe)


def test_ema_follows_its_formula():
    param = torch.nn.Parameter(torch.zeros(3))
    ema = ExponentialMovingAverage([param], 0.99)
    expected = 0.0
    for k in range(1, 6):
        param.data.fill_(float(k))
        ema.update()
        decay = min(0.99, (1 + k) / (10 + k))
        expected = decay * expected + (1 - decay) * k
    torch.testing.assert_close(ema.shadow_params[0], torch.full((3,), expected))
    with ema.average_parameters():
        torch.testing.assert_close(param.data, ema.shadow_params[0])
    assert param[0].item() == 5.0
