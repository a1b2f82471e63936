"""The options of a training that goes on from a checkpoint: its own ones, and those that may be changed."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from guided_diffusion import presets
from i2sb.ckpt_util import BRIDGE_OPTIONS, RESULTS, TASK_OPTIONS, build_ckpt_option
from i2sb.errors import UserError
from i2sb.options import contradiction
from i2sb.options.saved import shown
from i2sb.options.shared import NET_OVERRIDES
from i2sb.runtime.logger import of_all_ranks


def find_folders(opt: argparse.Namespace, log: Any) -> None:
    """Set ckpt_path, where the results go, and load, the latest.pt to resume from (or None).

    Raises:
        UserError: nothing to resume from, or options that do not fit it, or a checkpoint that would be lost.
    """
    opt.ckpt_path, opt.load = RESULTS / opt.name, None
    opt.use_fp16 = False  # named so by the original's options; --precision says it here
    if opt.ckpt is not None:
        saved = build_ckpt_option(opt, log, RESULTS / opt.ckpt)
        adopt_options(opt, saved, of_all_ranks(log, opt.global_rank))
        opt.load = saved.load
    latest = Path(opt.ckpt_path) / "latest.pt"
    if opt.ckpt != opt.name and latest.exists() and not opt.overwrite:
        raise UserError(
            f"{latest}: there is a checkpoint already; go on from it by --ckpt {opt.name}, or choose another "
            "--name, or give --overwrite"
        )


def adopt_options(opt: argparse.Namespace, saved: argparse.Namespace, log: Any) -> None:
    """Make the options of a resumed training those of the run it resumes, where the command line is silent.

    Differences that were asked for are told, a line each.

    Raises:
        UserError: the command line names another bridge or network than the checkpoint has, or what it names
            does not go together with what the checkpoint has.
    """
    name = saved.ckpt_path.name
    wrong = [
        f"--{key.replace('_', '-')} {getattr(opt, key)} (trained with {getattr(saved, key)})"
        for key in BRIDGE_OPTIONS
        if key in opt.given and getattr(opt, key) != getattr(saved, key)
    ]
    if saved.network:
        wrong += _other_sizes(opt, saved.network)
    if wrong:
        raise UserError(f"--ckpt {name} cannot go on with {'; '.join(wrong)}: leave it out, or train anew")
    for key in BRIDGE_OPTIONS:
        if getattr(opt, key) != getattr(saved, key):
            log.info(f"[Resume] --{key.replace('_', '-')} {getattr(saved, key)}, as {name} was trained with")
            setattr(opt, key, getattr(saved, key))
    if saved.network:
        opt.net, opt.network = saved.net, {**saved.network}
        before = saved.network.get("dropout", 0)
        if opt.dropout not in (None, before):
            log.warning(f"[Resume] --dropout is now {opt.dropout}; {name} was trained with {shown(before)}")
            opt.network["dropout"] = opt.dropout
    for key in TASK_OPTIONS:
        mine, theirs = getattr(opt, key), getattr(saved, key)
        if mine == theirs:
            continue
        if key in opt.given:
            log.warning(f"[Resume] --{key.replace('_', '-')} is now {mine}; {name} was trained with {theirs}")
        else:
            log.info(f"[Resume] --{key.replace('_', '-')} {theirs}, as {name} was trained with")
            setattr(opt, key, theirs)
    if reason := contradiction(opt):
        raise UserError(reason)


def _other_sizes(opt: argparse.Namespace, trained: Mapping[str, Any]) -> list[str]:
    """What the command line says of the network that the trained one does not have; its dropout may change."""
    asked = opt.network or {}
    named = asked if "net" in opt.given else [key for key in NET_OVERRIDES if key in opt.given]
    if not named:
        return []
    trained = {**asked, **presets.DEFAULTS, **trained}
    mine, theirs = _meaning(asked), _meaning(trained)
    return [
        f"{'--' if key in opt.given else f'--net {opt.net}, its '}{key.replace('_', '-')} {asked[key]!r} "
        f"(trained with {shown(trained[key])})"
        for key in named
        if key not in ("image_size", "in_channels", "dropout") and mine[key] != theirs[key]
    ]


def _meaning(network: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a network so that equal networks have equal ones: ADM's files leave some of them to it."""
    found = dict(network)
    with contextlib.suppress(ValueError, TypeError, ZeroDivisionError):  # a stranger's: compared as they are
        found["channel_mult"], found["attention_resolutions"] = presets.parse_levels(network)
    if network.get("num_head_channels", -1) != -1:
        found["num_heads"] = None  # does not count
    return found
