"""results/NAME/: latest.pt and the options beside it, as the original writes and reads them.

latest.pt
    net, ema, optimizer, sched      as the original has them
    scaler, resume                  what an exact resume needs besides, see `resume`
    bridge, options                 `BridgeConfig` and all training options: they count, whatever lies beside
best.pt, iteration_*.pt             --keep-best, --keep-every: earlier ones in the same form
options.pkl, options.json           the same options for the original's loaders, and for people
ema.safetensors, ema.json           an exported bridge in place of these, see `export`
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

import torch

from i2sb import export
from i2sb.config import BridgeConfig, as_image_size
from i2sb.errors import UserError, one_line, those_there
from i2sb.fetch import download_ckpt
from i2sb.initial_weights import FIRST, bare_names
from i2sb.network import network_of
from i2sb.options import training_defaults
from i2sb.options.shared import misfit
from i2sb.precision import settle
from i2sb.runtime.files import atomic_write, only_one, sync
from i2sb.runtime.pickles import dump_options
from i2sb.runtime.reading import check_tensors, load_options, load_torch, read_json
from i2sb.samplers import check_sampler
from i2sb.schedule import num_evaluations

__all__ = ["RESULTS", "build_ckpt_option", "download_ckpt", "load_checkpoint", "save_checkpoint", "with_defaults"]

RESULTS = Path("results")
LATEST, BEST, SAFETENSORS = "latest.pt", "best.pt", ".safetensors"
# Options of this run, in place of those of the run that trained.
_OF_THIS_RUN = ("device", "distributed", "global_rank", "local_rank", "global_size", "compile", "channels_last", "gpu")
_OF_THIS_RUN += ("dataset_dir", "val_list", "num_workers", "exif_rotate")
_IF_GIVEN = ("image_size", "val_split", "pair_layout", "source", "target", "skip_unreadable")  # else as it was trained


def with_defaults(opt: Any) -> argparse.Namespace:
    """A copy of `opt`, anything with attributes, with every training option that it lacks: the original's are fewer."""
    others = {"given": (), "distributed": False, "global_rank": 0, "local_rank": 0, "global_size": 1}
    others |= {"ckpt_path": None, "load": None, "corruption_sha256": None}
    known = {name: getattr(opt, name, value) for name, value in {**training_defaults(), **others}.items()}
    more = {name: value for name, value in getattr(opt, "__dict__", {}).items() if not name.startswith("__")}
    return argparse.Namespace(**{**more, **known})


@contextlib.contextmanager
def only_training(opt: argparse.Namespace) -> Iterator[None]:
    """Keep other trainings out of results/NAME (rank 0 does, for all ranks)."""
    if opt.ckpt is not None:
        find_weights(opt.ckpt)
    if opt.global_rank != 0:
        yield
        return
    folder = RESULTS / opt.name
    busy = (
        f"{folder}: another process is training into it; wait for its end or choose another --name (processes of one "
        "training that srun or mpirun started need --num-proc-node)"
    )
    try:
        with only_one(folder / ".train.lock", busy):
            yield
    finally:
        for made in (folder, RESULTS):
            with contextlib.suppress(OSError):
                made.rmdir()  # if nothing was saved


def find_weights(name: str | os.PathLike, flag: str = "--ckpt") -> Path:
    """The file that NAME in `flag` stands for: weights of results/NAME, or those of the demo model of that name.

    Raises:
        UserError: there are none.
    """
    folder, demos = RESULTS / name, export.demos()
    ours = (folder / LATEST).exists() or export.is_export(folder)
    return demos[str(name)] if str(name) in demos and not ours else _weights_in(folder, flag)


def trained(results: Path = RESULTS) -> dict[str, Path]:
    """Name -> checkpoint of all there are: the demo models, and the folders below `results` with weights."""
    folders = {path.parent for file in (LATEST, export.WEIGHTS) for path in results.glob(f"*/{file}")}
    return export.demos() | {folder.name: folder for folder in sorted(folders)}


def _weights_in(folder: Path, flag: str = "--ckpt") -> Path:
    """latest.pt of a folder of results, or exported weights in its place; a UserError with what there is if neither."""
    if folder.is_file():
        raise UserError(
            f"--ckpt {folder.relative_to(RESULTS)}: is a file; to use it, make it the latest.pt of a folder of its "
            f"own: mkdir {RESULTS}/NAME; cp {folder} {RESULTS}/NAME/{LATEST}"
        )
    if not folder.is_dir():
        hint = f"{those_there(folder.name, there)}; " if (there := trained()) else ""
        raise UserError(
            f"{flag} {folder.name}: there is no folder {folder} here; {hint}scripts/download_checkpoint.sh fetches "
            "published checkpoints, train.py --name makes others"
        )
    return folder / (export.WEIGHTS if export.is_export(folder) else LATEST)


# Options


def as_trained(ckpt_path: str | os.PathLike, log: Any = None) -> argparse.Namespace:
    """All options that results/NAME was trained with, and where it is: ckpt_path (the folder), load (the weights).

    Arguments and errors: see `build_ckpt_option`.  What an exported bridge does not say has its default.
    """
    weights = Path(ckpt_path)
    if not weights.is_file():
        weights = _weights_in(weights)
    folder = weights.parent
    options = export.load_options(weights) if weights.suffix == SAFETENSORS else _saved_options(weights)
    if log is not None:
        log.info(f"[Options] {folder}")
    saved = with_defaults(options)
    saved.ckpt_path, saved.load, saved.given = folder, weights, ()
    for name in ("dataset_dir", "val_list", "source", "target"):
        if (value := getattr(saved, name)) is not None:
            setattr(saved, name, Path(value))
    saved.image_size = as_image_size(saved.image_size)
    return saved


def build_ckpt_option(opt: Any, log: Any, ckpt_path: str | os.PathLike) -> argparse.Namespace:
    """The options that results/NAME was trained with, but device, precision and data of this run.

    Args:
        opt: options of this run: `device`, and where present those of `_OF_THIS_RUN`, `precision`, `use_fp16`, and
            those of `_IF_GIVEN` that were given on the command line.
        ckpt_path: the folder with latest.pt and options.pkl, or with an exported bridge; or one of these weights.

    Raises:
        UserError: no such folder or file, or files that are damaged or do not belong together.
    """
    saved = as_trained(ckpt_path, log)
    saved.use_fp16 = bool(getattr(opt, "use_fp16", False))
    saved.precision = "fp16" if saved.use_fp16 else getattr(opt, "precision", "fp32")
    saved.compile, saved.channels_last, saved.gpu = False, None, None
    for name in _OF_THIS_RUN:
        if hasattr(opt, name):
            setattr(saved, name, getattr(opt, name))
    given = getattr(opt, "given", ())
    if "dataset_dir" in given:
        saved.source = saved.target = None
    for name in _IF_GIVEN:
        if name in given:
            setattr(saved, name, getattr(opt, name))
    return saved


def sampling_options(opt: Any, ckpt_path: str | os.PathLike) -> tuple[argparse.Namespace, int]:
    """(options of a checkpoint for restoring images with it, number of network calls); see `build_ckpt_option`.

    opt: options of sample.py, which are settled (see `precision.settle`); `network` may replace the checkpoint's.
    """
    settle(opt, trains=False)
    saved = build_ckpt_option(opt, None, ckpt_path)
    saved.network = opt.network or saved.network
    try:
        check_sampler(opt.sampler, opt.eta, saved.ot_ode)
    except ValueError as error:
        raise UserError(f"--{error}") from error
    if reason := misfit(saved.image_size, network_of(saved)):
        raise UserError(reason)
    try:
        return saved, num_evaluations(opt.nfe, saved.interval)
    except ValueError as error:
        reason = f"{opt.ckpt} was trained with --interval {saved.interval}: at most {saved.interval - 1}"
        raise UserError(f"--nfe {opt.nfe}: {reason}") from error


def _saved_options(latest: Path) -> argparse.Namespace:
    """The options inside latest.pt; for the original's, those of options.pkl."""
    folder, beside = latest.parent, latest.with_name("options.pkl")
    if not latest.is_file():
        raise UserError(f"{latest}: there is no such file")
    state, _ = _open(latest)
    if not isinstance(state.get("options"), dict) or not isinstance(state.get("bridge"), dict):
        return load_options(beside)
    trained = BridgeConfig.from_dict(state["bridge"])

    def described(path: Path) -> BridgeConfig:
        other = argparse.Namespace(**read_json(path)) if path.suffix == ".json" else load_options(path)
        return BridgeConfig.from_options(other, getattr(other, "network", None) or trained.network)

    for path in (beside, folder / "options.json"):
        if path.is_file():
            trained.check_description(path, LATEST, lambda path=path: described(path))
    return argparse.Namespace(**state["options"])


def options_to_save(opt: Any, network: Mapping[str, Any]) -> argparse.Namespace:
    """The options as files hold them: plain values and paths, with the network, and without secrets."""
    # use_fp16 is the original's name; --precision says it here
    options = {"use_fp16": False, **vars(opt), "wandb_api_key": None, "network": dict(network)}
    kinds = (bool, int, float, str, list, tuple, dict, PurePath, type(None))
    return argparse.Namespace(**{k: v for k, v in options.items() if isinstance(v, kinds) and k != "given"})


def save_options(options: argparse.Namespace, folder: Path) -> None:
    """Write options of `options_to_save`: options.pkl, as the original's loaders read it, options.json for people."""
    dump_options(options, folder / "options.pkl")
    with atomic_write(folder / "options.json") as file:
        file.write((json.dumps(vars(options), indent=2, sort_keys=True, default=str) + "\n").encode())


# Checkpoints


def save_checkpoint(path: Path, state: dict[str, Any], opt: Any, bridge: BridgeConfig, network: Mapping) -> None:
    """Write a checkpoint so that `path` is at every moment a whole one, the old or the new.

    opt, bridge, network: what it was trained with; saved inside, the options also beside it.
    """
    options = options_to_save(opt, network)
    plain = json.loads(json.dumps(vars(options), default=str))  # what torch.load(weights_only=True) takes
    with atomic_write(path) as file:
        torch.save({**state, "bridge": bridge.to_dict(), "options": plain}, file)
        sync(file.fileno())  # all that takes long or can fail is done: the old files stay together until then
        save_options(options, path.parent)


def snapshot(value: Any) -> Any:
    """A copy in the CPU's memory of nested dicts and lists with tensors."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        copied = copy.copy(value)  # of the same type, and with the attributes of a module's state dict
        copied.update((key, snapshot(item)) for key, item in value.items())
        return copied
    return [snapshot(item) for item in value] if isinstance(value, list) else value


def keep_checkpoint(latest: Path, name: str) -> Path:
    """Keep the present latest.pt under another name: a hard link, or a copy where there are none.

    What has that name stays until the new one takes its place.
    """
    kept, draft = latest.with_name(name), latest.with_name(".kept.tmp")
    if kept.exists() and kept.samefile(latest):
        return kept
    try:
        draft.unlink(missing_ok=True)
        os.link(latest, draft)
        draft.replace(kept)
    except OSError:
        with atomic_write(kept) as copied, latest.open("rb") as file:
            shutil.copyfileobj(file, copied, 2**24)
    return kept


def load_checkpoint(path: str | os.PathLike, log: Any = None) -> dict[str, Any]:
    """The content of a latest.pt; tensors stay on the disk until they are used, and no code in it runs.

    Besides the keys of the file: "identity", which tells the averaged weights from others.  Only the average is
    compared with the file's checksums.  An exported ema.safetensors serves as well, and so does the state dict of a
    network: their "ema" is None, and they have no optimizer.

    Raises:
        UserError: no such file, or it is damaged, or no checkpoint.
    """
    path = Path(path)
    if path.suffix == SAFETENSORS:
        return export.load_weights(path, log)
    state, notes = _open(path)
    if notes and log is not None:
        log.info(f"[Net] {path}: {', '.join(notes)}")
    average = state["net"] if state["ema"] is None else state["ema"].get("shadow_params")
    return {**state, "identity": check_tensors(path, average)}


def _open(path: Path) -> tuple[dict[str, Any], list[str]]:
    """(content of a checkpoint, or of the state dict of a network in the form of one; what was done for that)."""
    state, notes = load_torch(path), []
    missing = [key for key in ("net", "ema") if not (isinstance(state, dict) and isinstance(state.get(key), dict))]
    if missing:
        weights = state if "net" in missing else state["net"]
        if not isinstance(weights, dict) or not any(str(name).endswith(FIRST) for name in weights):
            reason = f"it has no {' and no '.join(missing)}, so it is not a checkpoint of a bridge"
            raise UserError(f"{path}: refused: {reason}")
        state = {**({} if weights is state else state), "net": weights, "ema": None}
        notes.append("it holds no average (EMA), the weights themselves serve as that")
    net = {f"diffusion_model.{name}": value for name, value in bare_names(state["net"]).items()}
    if net.keys() != state["net"].keys():
        notes.append(
            f"its weights are called {one_line(next(iter(state['net'])), 60)} and so on, ours {next(iter(net))}"
        )
    return {**state, "net": net}, notes


def bridge_of(opt: Any) -> BridgeConfig:
    """The bridge that a checkpoint's options (see `build_ckpt_option`) describe."""
    try:
        return BridgeConfig.from_options(opt, network_of(opt))
    except ValueError as error:
        raise UserError(f"{getattr(opt, 'load', None) or 'the options'}: describe no bridge: {error}") from error
