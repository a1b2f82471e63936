"""The options of sample.py."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from . import shared
from .parser import Parser, experiment, non_negative_int, partition, path, positive_int

DESCRIPTION = "Restore the validation images, or with --input picture files of your own, with a trained bridge."
EPILOG = (
    "Writes results/CKPT/samples_nfeNFE/recon.pt, or pictures into --output. "
    "The same command resumes an interrupted run."
)
BASIC = ("ckpt", "input", "output", "dataset_dir", "nfe", "sampler", "batch_size", "device")
OF_FILES = ("output", "tile", "degrade", "mask")
OF_DATA = ("partition", "batch_size", "image_size", "dataset_dir", "val_list")
OF_DATA += ("recon_dtype", "save_images", "save_trajectory")


def build_parser() -> Parser:
    parser = Parser("sample.py", DESCRIPTION, EPILOG)
    run = shared.add_run(parser)
    shared.add_gpu(run)
    where = "the checkpoint is results/NAME/latest.pt, or the demo model of this name"
    run.add_argument("--ckpt", type=experiment, required=True, metavar="NAME", help=where)
    run.add_argument("--overwrite", action="store_true", help="restore again, and remove what is there")

    group = parser.add_argument_group("sampling")
    add = group.add_argument
    nfe = "network calls per image (default: one less than the training's --interval)"
    # None: see schedule.num_evaluations
    add("--nfe", "--num-inference-steps", type=positive_int, metavar="NFE", help=nfe)
    shared.add_sampler(group)
    add("--clip-denoise", action="store_true", help="clamp predicted clean images to [-1,1] at each step")
    add("--batch-size", type=positive_int, default=32, metavar="N", help="images at a time, per process")
    part = "restore part I of N of the set only (I from 0 to N-1), such as 0_4"
    add("--partition", type=partition, metavar="I_N", help=part)
    shared.add_data(parser)
    _add_files(parser)

    add = parser.add_argument_group("output").add_argument
    dtype = "dtype of the images in recon.pt: float32 as published, or 8-bit pixels in a quarter of the space"
    add("--recon-dtype", choices=("float32", "uint8"), default="float32", help=dtype)
    images = "also write each restored image as a png or jpg file"
    add("--save-images", choices=("png", "jpg"), metavar="FORMAT", help=images)
    trajectory = "write the trajectories of the first K images, as animated WebP and as a strip of PNG"
    add("--save-trajectory", type=non_negative_int, default=0, metavar="K", help=trajectory)
    shared.add_network(parser)
    speed = shared.add_speed(parser)
    speed.add_argument("--use-fp16", action="store_true", help="the same as --precision fp16")
    shared.add_launch(parser)
    parser.lead_with(*BASIC)
    return parser


def _add_files(parser: Parser) -> None:
    about = "degraded pictures of any kind and size in place of a data set; nothing is fetched"
    add = parser.add_argument_group("your own pictures", about).add_argument
    files = "picture files, folders of them, or patterns in quotes"
    add("--input", type=path, nargs="+", metavar="FILE|DIR|GLOB", help=files)
    output = "folder of the restored pictures, which keep their names and formats"
    add("--output", type=path, metavar="DIR", help=output)
    tile = "larger pictures pass through the network in overlapping windows of this side; less needs less memory "
    tile += "(default: 512, or the training's images if larger)"
    add("--tile", type=positive_int, metavar="PX", help=tile)
    degrade = "the pictures are clean: degrade them first as in training, keep all three, and print the PSNR"
    add("--degrade", action="store_true", help=degrade)
    mask = "for inpainting: a picture that is white where others have a hole, or a folder with one of each name"
    add("--mask", type=path, metavar="FILE|DIR", help=mask)


def parse_sample_options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of sample.py, checked as `parse_train_options` does."""
    parser = build_parser()
    opt = parser.parse(argv)
    if opt.use_fp16:
        if "precision" in opt.given and opt.precision != "fp16":
            parser.error(f"--use-fp16 and --precision {opt.precision} contradict each other; give one")
        opt.precision = "fp16"
    if opt.sampler == "dbim" and opt.eta is None:
        opt.eta = 0.0
    wrong = [name for name in (OF_DATA if opt.input else OF_FILES) if name in opt.given]
    if wrong:
        parser.error(f"--{wrong[0].replace('_', '-')}: does not go {'with' if opt.input else 'without'} --input")
    if opt.input and opt.output is None:
        parser.error("--input: say by --output DIR where the restored pictures go")
    opt.network = shared.resolve_network(parser, opt)
    return opt
