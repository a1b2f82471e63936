"""What goes into the network and its constructor: shapes, times, classes, and the errors for wrong ones."""

import re

import pytest
import torch

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
        ({"channel_mult": "1,-2"}, "channel_mult is positive numbers"),
        ({"attention_resolutions": "16,x"}, "attention_resolutions is positive integers"),
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
