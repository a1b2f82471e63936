"""Schedule, steps, posterior and sampling loop against the published release's values and float64 identities."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from golden.formulas import image, weight

from guided_diffusion.script_util import create_model
from i2sb.diffusion import Diffusion, marginal, posterior, x0_from_label
from i2sb.ema import ExponentialMovingAverage
from i2sb.samplers import fill_hole, sample
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


# --- the sampling loop


@pytest.fixture(scope="module")
def net():
    meta = json.loads((GOLDEN / "unet_small_meta.json").read_text())["tiny_uncond"]
    model = create_model(**meta["cfg"])
    state = {key: torch.from_numpy(weight(key, shape, "hash")) for key, shape in meta["keys"].items()}
    model.load_state_dict(state, strict=True)
    return model.eval()


@pytest.mark.parametrize("key", sorted(np.load(GOLDEN / "sampler.npz")))
def test_final_images_equal_the_published_ones(net, key):
    ot, nfe, masked, clip = (int("".join(filter(str.isdigit, part))) for part in key.split("/"))
    bridge = Diffusion(make_betas(100, 0.3))
    levels = torch.tensor(noise_levels(1e-4, 1.0, 100), dtype=torch.float32)
    mask = None
    if masked:
        mask = torch.zeros(2, 1, 64, 64)
        mask[:, :, 16:48, 16:48] = 1

    def pred_x0(xt, step):
        out = net(xt, levels[step].expand(len(xt)))
        x0 = x0_from_label(bridge.get_std_fwd(step), out, xt)
        return x0.clamp(-1, 1) if clip else x0

    steps, log_steps = sampling_steps(100, nfe)
    torch.manual_seed(0)
    with torch.no_grad():
        x1 = torch.from_numpy(image(64, 2, "x1"))
        if masked:  # the hole is filled before the sampler is called
            x1 = fill_hole(x1, mask, torch.randn_like(x1))
        xs, _ = bridge.ddpm_sampling(steps, pred_x0, x1, mask, bool(ot), log_steps, verbose=False)
    assert xs.shape == (2, len(log_steps), 3, 64, 64)
    np.testing.assert_allclose(xs[:, 0].numpy(), np.load(GOLDEN / "sampler.npz")[key], atol=1e-4)


def test_the_sampler_hands_out_ordinary_tensors_and_takes_x1_as_it_comes(net):
    """Its own hole it leaves alone; what it returns can be changed in place and differentiated."""
    bridge = Diffusion(make_betas(100, 0.3))
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 2:6, 2:6] = 1
    x1 = torch.linspace(-1, 1, 192).reshape(1, 3, 8, 8).requires_grad_()
    seen = []

    def pred_x0(xt, step):
        seen.append(xt)
        return xt * 0.5

    xs, pred_x0s = bridge.ddpm_sampling([0, 50, 99], pred_x0, x1, mask, verbose=False)
    assert torch.equal(seen[0], x1)
    for states in (xs, pred_x0s):
        assert not states.requires_grad
        states.clamp_(-1, 1).requires_grad_()
    every, _ = bridge.ddpm_sampling(torch.tensor([0, 50, 99]), pred_x0, x1, mask.bool(), ot_ode=True, verbose=False)
    assert every.shape[1] == 2
    with pytest.raises(ValueError, match="steps must ascend from 0 to at most 99"):
        bridge.ddpm_sampling([0, 100], pred_x0, x1, verbose=False)


def test_the_mask_may_lie_on_another_device():
    bridge = Diffusion(make_betas(100, 0.3), "meta")
    x1, mask = torch.zeros(2, 3, 8, 8), torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    restored = sample("ddpm", bridge, [0, 50, 99], lambda xt, step: xt * 0.5, x1, mask=mask)
    assert (restored.device.type, restored.shape) == ("meta", x1.shape)
