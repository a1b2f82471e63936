"""float16 and bfloat16 torso, float32 where it matters, and activation checkpointing."""

import json
from pathlib import Path

import pytest
import torch
from golden.formulas import image, weight
from torch import nn

from guided_diffusion.nn import GroupNorm32, multi_head_attention
from guided_diffusion.script_util import create_model

META = json.loads((Path(__file__).parents[1] / "golden" / "unet_small_meta.json").read_text())["tiny_uncond"]
WEIGHTS = {name: torch.from_numpy(weight(name, shape, "hash")) for name, shape in META["keys"].items()}
X = torch.from_numpy(image(64, 2, "open"))[..., 16:48, 16:48]
T = torch.tensor([0.1, 777.25])
LOW = [(torch.float16, 4e-3), (torch.bfloat16, 3e-2)]


def tiny(**kwargs):
    model = create_model(**{**META["cfg"], **kwargs})
    model.load_state_dict(WEIGHTS)
    return model


def relative_error(a, b):
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


@pytest.mark.parametrize(("dtype", "tolerance"), LOW)
def test_low_precision_torso_is_close_and_gives_float32(dtype, tolerance):
    model = tiny()
    with torch.inference_mode():
        wide = model(X, T)
        model.convert_torso(dtype)
        low = model(X, T)
    assert low.dtype == torch.float32
    assert 0 < relative_error(low, wide) < tolerance


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_only_convolutions_and_linears_of_the_torso_change(dtype):
    model = tiny()
    parameters = list(model.parameters())
    model.convert_torso(dtype)
    assert all(a is b for a, b in zip(parameters, model.parameters()))  # optimizers keep pointing at them
    assert list(model.state_dict()) == list(META["keys"])
    assert model.dtype == dtype
    norms = {f"{n}.{p}" for n, m in model.named_modules() if isinstance(m, nn.GroupNorm) for p in ("weight", "bias")}
    for name, p in model.named_parameters():
        stays = name.startswith(("time_embed.", "out.")) or name in norms
        assert p.dtype == (torch.float32 if stays else dtype), name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kwargs", [{}, {"resblock_updown": False, "use_scale_shift_norm": False}])
def test_low_precision_trains(dtype, kwargs):
    model = create_model(**{**META["cfg"], **kwargs})
    nn.init.normal_(model.out[2].weight, std=0.1)
    model.convert_torso(dtype)
    model(X, T).square().mean().backward()
    assert all(p.grad is not None and p.grad.dtype == p.dtype and p.grad.isfinite().all() for p in model.parameters())


def test_float64_network_stays_float64():
    model = tiny()
    with torch.inference_mode():
        wide = model(X, T)
        double = model.double()(X.double(), T)
    assert double.dtype == torch.float64
    assert relative_error(wide, double) < 1e-5


def test_group_norm_computes_in_float32():
    """These values overflow float16 when squared, and 64 is lost beside 6e4 * 6e4 in bfloat16 sums."""
    x = 6e4 + 64 * torch.randint(-4, 5, (2, 64, 4, 4)).to(torch.float16)
    norm = GroupNorm32(64)
    nn.init.normal_(norm.weight)
    out = norm(x)
    assert out.dtype == torch.float16
    groups = x.double().reshape(2, 32, -1)
    var = groups.var(2, correction=0, keepdim=True)
    expected = ((groups - groups.mean(2, keepdim=True)) / (var + 1e-5).sqrt()).reshape(x.shape)
    expected = expected * norm.weight.double()[:, None, None]
    assert relative_error(out, expected) < 1e-3


@pytest.mark.parametrize("qkv_first", [False, True])
def test_attention_is_the_formula(qkv_first):
    heads, d, length = 3, 8, 10
    qkv = torch.randn(2, length, 3 * heads * d, dtype=torch.float64)
    out = multi_head_attention(qkv, heads, qkv_first=qkv_first)
    for h in range(heads):
        starts = [(part * heads + h if qkv_first else h * 3 + part) * d for part in range(3)]
        q, k, v = (qkv[:, :, s : s + d] for s in starts)
        expected = (q @ k.mT / d**0.5).softmax(-1) @ v
        torch.testing.assert_close(out[:, :, h * d : (h + 1) * d], expected)


def gradients(model, mode):
    model.set_checkpointing(mode)
    model.zero_grad()
    torch.manual_seed(1)  # dropout
    loss = model(X, T).square().mean()
    loss.backward()
    return loss.item(), [p.grad.clone() for p in model.parameters()]


@pytest.mark.parametrize("mode", ["attention", "all"])
def test_checkpointing_changes_no_gradient(mode):
    model = tiny(dropout=0.3)
    loss, grads = gradients(model, "none")
    loss_again, grads_again = gradients(model, mode)
    assert loss == loss_again
    for a, b in zip(grads, grads_again):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_checkpointing_keeps_fewer_activations():
    def kept(model):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.numel()) or x, lambda x: x):
            model(X, T)
        return sum(sizes)

    attention = tiny()
    attention.set_checkpointing("attention")
    assert kept(tiny(use_checkpoint=True)) < kept(tiny()) / 3 < kept(attention) < kept(tiny())
