"""How a training resumes: its options, iteration, position in the data, random numbers."""

from __future__ import annotations

import argparse
import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from guided_diffusion import presets
from i2sb.ckpt_util import BEST, LATEST, RESULTS, SAFETENSORS, as_trained, bridge_of, find_weights
from i2sb.config import FIELDS, size_text
from i2sb.errors import UserError
from i2sb.noise import TrainingDraws
from i2sb.options import contradiction
from i2sb.options.shared import NET_OVERRIDES
from i2sb.precision import settle
from i2sb.runtime.logger import of_all_ranks

# What a network was trained for: another value would make its weights meaningless.
BRIDGE_OPTIONS = ("interval", "t0", "T", "beta_max", "ot_ode", "cond_x1", "channels", "value_range")
# What may be changed on purpose from one run to the next.
TASK_OPTIONS = ("corrupt", "image_size", "add_x1_noise", "seed", "batch_size", "microbatch", "num_itr")
TASK_OPTIONS += ("lr", "lr_gamma", "lr_step", "lr_schedule", "warmup", "l2_norm", "grad_clip", "ema")
TASK_OPTIONS += ("ema_halflife_images", "loss_weight", "loss_s2", "perceptual", "distill", "crop", "val_split")
TASK_OPTIONS += ("precision", "grad_checkpoint", "channels_last", "deterministic", "clip_denoise", "max_nonfinite")
TASK_OPTIONS += ("save_every", "keep_every", "eval_every", "eval_nfe", "eval_images", "keep_best")
TASK_OPTIONS += ("init_from", "dataset_dir", "val_list", "exif_rotate", "skip_unreadable")


def training_options(opt: argparse.Namespace, log: Any) -> argparse.Namespace:
    """The options of a training, complete: where its results go, and what it takes over from a checkpoint.

    Adds `ckpt_path`, the folder of the results, and `load`, the latest.pt to resume from (or None).
    """
    opt = copy.copy(opt)
    opt.ckpt_path, opt.load = RESULTS / opt.name, None
    latest = opt.ckpt_path / LATEST
    if opt.ckpt != opt.name and latest.exists() and not opt.overwrite:
        raise UserError(
            f"{latest}: there is a checkpoint already; resume it by --ckpt {opt.name}, or choose another "
            "--name, or give --overwrite"
        )
    if opt.ckpt != opt.name and (former := [*opt.ckpt_path.glob(BEST), *sorted(opt.ckpt_path.glob("iteration_*.pt"))]):
        names = " ".join(path.name for path in former[:3]) + " .." * (len(former) > 3)
        of_all_ranks(log, opt.global_rank).warning(f"[Train] {opt.ckpt_path}: has files of another training: {names}")
    if opt.ckpt is not None:
        saved = as_trained(find_weights(opt.ckpt), log)
        opt.load = saved.load
        settle(opt)
        if saved.channels_last is None:  # the original's
            saved.channels_last = opt.channels_last
        _check_bridge(opt, saved)
        _take_over(opt, saved, of_all_ranks(log, opt.global_rank))
        opt.corruption_sha256 = saved.corruption_sha256 if opt.corrupt == saved.corrupt else None
    if reason := contradiction(opt):
        raise UserError(reason)
    settle(opt)
    return opt


def _check_bridge(opt: argparse.Namespace, saved: argparse.Namespace) -> None:
    """Refuse flags that name another bridge or network than the checkpoint has; only dropout may change."""
    wrong = [
        f"--{_flag(key)} {getattr(opt, key)} (trained with {getattr(saved, key)})"
        for key in BRIDGE_OPTIONS
        if key in opt.given and getattr(opt, key) != getattr(saved, key)
    ]
    named = [key for key in ("net", *NET_OVERRIDES) if key in opt.given]
    if named and opt.network is not None:
        trained = bridge_of(saved).network
        ends = {key: trained[key] for key in ("in_channels", "out_channels")}
        asked = presets.canonical({**opt.network, **ends})
        if different := sorted(key for key in asked if asked[key] != trained.get(key)):
            flags = " ".join(f"--{_flag(key)} {getattr(opt, key)}" for key in named)
            wrong.append(f"{flags} (trained with {', '.join(f'{key} {trained.get(key)}' for key in different)})")
    if wrong:
        raise UserError(
            f"--ckpt {opt.ckpt} cannot be resumed with {'; '.join(wrong)}: leave it out, or train from scratch"
        )


def _take_over(opt: argparse.Namespace, saved: argparse.Namespace, log: Any) -> None:
    """Set the options of the checkpoint where the command line does not ask for others; differences are logged."""
    name, keys = opt.ckpt, [*BRIDGE_OPTIONS, *TASK_OPTIONS]
    if opt.corrupt == saved.corrupt:
        keys += ["pair_layout"] if "dataset_dir" in opt.given else ["pair_layout", "source", "target"]
    if opt.dataset_dir.exists() and not saved.dataset_dir.exists():  # trained elsewhere
        keys.remove("dataset_dir")
    if saved.load.suffix == SAFETENSORS:  # it says which bridge it is, and nothing of its training
        keys = [key for key in keys if key in (*FIELDS, "corrupt")]
    for key in keys:
        mine, theirs = getattr(opt, key), getattr(saved, key)
        now, before = size_text(mine), size_text(theirs)
        if mine != theirs and key in opt.given:
            log.warning(f"[Resume] --{_flag(key)} is now {now}; {name} was trained with {before}")
        elif mine != theirs:
            log.info(f"[Resume] --{_flag(key)} {before}, as {name} was trained with")
            setattr(opt, key, theirs)
    if saved.network:
        before = saved.network.get("dropout", 0)
        opt.net, opt.network = saved.net, {**saved.network}
        if opt.dropout not in (None, before):
            log.warning(f"[Resume] --dropout is now {opt.dropout}; {name} was trained with {before}")
            opt.network["dropout"] = opt.dropout


def _flag(key: str) -> str:
    return key.replace("_", "-")


def starting_point(
    state: Mapping[str, Any], opt: Any, log: Any, dataset_size: int, data: str | None = None
) -> tuple[int, int]:
    """(iterations done, images seen) of a checkpoint.

    The original's checkpoints hold no position in the data: it is what so many iterations of this batch size
    would have reached.  Where the fingerprint `data` is that of other training images than before, this is logged.
    """
    iteration, resume = iterations_done(state), state.get("resume")
    if not resume:
        log.warning(
            f"[Resume] the checkpoint holds no data position and no random states: weights, average, optimizer and "
            f"learning rate resume at iteration {iteration}, images and noise are drawn afresh"
        )
        return iteration, iteration * opt.batch_size
    log.info(f"[Resume] after iteration {iteration}, {resume['num_images']} images")
    before = resume.get("dataset_size", dataset_size)
    if before != dataset_size:
        log.warning(
            f"[Resume] the data set has {dataset_size} images and had {before}: the order differs, "
            "and images of this epoch may repeat"
        )
    elif None not in (data, resume.get("data")) and data != resume["data"]:
        log.warning("[Resume] the training images are not those of before: other names, classes or file sizes")
    return iteration, resume["num_images"]


def best_before(state: Mapping[str, Any], opt: Any) -> dict[str, Any] | None:
    """The best evaluation of a checkpoint, where its best.pt is here and --keep-best asks for the same metric."""
    best = state.get("resume", {}).get("best")
    here = best and best["metric"] == opt.keep_best and Path(opt.ckpt_path, BEST).exists()
    return best if here else None


def iterations_done(state: Mapping[str, Any]) -> int:
    """After which iteration a checkpoint was saved; the original's show it by their schedule or optimizer."""
    if resume := state.get("resume"):
        return resume["iteration"]
    if sched := state.get("sched"):
        return sched["last_epoch"]
    moments = state.get("optimizer", {}).get("state", {})
    return int(max((float(entry.get("step", 0)) for entry in moments.values()), default=0))


def capture_random_state(device: torch.device) -> dict[str, Tensor]:
    """The states of this rank's global generators."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore_random_state(state: Mapping[str, Any], draws: TrainingDraws, log: Any) -> None:
    """Continue the random numbers of a checkpoint, if it has any.

    On as many ranks as before every number is the same as without the interruption. On another number of
    ranks the noise of the bridge continues as well (one stream for all ranks, see `TrainingDraws`), and dropout
    starts from a new seed.
    """
    resume = state.get("resume")
    if not resume:
        return
    own, before = resume["random_states"], resume["world_size"]
    if before == draws.world_size:
        _set_global(own[draws.rank])
        draws.load_state_dict(resume["draws"])
        return
    log.warning(f"[Resume] from {before} to {draws.world_size} processes: the images continue in their order")
    if draws.world_size == 1:
        _set_global({"cpu": resume["draws"]["cpu"], "cuda": resume["draws"]["device"]})
    elif before == 1:
        draws.load_state_dict({"cpu": own[0]["cpu"], "device": own[0].get("cuda", own[0]["cpu"])})
    else:
        draws.load_state_dict(resume["draws"])


def _set_global(state: Mapping[str, Tensor]) -> None:
    torch.set_rng_state(state["cpu"].cpu())
    if "cuda" not in state or not torch.cuda.is_available():
        return
    on_gpu = state["cuda"].cpu()
    if len(on_gpu) == len(torch.cuda.get_rng_state()):  # not one that was saved on a CPU
        torch.cuda.set_rng_state(on_gpu)
