"""sample.py --input: picture files of any kind and size, restored into a folder.

OUTPUT/NAME.png ..                              the restored pictures, under the names of their inputs
OUTPUT/degraded/, OUTPUT/restored/, OUTPUT/clean/   with --degrade
OUTPUT/restored.json                            of which run they are, and a checksum of each input; pictures of
                                                another run, or of another input of the same name, are refused
"""

from __future__ import annotations

import argparse
import contextlib
import glob
import itertools
import json
import math
import os
import time
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from corruption.registry import lookup
from i2sb.bridge import Bridge
from i2sb.errors import SomeFailed, UserError, one_line, printable
from i2sb.forecast import TimeLeft, before_sampling
from i2sb.forms import mask_tensor
from i2sb.photographs import Photograph, clipped, encode, output_name, read
from i2sb.recon import differences, run_settings, sampling_of
from i2sb.runtime.distributed import barrier, broadcast_object, gather_objects, is_main, rank, world_size
from i2sb.runtime.files import atomic_write, only_one
from i2sb.runtime.picture_formats import readable_suffixes
from i2sb.runtime.progress import Progress
from i2sb.runtime.reading import read_json

RECORD, INPUTS = "restored.json", "inputs"
DEGRADED, RESTORED, CLEAN = "degraded", "restored", "clean"


class Job(NamedTuple):
    """A picture file, the name of its output below --output, and its place in the list."""

    source: Path
    name: Path
    position: int


def restore_files(bridge: Bridge, opt: argparse.Namespace, nfe: int, log: Any) -> None:
    """Restore the files that `opt.input` names into `opt.output`; the ranks share them.

    What an interrupted run has written is kept.  A file that cannot be restored is named, and the others go on.

    Raises:
        UserError: nothing to restore, or an output folder that holds other things.
        SomeFailed: at the end, where files could not be restored.
    """
    _check(bridge, opt)
    settings = {
        **run_settings(bridge.runner, opt, nfe, "degrade"),
        "tile": opt.tile or bridge.tile,
        "mask": None if opt.mask is None else str(opt.mask),
        "operator": lookup(bridge.config.task).file_sha256 if opt.degrade else None,
    }
    jobs = broadcast_object(_list_jobs(opt) if is_main() else None)
    with contextlib.ExitStack() as stack:
        if is_main():
            busy = f"--output {opt.output}: another process is restoring into it; wait for its end"
            stack.enter_context(only_one(opt.output / ".restoring.lock", busy))
            _claim(opt, settings, jobs)
        # Rank 0 looks for all: the folder changes as soon as the first rank is at work.
        missing = broadcast_object([job for job in jobs if not _result(opt, job).exists()])
        failed, restored, time_left = {}, 0, TimeLeft()

        def on_step(_: int, states: Tensor, __: Tensor) -> None:
            bar.advance(world_size())
            if line := time_left.after_iteration(states.flatten()[0], nfe - 1 - time_left.done):
                log.info(f"[Restore] {line} of the first picture")

        if missing:
            log.info(f"[Restore] {before_sampling(f'{len(missing)} pictures', nfe, bool(opt.nfe))}")
        with Progress("restoring", len(missing) * nfe, shown=is_main()) as bar:
            for job in missing[rank() :: world_size()]:
                began = time.perf_counter()
                try:
                    files = _restore_one(bridge, opt, nfe, job, on_step)
                except ValueError as error:
                    failed[str(job.source)] = one_line(error, 300)
                    log.error(f"[Restore] {printable(job.source)}: {one_line(error, 300)}")
                    continue
                for path, content in files.items():
                    with atomic_write(path) as file:
                        file.write(content)
                restored += 1
                log.info(f"[Restore] {printable(_result(opt, job))} ({time.perf_counter() - began:.1f} s)")
        barrier()
        gathered = gather_objects((restored, failed))
        if is_main():
            _conclude(bridge, opt, jobs, len(jobs) - len(missing), gathered, log)


def _check(bridge: Bridge, opt: argparse.Namespace) -> None:
    """Refuse what would fail for every picture."""
    name, least = bridge.config.task, 2 * bridge.net.diffusion_model.downsampling
    task = lookup(name)
    if opt.tile and opt.tile < least:
        raise UserError(f"--tile {opt.tile}: this network needs at least {least} pixels")
    if opt.degrade and task.is_paired:
        raise UserError("--degrade: this bridge was trained on pairs and has no operator; give degraded pictures alone")
    if opt.mask and not task.has_mask:
        raise UserError(f"--mask: {name} has no holes, it restores whole pictures; leave it out")
    if opt.mask and not opt.mask.exists():
        raise UserError(f"--mask {printable(opt.mask)}: there is no such picture or folder")
    if task.has_mask and not (opt.mask or opt.degrade):
        raise UserError(f"{name}: say by --mask FILE (or a folder with one for each) where holes are: white = hole")


def _conclude(bridge: Bridge, opt: argparse.Namespace, jobs: list[Job], before: int, gathered: list, log: Any) -> None:
    failed = {name: reason for _, found in gathered for name, reason in found.items()}
    restored = sum(count for count, _ in gathered)
    if opt.degrade:
        _report(bridge, opt.output, [job for job in jobs if str(job.source) not in failed], log)
    there = f", {before} were there already" if before else ""
    log.info(f"[Restore] {printable(opt.output)}: {restored} restored{there}, {len(failed)} failed")
    if failed:
        shown = "; ".join(f"{printable(name)} ({reason})" for name, reason in list(failed.items())[:3])
        more = f" and {len(failed) - 3} more" if len(failed) > 3 else ""
        raise SomeFailed(f"{len(failed)} of {len(jobs)} pictures could not be restored: {shown}{more}")


# The list


def find_inputs(inputs: Iterable[Path], output: Path | None) -> list[tuple[Path, Path]]:
    """(file, its name relative to the folder it was found in) of all files, folders and patterns, sorted.

    Folders are searched to any depth for files that Pillow reads, but for hidden ones and those with restored pictures.

    Args:
        output: a folder that is not searched, or None.

    Raises:
        UserError: nothing there.
    """
    found: dict[Path, Path] = {}
    inputs, ours = list(inputs), (output or Path(os.devnull)).resolve()
    for path in inputs:
        if len(inputs) > 1 and path.resolve() == ours:
            continue  # a shell's pattern names it, too
        if path.is_dir():
            files, root = _files_below(path), path
        elif path.exists():
            files, root = [path], path.parent
        else:
            root = Path(*itertools.takewhile(lambda part: not glob.has_magic(part), path.parts))
            names = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207  (Path.glob takes no absolute pattern)
            files = [file for name in names if (file := Path(name)).is_file()]
        if not root.resolve().is_relative_to(ours):
            files = [file for file in files if not file.resolve().is_relative_to(ours)]
        if not files:
            raise UserError(f"--input {printable(path)}: neither a picture, nor a folder or pattern of any")
        found |= {file: file.relative_to(root) for file in files}
    return list(found.items())


def _files_below(folder: Path) -> list[Path]:
    found = []
    for here, folders, names in os.walk(folder):
        folders[:] = sorted(n for n in folders if not (n.startswith(".") or (Path(here) / n / RECORD).exists()))
        paths = (Path(here) / name for name in sorted(names) if not name.startswith("."))
        found += [path for path in paths if path.suffix.lower() in readable_suffixes() | {".npy"}]
    return found


def _list_jobs(opt: argparse.Namespace) -> list[Job]:
    """All inputs with the names of their outputs, no two the same and none an input's."""
    found = find_inputs(opt.input, opt.output)
    names, jobs = {name for _, name in found}, []
    taken: dict[Path, Path] = {}
    for position, (source, name) in enumerate(found):
        target = output_name(name, lossless=opt.degrade)
        if target != name and (target in taken or target in names):
            target = name.with_name(f"{name.name}.png")  # a.gif beside a.png
        if target in taken:
            raise UserError(
                f"--input: {printable(taken[target])} and {printable(source)} would both be written to "
                f"{printable(opt.output / target)}; restore them into two folders"
            )
        taken[target] = source
        jobs.append(Job(source, target, position))
    sources = {source.resolve() for source, _ in found}
    if clash := next((job for job in jobs if any(path.resolve() in sources for path in _written(opt, job))), None):
        raise UserError(f"--output {opt.output}: {printable(clash.name)} would replace an input; choose another folder")
    return jobs


def _claim(opt: argparse.Namespace, settings: dict[str, Any], jobs: list[Job]) -> None:
    """Make the output folder this run's."""
    record, settings = opt.output / RECORD, json.loads(json.dumps(settings, default=str))
    there = [path for job in jobs for path in _written(opt, job) if path.exists()]
    was = read_json(record) if record.is_file() else {}
    if not isinstance(was, dict) or not isinstance(was.get(INPUTS, {}), dict):
        raise UserError(f"{printable(record)}: is no record of this program; choose another --output")
    before, now = was.pop(INPUTS, {}), {str(job.name): _checksum(job.source) for job in jobs}
    if not opt.overwrite:
        if was and (different := differences(was, settings)):
            raise UserError(
                f"--output {opt.output}: holds pictures of other settings ({different}); choose another folder, or "
                "--overwrite restores again"
            )
        if there and not was:
            raise UserError(f"{printable(there[0])}: is there already; choose another --output, or give --overwrite")
        for job in jobs:
            if before.get(name := str(job.name), now[name]) != now[name] and _result(opt, job).exists():
                raise UserError(
                    f"{printable(_result(opt, job))}: was restored from another picture than {printable(job.source)} "
                    "is now; choose another --output, or --overwrite restores again"
                )
    else:
        for path in there:
            path.unlink()
    with atomic_write(record) as file:
        file.write((json.dumps({**settings, INPUTS: {**before, **now}}, indent=2) + "\n").encode())


def _checksum(path: Path) -> str | None:
    """CRC-32 of a file; None where it cannot be read."""
    try:
        return f"{zlib.crc32(path.read_bytes()):08x}"
    except OSError:
        return None


def _written(opt: argparse.Namespace, job: Job) -> list[Path]:
    """All files that are written for a picture."""
    return [opt.output / kind / job.name for kind in ((CLEAN, DEGRADED, RESTORED) if opt.degrade else ("",))]


def _result(opt: argparse.Namespace, job: Job) -> Path:
    """The last of them, which says that the picture is done."""
    return _written(opt, job)[-1]


# One picture


def _restore_one(bridge: Bridge, opt: argparse.Namespace, nfe: int, job: Job, on_step: Any) -> dict[Path, bytes]:
    """The files to write, of `_written`.

    Raises:
        ValueError: what is wrong with the picture or its mask.
    """
    photograph = read(job.source, bridge.config.channels, bridge.config.value_range)
    if count := photograph.outside():
        what = clipped(count, photograph.levels.size, photograph.value_range)
        bridge.runner.log.warning(f"[Restore] {printable(job.source)}: {what}")
    mask = _mask_of(opt.mask, job)
    sampling = {"tile": opt.tile, "nfe": nfe, "clip_denoise": opt.clip_denoise, "on_step": on_step, **sampling_of(opt)}
    position = job.position if opt.degrade else None
    made = restore_photograph(bridge, photograph, mask, opt.seed, degrade_as=position, **sampling)
    return dict(zip(_written(opt, job), map(encode, made)))


def restore_photograph(
    bridge: Bridge, photograph: Photograph, mask: Tensor | None, seed: int, *, degrade_as: int | None, **sampling: Any
) -> list[Photograph]:
    """[restored]; or of a clean one that is degraded first [clean, degraded, restored], to be written without loss.

    Args:
        mask: [1,1,H,W], 1 = hole.
        degrade_as: position in an evaluation, for the operator's draws; None: it is degraded already.
        sampling: see `Bridge.restore_tensor`.
    """
    x, others = photograph.tensor()[None], []
    if degrade_as is not None:
        photograph = photograph.lossless()
        x, mask = _degraded(bridge, x, mask, degrade_as, seed)
        others = [photograph, photograph.with_colours(x[0])]
    restored = bridge.restore_tensor(x, seed, mask, is_shown=bool(others), **sampling)
    return [*others, photograph.with_colours(restored[0])]


def _degraded(bridge: Bridge, x: Tensor, mask: Tensor | None, position: int, seed: int) -> tuple[Tensor, Tensor | None]:
    """The task's own degradation of x [1,C,H,W]; of a given mask, white holes."""
    if mask is None:
        return bridge.degrade_tensor(x, [position], seed)
    if mask.shape[2:] != x.shape[2:]:
        return x, mask  # which is refused there
    return x * (1 - mask) + mask, mask


def _mask_of(mask: Path | None, job: Job) -> Tensor | None:
    if mask is None:
        return None
    if mask.is_dir():
        same = [mask / job.name, *(path for path in (mask / job.name.parent).glob("*") if path.stem == job.name.stem)]
        mask = next((path for path in same if path.is_file()), same[0])
        if not mask.is_file():
            raise ValueError(f"{printable(mask)}: there is no such mask")
    try:
        return mask_tensor(read(mask, 3).levels)
    except ValueError as error:
        raise ValueError(f"its mask {printable(mask)}: {error}") from error


# Quality


def _report(bridge: Bridge, output: Path, jobs: list[Job], log: Any) -> None:
    """Log the PSNR to the clean picture of each, as they were written, and the means."""
    scores = []
    for job in jobs:
        files = (output / kind / job.name for kind in (CLEAN, DEGRADED, RESTORED))
        clean, degraded, restored = (read(file, bridge.config.channels, bridge.config.value_range) for file in files)
        scores.append((psnr(degraded, clean), psnr(restored, clean)))
        log.info(f"[PSNR] {printable(job.name)}: degraded {scores[-1][0]:.2f} dB, restored {scores[-1][1]:.2f} dB")
    if scores:
        degraded, restored = np.ma.masked_invalid(scores).mean(axis=0).filled(math.inf)
        log.info(f"[PSNR] mean of {len(scores)}: degraded {degraded:.2f} dB, restored {restored:.2f} dB")


def psnr(image: Photograph, clean: Photograph) -> float:
    """10 log10((white - black)^2 / mean squared error) [dB] of two pictures; inf where they are equal."""
    error = np.square(image.unit() - clean.unit()).mean(dtype=np.float64)
    return -10 * math.log10(error) if error else math.inf
