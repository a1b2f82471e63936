"""Names, shapes and order of the parameters are ADM's: published weights and EMA lists depend on them."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from guided_diffusion.presets import DEFAULT, resolve
from guided_diffusion.script_util import create_model

GOLDEN = Path(__file__).parents[1] / "golden"
SMALL = json.loads((GOLDEN / "unet_small_meta.json").read_text())
TINY = SMALL["tiny_uncond"]["cfg"]


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
    model = on_meta(**{**TINY, "resblock_updown": False, "use_scale_shift_norm": False})
    keys = shapes(model)
    assert keys["input_blocks.2.0.op.weight"] == [32, 32, 3, 3]
    assert keys["output_blocks.1.2.conv.weight"] == [64, 64, 3, 3]
    assert model.input_blocks[2][0].op.stride == (2, 2)
    assert keys["input_blocks.3.0.emb_layers.1.weight"] == [64, 128]  # twice as wide with scale and shift


@pytest.mark.parametrize(("resolutions", "blocks"), [("64,32", 6), ("64", 3), ("", 0)])
def test_attention_sits_on_the_levels_named(resolutions, blocks):
    """tiny has one block per level going down and two going up, and always attention in the middle."""
    model = on_meta(**{**TINY, "attention_resolutions": resolutions})
    assert sum(name.endswith("qkv") for name, _ in model.named_modules()) == blocks + 1
    assert "middle_block.1.qkv.weight" in shapes(model)


def test_heads_down_and_up():
    model = on_meta(**{**TINY, "num_head_channels": -1, "num_heads": 2, "num_heads_upsample": 4})
    heads = {name: m.num_heads for name, m in model.named_modules() if hasattr(m, "num_heads")}
    assert heads == {"input_blocks.3.1": 2, "middle_block.1": 2, "output_blocks.0.1": 4, "output_blocks.1.1": 4}
    model = on_meta(**{**TINY, "num_head_channels": 32, "num_heads": 1, "num_heads_upsample": 1})
    assert {m.num_heads for m in model.modules() if hasattr(m, "num_heads")} == {2}


def test_exactly_the_last_layer_of_each_block_starts_at_zero():
    model = create_model(**{**TINY, "class_cond": True})
    ends = tuple(f"{layer}.{part}" for layer in ("out_layers.3", "proj_out", "out.2") for part in ("weight", "bias"))
    norms = {f"{n}.bias" for n, m in model.named_modules() if isinstance(m, nn.GroupNorm)}
    for name, p in model.named_parameters():
        assert (not p.any()) == (name.endswith(ends) or name in norms), name
    assert not model(torch.randn(1, 3, 64, 64), torch.ones(1), torch.tensor([7])).any()
