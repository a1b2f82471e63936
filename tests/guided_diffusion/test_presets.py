"""The table of named networks, and what may be changed in it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from guided_diffusion.presets import ABOUT, DEFAULTS, PRESETS, resolve
from guided_diffusion.script_util import create_model

ROOT = Path(__file__).parents[2]


def on_meta(kwargs):
    with torch.device("meta"):
        return create_model(**kwargs)


def count(model):
    return sum(p.numel() for p in model.parameters())


def raises(text):
    return pytest.raises(ValueError, match=re.escape(text))


def test_presets_import_no_torch():
    code = "import sys, guided_diffusion.presets as p; p.resolve(p.DEFAULT); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


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
