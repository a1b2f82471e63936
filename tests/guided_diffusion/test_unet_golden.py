"""The network computes what the original computes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from golden.formulas import image, weight

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
