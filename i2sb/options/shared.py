"""Groups of options that more than one script has."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from corruption.geometry import Size, height_width
from guided_diffusion import presets
from i2sb.config import SPACINGS, size_text

from .parser import Parser, device, experiment, image_size, non_negative_int, number, operator_file, path, positive_int

PRECISIONS = ("fp32", "tf32", "bf16", "fp16", "auto")
PAIR_LAYOUTS = ("folders", "side-by-side", "side-by-side-reversed")
# Options that change a named network, as `create_model` calls them.
NET_OVERRIDES = ("num_channels", "num_res_blocks", "channel_mult", "attention_resolutions")
NET_OVERRIDES += ("num_heads", "num_head_channels", "dropout")
# The keys of `i2sb.samplers.SAMPLERS`
SAMPLERS = {
    "ddpm": "as published, noise at every step",
    "dbim": "noise at the first step alone, and more by --eta",
    "dbim2": "dbim without --eta, of second order",
    "mean": "ddpm without noise",
    "anchor": "the degraded image and the prediction mixed anew at each step, without noise",
}


def add_run(parser: Parser, seed: str = "seed of all random draws") -> Any:
    """seed: what it is for."""
    group = parser.add_argument_group("run")
    add = group.add_argument
    add("--seed", type=number(int, 0, 2**32 - 1), default=0, metavar="N", help=seed)
    where = "where to compute: cuda, cuda:INDEX, mps, cpu; auto: a GPU if there is one, else the CPU"
    add("--device", type=device, default="auto", metavar="DEVICE", help=where)
    own = "a .py file with operators of your own, for --corrupt NAME (see docs/tasks.md)"
    add("--corruption-file", type=operator_file, metavar="FILE", help=own)
    add("--debug", action="store_true", help="open ipdb where an error occurs, instead of one line about it")
    return group


OF_DEGRADED = "seed of the degraded images (default: the samples' own, which they say; else 0)"


def add_gpu(group: Any) -> None:
    group.add_argument("--gpu", type=non_negative_int, metavar="ID", help="index of the one GPU to use (default: 0)")


def add_samples(group: Any, required: bool = True) -> None:
    add = group.add_argument
    add("--ckpt", type=experiment, required=required, metavar="NAME", help="the samples are in results/NAME/")
    folders = "which folder (or folders) in results/NAME/, such as samples_nfe999"
    add("--sample-dir", type=experiment, required=required, nargs="+", metavar="DIR", help=folders)


def parse_samples(parser: Parser, argv: Sequence[str] | None) -> argparse.Namespace:
    """The options of a parser with `add_samples`; folders that are given by their paths get their names."""
    opt = parser.parse(argv)
    opt.sample_dir = [name.removeprefix(f"{opt.ckpt}/") for name in opt.sample_dir or ()]
    for name in opt.sample_dir:
        if opt.ckpt and Path("results", name).is_dir() and not Path("results", opt.ckpt, name).is_dir():
            parser.error(
                f"--sample-dir results/{name}: lies not in results/{opt.ckpt}, the folder of --ckpt {opt.ckpt}"
            )
    return opt


def add_sampler(group: Any) -> None:
    add = group.add_argument
    about = "; ".join(f"{name}: {text}" for name, text in SAMPLERS.items())
    add("--sampler", choices=tuple(SAMPLERS), default="ddpm", help=f"how to go from step to step. {about}")
    eta = "share of ddpm's noise in dbim's steps, 0 to 1 (default: 0)"
    add("--eta", type=number(float, 0, 1), metavar="ETA", help=eta)
    spacing = "where the steps lie; quadratic: closer at the clean end; logsnr: even in the logarithm of b/c"
    add("--spacing", choices=SPACINGS, default="uniform", help=spacing)


def add_launch(parser: Parser) -> None:
    add = parser.add_argument_group("several processes (torchrun's environment, where present, wins)").add_argument
    processes = "processes, so GPUs, on each node"
    add("--n-gpu-per-node", "--nproc-per-node", type=positive_int, default=1, metavar="G", help=processes)
    add("--num-proc-node", "--nnodes", type=positive_int, default=1, metavar="N", help="number of nodes")
    rank = "index of this node, 0 to N-1 (default, or without a number: what mpirun or SLURM says, else 0)"
    # "?": `--node-rank $NODE_RANK` where the variable is not set
    add("--node-rank", type=non_negative_int, nargs="?", metavar="I", help=rank)
    add("--master-address", default="localhost", metavar="HOST", help="address of the node of index 0")
    port = "TCP port at that address (default: a free one on one node, 6020 across nodes)"
    add("--master-port", type=number(int, 1, 65535), metavar="PORT", help=port)


def add_data(parser: Parser, training: bool = False) -> None:
    group = parser.add_argument_group("data")
    add = group.add_argument
    own = "" if training else " (default: the checkpoint's)"
    size = "side of the images, or their height and width [pixels]: multiples of what the network divides by" + own
    add("--image-size", type=image_size, default=256, metavar="S|H,W", help=size)
    folder = "folder with train/ and val/ of images, or LMDBs of them; for pairs see docs/your-data.md"
    add("--dataset-dir", type=path, default=Path("/dataset"), metavar="DIR", help=folder)
    val_list = (
        "evaluate on the images of this list, a CLASS/FILE per line (default: the published 10k list "
        "on ImageNet, all images on other data)"
    )
    add("--val-list", type=path, metavar="FILE", help=val_list)
    split = "where there is no val/: the share of train/ to hold out for it, chosen by the files' names" + own
    add("--val-split", type=number(float, 0, 1), default=0.0, metavar="SHARE", help=split)
    if training:
        add_channels(group)
        crop = "center: images resized to the size, as published; random: windows of that size at full resolution"
        add("--crop", choices=("center", "random"), default="center", help=crop)
    add("--source", type=path, metavar="DIR", help="pairs: the folder of degraded images" + own)
    target = "pairs: the folder of clean images, with the same names" + own
    add("--target", type=path, metavar="DIR", help=target)
    layout = (
        "pairs: two folders (or a list of files), or halves of one image, the degraded left or (reversed) right" + own
    )
    add("--pair-layout", choices=PAIR_LAYOUTS, default=PAIR_LAYOUTS[0], help=layout)
    rotate = "turn photographs as their EXIF orientation says (default: take the pixels as stored, as published)"
    add("--exif-rotate", action="store_true", help=rotate)
    skip = "first decode all images of a folder, list those that cannot be, and leave up to N out" + own
    add("--skip-unreadable", type=non_negative_int, default=0, metavar="N", help=skip)
    cores = min(4, os.cpu_count() or 1)
    workers = "processes that load images, besides each process that computes (0: none)"
    add("--num-workers", type=non_negative_int, default=cores, metavar="N", help=workers)


def add_channels(group: Any) -> None:
    """For train.py alone: all others take them from the checkpoint."""
    about = "channels of the images: 1 grey, 3 RGB, 4 RGB and alpha, others as the files have them"
    about += " (of 2, pictures show the first; of 5 and more, the first three)"
    group.add_argument("--channels", type=positive_int, default=presets.CHANNELS, metavar="C", help=about)
    about = "values of black and white in the files (default: 0 and 255, 0 and 65535, or 0 and 1 by their type)"
    group.add_argument("--value-range", type=number(float), nargs=2, metavar=("LO", "HI"), help=about)


def add_network(parser: Parser) -> None:
    about = "; ".join(f"{name}: {text}" for name, text in presets.ABOUT.items())
    add = parser.add_argument_group("network", about).add_argument
    net = f"which network (default: the checkpoint's own, else {presets.DEFAULT})"
    add("--net", choices=tuple(presets.PRESETS), help=net)
    add("--num-channels", type=positive_int, metavar="N", help="base width of the network [channels]")
    add("--num-res-blocks", type=positive_int, metavar="N", help="residual blocks per level")
    add("--channel-mult", metavar="A,B,..", help="width of each level as multiple of the base, such as 1,2,2")
    attention = 'image sizes at which attention sits [pixels], such as 32,16; "" for none'
    add("--attention-resolutions", metavar="R,..", help=attention)
    add("--num-heads", type=positive_int, metavar="N", help="attention heads, where --num-head-channels is -1")
    add("--num-head-channels", type=number(int, -1), metavar="N", help="channels per attention head")
    add("--dropout", type=number(float, 0, 1), metavar="P", help="share of activations dropped in training")


def add_speed(parser: Parser) -> Any:
    group = parser.add_argument_group("precision and speed")
    add = group.add_argument
    precision = "fp32 as published; tf32: fp32 with faster products on NVIDIA GPUs; bf16, fp16: half the memory; "
    precision += "auto: bf16 where the processor or GPU has it, else fp32"
    add("--precision", choices=PRECISIONS, default="fp32", help=precision)
    add("--compile", action="store_true", help="torch.compile the network (slow first step)")
    layout = "keep channels last in memory: faster on most CPUs and new GPUs; default: in half precision, and on CPUs "
    layout += "(for training only with more than AVX2)"
    add("--channels-last", action=argparse.BooleanOptionalAction, help=layout)
    return group


def resolve_network(parser: Parser, opt: argparse.Namespace) -> dict[str, Any] | None:
    """The arguments of `create_model` that the command line asks for; None where it names no network."""
    overrides = {name: getattr(opt, name) for name in NET_OVERRIDES if getattr(opt, name) is not None}
    if opt.net is None and not overrides:
        return None
    try:
        return presets.resolve(opt.net or presets.DEFAULT, **overrides)
    except ValueError as error:
        parser.error(f"--net {opt.net or presets.DEFAULT}: {error}")


def misfit(size: Size, network: Mapping[str, Any] | None) -> str | None:
    """Why images of `size` pixels do not divide into the network's levels; None where they do."""
    network = network or presets.PRESETS[presets.DEFAULT]
    try:
        mult = presets.parse_channel_mult(network.get("channel_mult", ""), network.get("image_size", 256))
    except (ValueError, TypeError) as error:
        return f"the network cannot be built: {error}"
    factor = 2 ** (len(mult) - 1)
    if not any(side % factor for side in height_width(size)):
        return None
    return (
        f"--image-size {size_text(size)}: this network halves images {factor.bit_length() - 1} times; it takes "
        f"multiples of {factor}"
    )
