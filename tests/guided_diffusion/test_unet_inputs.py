"""What goes into the network and its constructor: shapes, times, classes, and the errors for wrong ones."""

import re
from pathlib import Path

import pytest
import torch

from guided_diffusion.presets import ABOUT, DEFAULTS, PRESETS, resolve
from guided_diffusion.script_util import create_model

TINY = {
    "image_size": 64,
    "num_channels": 32,
    "num_res_blocks": 1,
    "channel_mult": "1,1",
    "attention_resolutions": "",
    "num_head_channels": 16,
    "use_scale_shift_norm": True,
    "resblock_updown": True,
}


def tiny(**kwargs):
    """A small network none of whose layers is zero (fresh networks give zeros)."""
    model = create_model(**{**TINY, **kwargs})
    for p in model.parameters():
        if not p.any():
            torch.nn.init.normal_(p, std=0.1)
    return model


def raises(text):
    return pytest.raises(ValueError, match=re.escape(text))


@pytest.mark.parametrize("updown", [True, False])
@pytest.mark.parametrize("scale_shift", [True, False])
@pytest.mark.parametrize("size", [(16, 40), (2, 2)])
def test_any_size_that_the_levels_divide(size, updown, scale_shift):
    model = tiny(resblock_updown=updown, use_scale_shift_norm=scale_shift)
    assert model(torch.randn(3, 3, *size), torch.rand(3)).shape == (3, 3, *size)


def test_classes():
    model = tiny(class_cond=True)
    x, t = torch.randn(2, 3, 16, 16), torch.rand(2)
    assert not torch.allclose(model(x, t, torch.tensor([0, 1])), model(x, t, y=torch.tensor([0, 999])), atol=1e-6)
    with raises("this network takes y [2], one of 1000 classes per image"):
        model(x, t)
    with raises("this network takes y [2]"):
        model(x, t, torch.tensor([0]))
    with raises("this network takes no y"):
        tiny()(x, t, torch.tensor([0, 1]))


def test_arguments_may_be_given_in_adms_order():
    by_place = create_model(32, 32, 1, "1,2", False, False, False, "16", 2, -1, -1, True, 0.1)
    names = {"channel_mult": "1,2", "attention_resolutions": "16", "num_heads": 2}
    by_name = create_model(32, 32, 1, **names, use_scale_shift_norm=True, dropout=0.1)
    assert str(by_place) == str(by_name)
    with pytest.raises(TypeError, match="channel_mult twice"):
        create_model(32, 32, 1, "1,2", channel_mult="1")


def test_shapes_that_do_not_fit():
    with raises("H and W multiples of 2; got [1, 3, 16, 15]"):
        tiny()(torch.randn(1, 3, 16, 15), torch.rand(1))
    with raises("t needs one time per image, shape [2]; got [1]"):
        tiny()(torch.randn(2, 3, 16, 16), torch.rand(1))


@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        ({"num_channels": 48}, "multiple of 32 on every level; got 48 x 1 = 48"),
        ({"channel_mult": "1,1.25"}, "multiple of 32 on every level; got 32 x 1.25 = 40"),
        ({"num_channels": 0}, "got 0 x 1 = 0"),
        ({"channel_mult": "", "image_size": 96}, 'no default for 96 px; name it, such as "1,2,2"'),
        ({"num_head_channels": 24}, "num_head_channels must divide the 32 channels"),
        ({"num_head_channels": -1, "num_heads": 5}, "num_heads must divide the 32 channels"),
        ({"num_res_blocks": 0}, "num_res_blocks must be at least 1; got 0"),
        ({"dropout": 1.5}, "dropout probability has to be between 0 and 1, but got 1.5"),
        ({"depth": 3, "use_kl": True}, "no argument named depth"),
    ],
)
def test_wrong_arguments(kwargs, text):
    with torch.device("meta"), raises(text) as caught:
        create_model(**{**TINY, **kwargs})
    assert "\n" not in str(caught.value)


# --- named networks


ROOT = Path(__file__).parents[2]


def on_meta(kwargs):
    with torch.device("meta"):
        return create_model(**kwargs)


def count(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", PRESETS)
def test_preset_builds_and_says_its_size(name):
    kwargs = resolve(name)
    assert set(kwargs) == {*DEFAULTS, "image_size", "num_channels", "num_res_blocks"}
    assert all(isinstance(value, str | int | float) for value in kwargs.values())
    millions = count(on_meta(kwargs)) / 1e6
    said = float(re.match(r"([\d.]+)M parameters, ", ABOUT[name])[1])
    assert said == round(millions, 0 if millions >= 10 else 1)
    assert "\n" not in ABOUT[name]


def test_other_adm_networks_have_the_published_sizes():
    """ADM's paper gives 296M, 422M and 559M, with class labels and learned variances."""
    sizes = {}
    for name in ("adm-64", "adm-128", "adm-512"):
        sizes[name] = round(count(on_meta(resolve(name, class_cond=True, learn_sigma=True))) / 1e6)
    assert sizes == {"adm-64": 296, "adm-128": 422, "adm-512": 559}


def test_resolve_gives_plain_text_and_a_copy():
    kwargs = resolve("adm-512", channel_mult=(0.5, 1, 2.0), attention_resolutions=[256, 128])
    assert kwargs["channel_mult"] == "0.5,1,2"
    assert kwargs["attention_resolutions"] == "256,128"
    assert resolve("adm-256", channel_mult="")["channel_mult"] == "1,1,2,2,4,4"
    kwargs["num_channels"] = 1
    assert resolve("adm-512")["num_channels"] == PRESETS["adm-512"]["num_channels"] == 256


@pytest.mark.parametrize(
    ("args", "text"),
    [
        ({"name": "huge"}, "no network named 'huge'; known: adm-256, adm-64, adm-128, adm-512, tiny, small, medium"),
        ({"name": "tiny", "depth": 3}, "'depth' cannot be changed in a named network; what can: "),
        ({"name": "tiny", "image_size": 32}, "'image_size' cannot be changed"),
        ({"name": "tiny", "attention_resolutions": "8"}, "the levels of tiny are 64, 32, 16; name some"),
        ({"name": "tiny", "channel_mult": "1,2,wide"}, "channel_mult is positive numbers with commas"),
        ({"name": "small", "attention_resolutions": "0.5"}, "attention_resolutions is positive integers"),
    ],
)
def test_wrong_names_and_overrides(args, text):
    with raises(text) as caught:
        resolve(**args)
    assert "\n" not in str(caught.value)
