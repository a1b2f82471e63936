"""Where a resumed training goes on: iteration, position in the data, random numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from i2sb.noise import TrainingDraws


def starting_point(state: Mapping[str, Any], opt: Any, log: Any, dataset_size: int | None = None) -> tuple[int, int]:
    """(iterations done, images seen) of a checkpoint.

    A data set of another size than `dataset_size` then had goes through in another order, which is told.

    One without them (the original's) tells the iteration by its optimizer; the data then begin anew, at the
    position that so many iterations of this batch size would have reached.
    """
    resume, iteration = state.get("resume"), iterations_done(state)
    if _is_ours(resume):
        log.info(f"[Resume] after iteration {iteration}, {resume['num_images']} images")
        before = resume.get("dataset_size", dataset_size)
        if before != dataset_size:
            log.warning(
                f"[Resume] the data set has {dataset_size} images and had {before}: their order is another one, "
                "and images of this epoch may come again"
            )
        return iteration, int(resume["num_images"])
    log.warning(
        f"[Resume] the checkpoint holds no data position and no random states: weights, average, optimizer and "
        f"learning rate go on at iteration {iteration}, the images and the noise are drawn anew"
    )
    return iteration, iteration * opt.batch_size


def iterations_done(state: Mapping[str, Any]) -> int:
    """After which iteration a checkpoint was saved; the original's tell it by their schedule or optimizer."""
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
    ranks the noise of the bridge goes on as well (one stream for all ranks, see `TrainingDraws`), and dropout
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
    log.warning(f"[Resume] from {before} to {world_size} processes: the images go on in their order")
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
