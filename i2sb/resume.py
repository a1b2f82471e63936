"""How a training resumes: its options, iteration, position in the data, random numbers."""

from __future__ import annotations

import argparse
import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from guided_diffusion import presets
from i2sb.bridge import BridgeConfig
from i2sb.ckpt_util import LATEST, RESULTS, bridge_of, build_ckpt_option
from i2sb.errors import UserError
from i2sb.noise import TrainingDraws
from i2sb.options import contradiction
from i2sb.options.shared import NET_OVERRIDES
from i2sb.runtime.logger import of_all_ranks

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


def training_options(opt: argparse.Namespace, log: Any) -> argparse.Namespace:
    """The options of a training, complete: where its results go, and what it takes over from a checkpoint.

    Adds `ckpt_path`, the folder of the results, and `load`, the latest.pt to resume from (or None).

    Raises:
        UserError: nothing to resume from, or options that do not fit it, or a checkpoint that would be lost.
    """
    opt = copy.copy(opt)
    opt.ckpt_path, opt.load = RESULTS / opt.name, None
    latest = opt.ckpt_path / LATEST
    if opt.ckpt != opt.name and latest.exists() and not opt.overwrite:
        raise UserError(
            f"{latest}: there is a checkpoint already; resume it by --ckpt {opt.name}, or choose another "
            "--name, or give --overwrite"
        )
    if opt.ckpt is None:
        return opt
    return _resumed(opt, build_ckpt_option(opt, log, RESULTS / opt.ckpt), of_all_ranks(log, opt.global_rank))


def _resumed(opt: argparse.Namespace, saved: argparse.Namespace, log: Any) -> argparse.Namespace:
    """The options of the run that is resumed, where the command line does not ask for others.

    Differences that were asked for are logged, a line each.

    Raises:
        UserError: the command line names another bridge or network than the checkpoint has, or what it names
            does not go together with what the checkpoint has.
    """
    name, trained = saved.ckpt_path.name, bridge_of(saved)
    wrong = [
        f"--{_flag(key)} {getattr(opt, key)} (trained with {getattr(saved, key)})"
        for key in BRIDGE_OPTIONS
        if key in opt.given and getattr(opt, key) != getattr(saved, key)
    ]
    wrong += _other_network(opt, trained)
    if wrong:
        raise UserError(
            f"--ckpt {name} cannot be resumed with {'; '.join(wrong)}: leave it out, or train from scratch"
        )
    for key in (*BRIDGE_OPTIONS, *TASK_OPTIONS):
        mine, theirs = getattr(opt, key), getattr(saved, key)
        if mine == theirs:
            continue
        if key in opt.given:
            log.warning(f"[Resume] --{_flag(key)} is now {mine}; {name} was trained with {theirs}")
        else:
            log.info(f"[Resume] --{_flag(key)} {theirs}, as {name} was trained with")
            setattr(opt, key, theirs)
    if saved.network:
        before = saved.network.get("dropout", 0)
        opt.net, opt.network = saved.net, {**saved.network}
        if opt.dropout not in (None, before):
            log.warning(f"[Resume] --dropout is now {opt.dropout}; {name} was trained with {before}")
            opt.network["dropout"] = opt.dropout
    if reason := contradiction(opt):
        raise UserError(reason)
    opt.load = saved.load
    return opt


def _other_network(opt: argparse.Namespace, trained: BridgeConfig) -> list[str]:
    """What the command line says of the network that the trained one does not have; its dropout may change."""
    named = [key for key in NET_OVERRIDES if key in opt.given]
    if opt.network is None or not (named or "net" in opt.given):
        return []
    asked = presets.canonical({**opt.network, "in_channels": trained.network["in_channels"]})
    different = {key for key in asked if asked[key] != trained.network.get(key)}
    if not different:
        return []
    flags = [f"--{_flag(key)} {getattr(opt, key)}" for key in ("net", *named) if key in opt.given]
    told = ", ".join(f"{key} {trained.network.get(key)}" for key in sorted(different))
    return [f"{' '.join(flags)} (trained with {told})"]


def _flag(key: str) -> str:
    return key.replace("_", "-")


def starting_point(state: Mapping[str, Any], opt: Any, log: Any, dataset_size: int | None = None) -> tuple[int, int]:
    """(iterations done, images seen) of a checkpoint.

    A data set of another size than `dataset_size` then had goes through in another order, which is logged.

    One without them (the original's) shows the iteration by its optimizer; the data then start at the
    position that so many iterations of this batch size would have reached.
    """
    resume, iteration = state.get("resume"), iterations_done(state)
    if _is_ours(resume):
        log.info(f"[Resume] after iteration {iteration}, {resume['num_images']} images")
        before = resume.get("dataset_size", dataset_size)
        if before != dataset_size:
            log.warning(
                f"[Resume] the data set has {dataset_size} images and had {before}: the order differs, "
                "and images of this epoch may come again"
            )
        return iteration, int(resume["num_images"])
    log.warning(
        f"[Resume] the checkpoint holds no data position and no random states: weights, average, optimizer and "
        f"learning rate resume at iteration {iteration}, images and noise are drawn afresh"
    )
    return iteration, iteration * opt.batch_size


def iterations_done(state: Mapping[str, Any]) -> int:
    """After which iteration a checkpoint was saved; the original's show it by their schedule or optimizer."""
    if _is_ours(state.get("resume")):
        return int(state["resume"]["iteration"])
    sched = state.get("sched")
    if isinstance(sched, Mapping) and isinstance(sched.get("last_epoch"), int):
        return sched["last_epoch"]
    moments = state.get("optimizer", {}).get("state", {})
    return int(max((float(entry.get("step", 0)) for entry in moments.values()), default=0))


def _is_ours(resume: Any) -> bool:
    return isinstance(resume, Mapping) and {"iteration", "num_images"} <= set(resume)


def capture_random_state(device: torch.device) -> dict[str, Tensor]:
    """The states of this rank's global generators."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore_random_state(state: Mapping[str, Any], draws: TrainingDraws, rank: int, world_size: int, log: Any) -> None:
    """Continue the random numbers of a checkpoint, if it has any.

    On as many ranks as before every number is the same as without the interruption. On another number of
    ranks the noise of the bridge continues as well (one stream for all ranks, see `TrainingDraws`), and dropout
    starts from a new seed.
    """
    resume = state.get("resume")
    if not isinstance(resume, Mapping):
        return
    own, before = resume.get("random_states", []), resume.get("world_size")
    if before == world_size and rank < len(own):
        _set_global(own[rank])
        draws.load_state_dict(resume.get("draws", {}))
        return
    log.warning(f"[Resume] from {before} to {world_size} processes: the images continue in their order")
    if world_size == 1 and resume.get("draws"):
        _set_global({"cpu": resume["draws"]["cpu"], "cuda": resume["draws"]["device"]})
    elif before == 1 and own:
        draws.load_state_dict({"cpu": own[0]["cpu"], "device": own[0].get("cuda", own[0]["cpu"])})
    else:
        draws.load_state_dict(resume.get("draws", {}))


def _set_global(state: Mapping[str, Tensor]) -> None:
    torch.set_rng_state(state["cpu"].cpu())
    if "cuda" not in state or not torch.cuda.is_available():
        return
    on_gpu = state["cuda"].cpu()
    if len(on_gpu) == len(torch.cuda.get_rng_state()):  # not one that was saved on a CPU
        torch.cuda.set_rng_state(on_gpu)
