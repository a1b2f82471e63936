"""The network computes what the original computes, with parameters of its names, shapes and order."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from golden.formulas import image, weight
from torch import nn

from guided_diffusion.nn import GroupNorm32, multi_head_attention
from guided_diffusion.presets import DEFAULT, resolve
from guided_diffusion.script_util import create_model

GOLDEN = Path(__file__).parents[1] / "golden"
SMALL = json.loads((GOLDEN / "unet_small_meta.json").read_text())


def assert_matches(out, every97, moments, tolerance=1e-4):
    """Relative to the largest value of the golden output, and in the mean square."""
    values = out.reshape(-1)[::97].double().numpy()
    error = values - every97
    assert np.abs(error).max() <= tolerance * np.abs(every97).max()
    assert np.linalg.norm(error) <= tolerance * np.linalg.norm(every97)
    out = out.double().numpy()
    np.testing.assert_allclose(
        [out.mean(), out.std(), out.min(), out.max()], moments, rtol=0, atol=tolerance * np.abs(moments).max()
    )


def weights(keys, kind):
    return {name: torch.from_numpy(weight(name, shape, kind)) for name, shape in keys.items()}


@pytest.mark.parametrize("kind", ["sin", "hash"])
@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
def test_small_networks(name, kind, memory_format):
    golden = np.load(GOLDEN / "unet_small.npz")
    model = create_model(**SMALL[name]["cfg"])
    model.load_state_dict(weights(SMALL[name]["keys"], kind), strict=True)
    model.to(memory_format=memory_format)
    with torch.inference_mode():
        out = model(torch.from_numpy(image(64, 2, "open")), torch.tensor([0.1, 777.25]))
    assert out.is_contiguous(memory_format=memory_format)
    assert_matches(out, golden[f"{name}/{kind}/every97"], golden[f"{name}/{kind}/moments"])
    if f"{name}/{kind}/full" in golden:
        full = golden[f"{name}/{kind}/full"]
        assert np.abs(out.numpy() - full).max() <= 1e-4 * np.abs(full).max()


@pytest.mark.slow
def test_adm256_in_full():
    """552,807,171 parameters: 4 GB of memory and about half a minute on one thread."""
    meta = json.loads((GOLDEN / "adm256_uncond_keys.json").read_text())
    golden = np.load(GOLDEN / "unet_adm256_uncond_hash.npz")
    with torch.device("meta"):
        model = create_model(**{**meta["create_model_kwargs"], "use_fp16": False})
    model.load_state_dict(weights(meta["keys"], "hash"), strict=True, assign=True)
    with torch.inference_mode():
        out = model(torch.from_numpy(image(256, 1, "open")), torch.from_numpy(golden["timestep"]).reshape(1))
    assert_matches(out, golden["every97"], golden["moments"])


# --- names, shapes and order of the parameters


def on_meta(**kwargs):
    with torch.device("meta"):
        return create_model(**kwargs)


def shapes(model):
    return {name: list(tensor.shape) for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("name", ["adm256_uncond_keys.json", "adm256_cond_keys.json"])
def test_full_network_has_adms_names_shapes_and_order(name):
    golden = json.loads((GOLDEN / name).read_text())
    model = on_meta(**golden["create_model_kwargs"])
    assert list(shapes(model).items()) == list(golden["keys"].items())
    assert [key for key, _ in model.named_parameters()] == list(golden["keys"])
    assert len(model.state_dict()) == golden["n_entries"] == 566
    assert sum(p.numel() for p in model.parameters()) == golden["n_params"]
    assert shapes(on_meta(**resolve(DEFAULT, in_channels=model.in_channels))) == golden["keys"]


@pytest.mark.parametrize("name", SMALL)
def test_small_networks_have_adms_names_shapes_and_order(name):
    model = on_meta(**SMALL[name]["cfg"])
    assert list(shapes(model).items()) == list(SMALL[name]["keys"].items())
    assert [key for key, _ in model.named_parameters()] == list(SMALL[name]["keys"])


def test_other_variants_of_the_blocks():
    model = on_meta(**{**META["cfg"], "resblock_updown": False, "use_scale_shift_norm": False})
    keys = shapes(model)
    assert keys["input_blocks.2.0.op.weight"] == [32, 32, 3, 3]
    assert keys["output_blocks.1.2.conv.weight"] == [64, 64, 3, 3]
    assert model.input_blocks[2][0].op.stride == (2, 2)
    assert keys["input_blocks.3.0.emb_layers.1.weight"] == [64, 128]  # twice as wide with scale and shift


@pytest.mark.parametrize(("resolutions", "blocks"), [("64,32", 6), ("64", 3), ("", 0)])
def test_attention_sits_on_the_levels_named(resolutions, blocks):
    """tiny has one block per level going down and two going up, and always attention in the middle."""
    model = on_meta(**{**META["cfg"], "attention_resolutions": resolutions})
    assert sum(name.endswith("qkv") for name, _ in model.named_modules()) == blocks + 1
    assert "middle_block.1.qkv.weight" in shapes(model)


def test_heads_down_and_up():
    model = on_meta(**{**META["cfg"], "num_head_channels": -1, "num_heads": 2, "num_heads_upsample": 4})
    heads = {name: m.num_heads for name, m in model.named_modules() if hasattr(m, "num_heads")}
    assert heads == {"input_blocks.3.1": 2, "middle_block.1": 2, "output_blocks.0.1": 4, "output_blocks.1.1": 4}
    model = on_meta(**{**META["cfg"], "num_head_channels": 32, "num_heads": 1, "num_heads_upsample": 1})
    assert {m.num_heads for m in model.modules() if hasattr(m, "num_heads")} == {2}


def test_exactly_the_last_layer_of_each_block_starts_at_zero():
    model = create_model(**{**META["cfg"], "class_cond": True})
    ends = tuple(f"{layer}.{part}" for layer in ("out_layers.3", "proj_out", "out.2") for part in ("weight", "bias"))
    norms = {f"{n}.bias" for n, m in model.named_modules() if isinstance(m, nn.GroupNorm)}
    for name, p in model.named_parameters():
        assert (not p.any()) == (name.endswith(ends) or name in norms), name
    assert not model(torch.randn(1, 3, 64, 64), torch.ones(1), torch.tensor([7])).any()


# --- precision and activation checkpointing


META = SMALL["tiny_uncond"]
WEIGHTS = weights(META["keys"], "hash")
X = torch.from_numpy(image(64, 2, "open"))[..., 16:48, 16:48]
T = torch.tensor([0.1, 777.25])


def tiny(**kwargs):
    model = create_model(**{**META["cfg"], **kwargs})
    model.load_state_dict(WEIGHTS)
    return model


def relative_error(a, b):
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


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


def test_group_norm_keeps_its_digits_with_channels_last():
    """torch's own loses three of them here on CPUs, of 7."""
    x = 30 + torch.randn(2, 64, 16, 16)
    norm = GroupNorm32(64)
    nn.init.normal_(norm.weight)
    weight = torch.randn_like(x)
    results = {}
    for dtype in (torch.float64, torch.float32):
        given = x.to(dtype, memory_format=torch.channels_last).requires_grad_()
        out = norm(given) if dtype == torch.float32 else nn.functional.group_norm(given, 32, norm.weight.double())
        norm.weight.grad = None
        (out * weight).sum().backward()
        results[dtype] = out.detach(), given.grad, norm.weight.grad
    assert out.is_contiguous(memory_format=torch.channels_last)
    for ours, exact in zip(results[torch.float32], results[torch.float64]):
        assert relative_error(ours, exact) < 1e-5


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
