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

from corruption.geometry import height_width
from guided_diffusion import presets
from guided_diffusion.memory import PARTS, saved_bytes, shapes_only
from i2sb.options.parser import image_size
from i2sb.options.shared import add_channels

GIB = 2**30
MODES = ("none", "attention", "all")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--net", choices=tuple(presets.PRESETS), default=presets.DEFAULT, help="which network")
    size = "side of the images, or their height and width [pixels]"
    parser.add_argument("--image-size", type=image_size, default=256, metavar="S|H,W", help=size)
    add_channels(parser)
    args = parser.parse_args()

    kwargs = {**presets.resolve(args.net), "in_channels": args.channels, "out_channels": args.channels}
    height, width = height_width(args.image_size)
    count = sum(p.numel() for p in shapes_only(kwargs).parameters())
    total = sum(PARTS.values()) * count / GIB
    size = f"{width}x{height} px" if height != width else f"{width} px"
    print(f"{args.net}, {count / 1e6:.0f} M parameters, {size}; computed from shapes, not measured.\n")
    shares = ", ".join(f"{name} {each * count / GIB:.1f}" for name, each in PARTS.items())
    print(f"Once: {shares}; together {total:.1f} GiB.\n")
    print("| activations kept per image of the micro-batch [GiB] | " + " | ".join(MODES) + " |")
    print("| --- |" + " --- |" * len(MODES))
    for name, dtype in (("fp32, tf32", torch.float32), ("bf16, fp16", torch.bfloat16)):
        cells = []
        for mode in MODES:
            one, two = (saved_bytes(shapes_only(kwargs, dtype, mode), height, width, n) for n in (1, 2))
            cells.append(f"{(two - one) / GIB:.2f}")
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
