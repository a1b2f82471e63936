"""Small bridges whose networks change pictures, and a photograph, for the tests of restoring picture files."""

import importlib.util
from pathlib import Path

import torch
from PIL import Image

from guided_diffusion import presets
from i2sb import Bridge

NETWORK = presets.resolve("tiny", num_channels=16, channel_mult="1,1", num_head_channels=16)


def make_bridge(folder, task, name=None, **fields):
    """An untrained bridge in `folder`/results, whose network does not give zero."""
    torch.manual_seed(0)
    fields = {"task": task, "image_size": 32, "network": NETWORK, "interval": 20, **fields}
    bridge = Bridge.create(fields, device="cpu")
    with torch.no_grad():
        bridge.net.diffusion_model.out[-1].weight.normal_(0, 0.02)
    bridge.save_pretrained(folder / "results" / (name or task))
    return bridge


def photograph(width, height):
    """The photograph "coffee" of scikit-image, of this size."""
    folder = Path(importlib.util.find_spec("skimage").origin).parent
    return Image.open(folder / "data/coffee.png").convert("RGB").resize((width, height), Image.LANCZOS)


def argv(name, *more):
    """Arguments of sample.py for picture files."""
    return ["--ckpt", name, "--nfe", "2", "--device", "cpu", *map(str, more)]
