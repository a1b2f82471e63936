"""The sampling loop against the published release's final images at the same seed."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from golden.formulas import image, weight

from guided_diffusion.script_util import create_model
from i2sb.diffusion import Diffusion, x0_from_label
from i2sb.samplers import fill_hole, sample
from i2sb.schedule import make_betas, noise_levels, sampling_steps

GOLDEN = Path(__file__).parents[1] / "golden"


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
