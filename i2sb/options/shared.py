"""Groups of options that more than one script has."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from guided_diffusion import presets

from .parser import Parser, experiment, image_size, non_negative_int, number, positive_int

PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
# Options that change a named network, as `create_model` calls them.
NET_OVERRIDES = (
    "num_channels",
    "num_res_blocks",
    "channel_mult",
    "attention_resolutions",
    "num_heads",
    "num_head_channels",
    "dropout",
)


def add_run(parser: Parser) -> Any:
    group = parser.add_argument_group("run")
    group.add_argument(
        "--seed", type=number(int, 0, 2**32 - 1), default=0, metavar="N", help="seed of all random draws"
    )
    group.add_argument(
        "--device",
        choices=("auto", "cuda", "mps", "cpu"),
        default="auto",
        help="where to compute; auto: a GPU if there is one, else the CPU",
    )
    group.add_argument(
        "--debug", action="store_true", help="open ipdb where an error occurs, instead of one line about it"
    )
    return group


def add_gpu(group: Any) -> None:
    group.add_argument("--gpu", type=non_negative_int, metavar="ID", help="index of the one GPU to use (default: 0)")


def add_samples(group: Any) -> None:
    where = "the samples are in results/NAME/"
    group.add_argument("--ckpt", type=experiment, required=True, metavar="NAME", help=where)
    group.add_argument(
        "--sample-dir",
        type=experiment,
        required=True,
        nargs="+",
        metavar="DIR",
        help="which folder (or folders) in results/NAME/, such as samples_nfe999",
    )


def add_launch(parser: Parser) -> None:
    group = parser.add_argument_group("several processes (torchrun's environment, where present, wins)")
    group.add_argument(
        "--n-gpu-per-node", type=positive_int, default=1, metavar="G", help="processes, so GPUs, on each node"
    )
    group.add_argument("--num-proc-node", type=positive_int, default=1, metavar="N", help="number of nodes")
    group.add_argument(
        "--node-rank",
        type=non_negative_int,
        nargs="?",  # `--node-rank $NODE_RANK` where the variable is not set
        metavar="I",
        help="index of this node, 0 to N-1 (default, or without a number: what mpirun or SLURM says, else 0)",
    )
    group.add_argument("--master-address", default="localhost", metavar="HOST", help="address of the node of index 0")
    group.add_argument(
        "--master-port",
        type=number(int, 1, 65535),
        metavar="PORT",
        help="TCP port at that address (default: a free one on one node, 6020 across nodes)",
    )


def add_data(parser: Parser) -> Any:
    group = parser.add_argument_group("data")
    group.add_argument("--image-size", type=image_size, default=256, metavar="PX", help="side of the images [pixels]")
    group.add_argument(
        "--dataset-dir",
        type=Path,
        default=Path("/dataset"),
        metavar="DIR",
        help="folder with {train,val}_faster_imagefolder.lmdb, or {train,val}/CLASS/ to make them from",
    )
    group.add_argument(
        "--val-list",
        type=Path,
        metavar="FILE",
        help="evaluate on the images of this list, a CLASS/FILE per line (default: the published 10k list "
        "on ImageNet, all images on other data)",
    )
    group.add_argument(
        "--exif-rotate",
        action="store_true",
        help="turn photographs as their EXIF orientation says (default: take the pixels as stored, as published)",
    )
    group.add_argument(
        "--skip-unreadable",
        type=non_negative_int,
        default=0,
        metavar="N",
        help="when building an LMDB, leave out up to N images that cannot be decoded, and list them",
    )
    group.add_argument(
        "--num-workers",
        type=non_negative_int,
        default=min(4, os.cpu_count() or 1),
        metavar="N",
        help="processes that load images, besides each process that computes (0: none)",
    )
    return group


def add_network(parser: Parser) -> None:
    about = "; ".join(f"{name}: {text}" for name, text in presets.ABOUT.items())
    group = parser.add_argument_group("network", about)
    group.add_argument(
        "--net",
        choices=tuple(presets.TABLE),
        help=f"which network (default: the checkpoint's own, else {presets.DEFAULT})",
    )
    group.add_argument("--num-channels", type=positive_int, metavar="N", help="base width of the network [channels]")
    group.add_argument("--num-res-blocks", type=positive_int, metavar="N", help="residual blocks per level")
    group.add_argument(
        "--channel-mult", metavar="A,B,..", help="width of each level as multiple of the base, such as 1,2,2"
    )
    group.add_argument(
        "--attention-resolutions",
        metavar="R,..",
        help='image sizes at which attention sits [pixels], such as 32,16; "" for none',
    )
    group.add_argument(
        "--num-heads", type=positive_int, metavar="N", help="attention heads, where --num-head-channels is -1"
    )
    group.add_argument("--num-head-channels", type=number(int, -1), metavar="N", help="channels per attention head")
    group.add_argument(
        "--dropout", type=number(float, 0, 1), metavar="P", help="share of activations dropped in training"
    )


def add_speed(parser: Parser, channels_last: bool | None) -> Any:
    group = parser.add_argument_group("precision and speed")
    group.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="fp32",
        help="fp32 as published; tf32: fp32 with faster products on NVIDIA GPUs; bf16, fp16: half the memory",
    )
    group.add_argument("--compile", action="store_true", help="torch.compile the network (slow first step)")
    auto = "; default: on CPUs and for half precision" if channels_last is None else ""
    group.add_argument(
        "--channels-last",
        action=argparse.BooleanOptionalAction,
        default=channels_last,
        help=f"keep channels last in memory: faster on CPUs and new GPUs{auto}",
    )
    return group


def resolve_network(parser: Parser, opt: argparse.Namespace) -> dict[str, Any] | None:
    """The arguments of `create_model` that the command line asks for; None where it names no network."""
    overrides = {name: getattr(opt, name) for name in NET_OVERRIDES if getattr(opt, name) is not None}
    if opt.net is None and not overrides:
        return None
    try:
        return presets.resolve(
            opt.net or presets.DEFAULT, in_channels=6 if getattr(opt, "cond_x1", False) else 3, **overrides
        )
    except ValueError as error:
        parser.error(f"--net {opt.net or presets.DEFAULT}: {error}")


def misfit(size: int, network: dict[str, Any] | None) -> str | None:
    """Why images of `size` pixels do not divide into the network's levels; None where they do."""
    network = network or presets.PRESETS[presets.DEFAULT]
    try:
        mult = presets.parse_channel_mult(network.get("channel_mult", ""), network.get("image_size", 256))
    except (ValueError, TypeError) as error:
        return f"the network cannot be built: {error}"
    factor = 2 ** (len(mult) - 1)
    if size % factor == 0:
        return None
    return (
        f"--image-size {size}: this network halves images {factor.bit_length() - 1} times; it takes "
        f"a multiple of {max(factor, 16)}"
    )
