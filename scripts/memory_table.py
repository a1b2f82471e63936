"""What a network needs in GPU memory while it trains, computed from its shapes alone; prints a Markdown table.

python scripts/memory_table.py                     # ADM-256 at 256 px
python scripts/memory_table.py --net medium --image-size 128
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from guided_diffusion import presets
from guided_diffusion.script_util import create_model

GIB = 2**30
MODES = ("none", "attention", "all")


def saved_bytes(net, size: int, microbatch: int) -> int:
    """Bytes of all tensors that a forward pass keeps for the backward pass, parameters aside; nothing is computed."""
    parameters = {p.untyped_storage()._cdata for p in net.parameters()}
    kept: dict[int, tuple[int, object]] = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage._cdata not in parameters:
            kept[storage._cdata] = storage.nbytes(), storage  # held, so that no other takes its place
        return tensor

    images = torch.empty(microbatch, net.in_channels, size, size, device="meta")
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = net(images, torch.empty(microbatch, device="meta"))
    del out
    return sum(count for count, _ in kept.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--net", choices=tuple(presets.PRESETS), default=presets.DEFAULT, help="which network")
    parser.add_argument("--image-size", type=int, default=256, metavar="PX", help="side of the images [pixels]")
    args = parser.parse_args()

    def build(dtype: torch.dtype, mode: str):
        with torch.device("meta"):
            net = create_model(**presets.resolve(args.net))
        net.convert_torso(dtype)
        net.set_checkpointing(mode)
        return net.train()

    count = sum(p.numel() for p in build(torch.float32, "none").parameters())
    parts = {"parameters": 4, "gradients": 4, "AdamW's moments": 8, "EMA": 4}
    total = sum(parts.values()) * count / GIB
    print(f"{args.net}, {count / 1e6:.0f} M parameters, {args.image_size} px; computed from shapes, not measured.\n")
    shares = ", ".join(f"{name} {size * count / GIB:.1f}" for name, size in parts.items())
    print(f"Once: {shares}; together {total:.1f} GiB.\n")
    print("| activations kept per image of the micro-batch [GiB] | " + " | ".join(MODES) + " |")
    print("| --- |" + " --- |" * len(MODES))
    for name, dtype in (("fp32, tf32", torch.float32), ("bf16, fp16", torch.bfloat16)):
        cells = []
        for mode in MODES:
            one, two = (saved_bytes(build(dtype, mode), args.image_size, n) for n in (1, 2))
            cells.append(f"{(two - one) / GIB:.2f}")
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
