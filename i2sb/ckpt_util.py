"""results/NAME/: latest.pt and the options beside it, as the original writes and reads them."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any

import torch

from i2sb import portable
from i2sb.errors import UserError
from i2sb.options import training_defaults
from i2sb.options.saved import fault_of, shown
from i2sb.runtime.files import atomic_write, only_one
from i2sb.runtime.safe_torch import load_torch
from i2sb.safe_pickle import dump_namespace, is_secret, load_namespace

RESULTS = Path("results")
# What a network was trained for: another value would make its weights meaningless.
BRIDGE_OPTIONS = ("interval", "t0", "T", "beta_max", "ot_ode", "cond_x1")
# What may be changed on purpose from one run to the next.
TASK_OPTIONS = (
    "corrupt",
    "image_size",
    "add_x1_noise",
    "seed",
    "batch_size",
    "microbatch",
    "num_itr",
    "lr",
    "lr_gamma",
    "lr_step",
    "l2_norm",
    "ema",
)


def with_defaults(opt: Any) -> Any:
    """`opt` with every training option that it lacks: options saved by the original know fewer."""
    for name, value in training_defaults().items():
        if not hasattr(opt, name):
            setattr(opt, name, value)
    for name, value in (("given", ()), ("distributed", False), ("global_rank", 0), ("global_size", 1)):
        if not hasattr(opt, name):
            setattr(opt, name, value)
    return opt


@contextlib.contextmanager
def only_training(opt: argparse.Namespace) -> Iterator[None]:
    """Hold results/NAME against other trainings (rank 0 does, for all ranks).

    Raises:
        UserError: another one is at work there, or the folder cannot be written to, or that of --ckpt is missing.
    """
    if opt.ckpt is not None:
        _check_is_there(RESULTS / opt.ckpt)
    folder = RESULTS / opt.name
    busy = (
        f"{folder}: another process is training into it; wait for its end or choose another --name (processes of one "
        "training that srun or mpirun started need --num-proc-node)"
    )
    if opt.global_rank != 0:
        yield
        return
    try:
        with only_one(folder / ".train.lock", busy):
            yield
    finally:
        with contextlib.suppress(OSError):
            folder.rmdir()  # where nothing came of it


def save_options(opt: argparse.Namespace, folder: Path) -> None:
    """options.pkl, as the original's loaders read it, and options.json for people; without secrets.

    Raises:
        UserError: they cannot be written.
    """
    saved = argparse.Namespace(**{key: value for key, value in vars(opt).items() if key != "given"})
    left_out = dump_namespace(saved, folder / "options.pkl")
    shown = {
        key: str(value) if isinstance(value, PurePath) else value
        for key, value in sorted(vars(saved).items())
        if key not in left_out and not is_secret(key)
    }
    with atomic_write(folder / "options.json") as file:
        file.write((json.dumps(shown, indent=2, default=str) + "\n").encode())


def _check_is_there(folder: Path) -> None:
    if not folder.is_dir():
        raise UserError(
            f"--ckpt {folder.name}: there is no folder {folder} here; scripts/download_checkpoint.sh fetches "
            "published checkpoints, train.py --name makes others"
        )


def build_ckpt_option(opt: Any, log: Any, ckpt_path: str | os.PathLike) -> argparse.Namespace:
    """The options that results/NAME was trained with, but device and precision of this run.

    Args:
        opt: options of this run: `device`; `precision`, `use_fp16`, `compile`, `channels_last` where present.
            Its `network` does not count: sampling and training have rules of their own for that.
        ckpt_path: the folder with latest.pt and options.pkl.

    Raises:
        UserError: no such folder or file, or one that is refused.
    """
    folder = Path(ckpt_path)
    _check_is_there(folder)
    if portable.is_portable(folder):
        options, saved_in = folder / portable.DESCRIPTION, folder / portable.WEIGHTS
        saved = with_defaults(portable.load_description(options))
    else:
        options, saved_in = folder / "options.pkl", folder / "latest.pt"
        saved = with_defaults(load_namespace(options))
    if log is not None:
        log.info(f"[Options] {options}")
    if fault := fault_of(vars(saved), (*BRIDGE_OPTIONS, *TASK_OPTIONS, "net")):
        raise UserError(f"{options}: refused: {fault}")
    if not isinstance(saved.network, (dict, type(None))):
        raise UserError(f"{options}: refused: its network is {shown(saved.network)}, not named arguments")
    saved.ckpt_path, saved.load, saved.given = folder, saved_in, ()
    if not saved.load.is_file():
        raise UserError(f"{saved.load}: there is no such file")
    fp16 = getattr(opt, "use_fp16", False)
    saved.precision = "fp16" if fp16 else getattr(opt, "precision", "fp32")
    saved.use_fp16 = fp16
    for name, default in (("compile", False), ("channels_last", False), ("gpu", None)):
        setattr(saved, name, getattr(opt, name, default))
    for name in ("device", "distributed", "global_rank", "local_rank", "global_size"):
        if hasattr(opt, name):
            setattr(saved, name, getattr(opt, name))
    return saved


def save_checkpoint(path: Path, state: dict[str, Any], opt: argparse.Namespace | None = None) -> None:
    """Write a checkpoint so that `path` is at every moment a whole one, the old or the new.

    Args:
        opt: the options that it was trained with, to be written beside it; None: they are there already.

    Raises:
        UserError: the disk is full or the folder cannot be written to; `path` is as it was.
    """
    with atomic_write(path) as file:
        torch.save(state, file)
        if opt is not None:
            # All that takes long or can fail is done: the old checkpoint keeps its own options until then.
            os.fsync(file.fileno())
            save_options(opt, path.parent)


def keep_checkpoint(latest: Path, iteration: int) -> Path:
    """Keep the present latest.pt under a name with its iteration: a link, where the file system has them.

    Raises:
        UserError: it has none, and no room for a copy.
    """
    kept = latest.with_name(f"iteration_{iteration:07d}.pt")
    kept.unlink(missing_ok=True)
    try:
        os.link(latest, kept)
    except OSError:
        with atomic_write(kept) as copy, latest.open("rb") as file:
            shutil.copyfileobj(file, copy, 2**24)
    return kept


def load_checkpoint(path: str | os.PathLike) -> dict[str, Any]:
    """The content of a latest.pt; tensors stay on the disk until they are used, and no code in it runs.

    An exported ema.safetensors serves as well: its "ema" is None, and it has no optimizer.

    Raises:
        UserError: no such file, or it is damaged, hostile, or no checkpoint.
    """
    if Path(path).name == portable.WEIGHTS:
        return {"net": portable.load_weights(Path(path)), "ema": None}
    state = load_torch(path, mmap=True)
    missing = [key for key in ("net", "ema") if not (isinstance(state, dict) and isinstance(state.get(key), dict))]
    if missing:
        raise UserError(f"{path}: refused: it has no {' and no '.join(missing)}, so it is no checkpoint of a bridge")
    return state
