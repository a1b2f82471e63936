"""Curves and pictures of a run: always metrics.jsonl, and TensorBoard or Weights & Biases beside it."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import mmap
import netrc
import os
import re
import secrets
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from i2sb.errors import UserError
from i2sb.runtime.files import atomic_write
from i2sb.runtime.logger import MASK, hide_secret, redact, run_folder, unwritable
from i2sb.safe_pickle import is_secret

KINDS = ("tensorboard", "wandb")
_KEY_PLACES = "--wandb-api-key, the variable WANDB_API_KEY or ~/.netrc (written by `wandb login`)"


class Writer:
    """Takes numbers and pictures of a run; this base class drops them (ranks other than 0).

    A context manager that closes itself; `where` tells a person in one line where to look.
    """

    where = ""

    def add_scalar(self, step: int, key: str, value: float) -> None:
        """One number of iteration `step`: anything that `float` takes, also NaN and infinity."""
        self.add_scalars(step, {key: value})

    def add_scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Several numbers of one iteration.

        Raises:
            ValueError: a key is "step" or "time".
        """

    def add_image(self, step: int, key: str, image: Any) -> None:
        """A picture [3,H,W] or [1,H,W] of floats in [0,1] (values outside are clipped); no part of metrics.jsonl.

        Raises:
            ValueError: another shape.
        """

    def close(self, failed: bool = False) -> None:
        """Write what is left; may be called again. `failed`: the run ended by an error."""

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(failed=error is not None)


def build_writer(
    kind: str | None,
    *,
    log_dir: str | os.PathLike,
    name: str,
    config: Mapping[str, Any],
    wandb_user: str | None = None,
    wandb_api_key: str | None = None,
    rank: int = 0,
    resume: bool = False,
    start: int = 0,
) -> Writer:
    """The writer of a run: LOG_DIR/NAME/metrics.jsonl, and what `kind` names; nothing at all for rank > 0.

    Args:
        kind: None, "tensorboard" (event files in LOG_DIR/NAME) or "wandb" (project i2sb, files in LOG_DIR/wandb).
        config: the options, kept with the curves; those with a secret's name are left out.
        wandb_user: W&B's entity; `wandb_api_key`: else WANDB_API_KEY or ~/.netrc. WANDB_MODE=offline needs none.
        resume: go on with the W&B run of LOG_DIR/NAME/wandb_id.txt instead of a new one.
        start: the first iteration of this run; TensorBoard hides what an earlier run drew from there on.

    Raises:
        UserError: an unknown kind, an unwritable folder, no or a wrong W&B key, no connection to W&B.
    """
    if kind is not None and kind not in KINDS:
        raise UserError(f"--log-writer {kind}: unknown, choose one of {', '.join(KINDS)}")
    if rank != 0:
        return Writer()
    hide_secret(wandb_api_key)
    folder = run_folder(log_dir, name)
    config = {key: _plain(value) for key, value in config.items() if not is_secret(key)}
    writers: list[Writer] = [JsonLines(folder / "metrics.jsonl")]
    try:
        if kind == "tensorboard":
            writers.append(TensorBoard(folder, config, start))
        if kind == "wandb":
            run_id = _wandb_id(folder / "wandb_id.txt", resume)
            writers.append(WandB(log_dir, name, run_id, config, wandb_user, wandb_api_key))
    except ImportError as error:
        writers[0].close()
        raise UserError(f"--log-writer {kind}: {error}; install what requirements.yaml lists") from error
    except BaseException:
        writers[0].close()
        raise
    return _Several(writers)


class _Several(Writer):
    """Hands everything to each of its writers."""

    def __init__(self, writers: list[Writer]) -> None:
        self.writers = writers
        self.where = writers[-1].where

    def add_scalars(self, step: int, values: Mapping[str, float]) -> None:
        numbers = {key: value if type(value) is int else float(value) for key, value in values.items()}
        for writer in self.writers:
            writer.add_scalars(step, numbers)

    def add_image(self, step: int, key: str, image: Any) -> None:
        pixels = _pixels(image)
        for writer in self.writers:
            writer.add_image(step, key, pixels)

    def close(self, failed: bool = False) -> None:
        with contextlib.ExitStack() as stack:  # one that fails does not keep the others open
            for writer in self.writers:
                stack.callback(writer.close, failed)


class JsonLines(Writer):
    """One JSON object a line: {"step": iteration, "time": seconds since 1970, KEY: number or null, ...}.

    Numbers that are not finite are null. Lines are added at the end: after a resume some steps may come twice,
    the later line counts. What a crash left of a last line is cut off. A disk that fills up is told once.
    """

    _failed = False

    def __init__(self, path: Path) -> None:
        self.path = path
        self.where = str(path)
        try:
            self._file = path.open("a+b", buffering=0)  # one line, one write
            _cut_torn_line(self._file)
        except OSError as error:
            raise unwritable(path, error) from error

    def add_scalars(self, step: int, values: Mapping[str, float]) -> None:
        if not {"step", "time"}.isdisjoint(values):
            raise ValueError("a metric may not be called step or time")
        numbers = {key: value if math.isfinite(value) else None for key, value in values.items()}
        entry = {"step": int(step), "time": round(time.time(), 3), **numbers}
        line = json.dumps(entry, allow_nan=False).encode() + b"\n"
        try:
            whole = os.fstat(self._file.fileno()).st_size
            if self._file.write(line) < len(line):
                self._file.truncate(whole)
                raise OSError(errno.ENOSPC, "no space for a whole line")
        except OSError as error:
            self._tell_once(error)

    def _tell_once(self, error: OSError) -> None:
        """The curves are worth less than the run, which goes on."""
        if not self._failed:
            print(f"{self.path}: cannot be written: {error.strerror}; going on", file=sys.stderr)
        self._failed = True

    def close(self, failed: bool = False) -> None:
        self._file.close()


class TensorBoard(Writer):
    """TensorBoard event files in `folder`; takes pictures as uint8 [H,W,3]."""

    def __init__(self, folder: Path, config: Mapping[str, Any], start: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.where = f"tensorboard --logdir {folder}"
        try:
            # what an earlier run logged at the iteration of its last checkpoint is not logged again
            purged = start + 1 if start else 0
            self._events = SummaryWriter(str(folder), purge_step=purged, flush_secs=30)
        except OSError as error:
            raise unwritable(folder, error) from error
        lines = [f"    {key}: {value}" for key, value in config.items()]  # Markdown: four spaces keep the lines
        self._events.add_text("options", "\n".join(lines), start)

    def add_scalars(self, step: int, values: Mapping[str, float]) -> None:
        for key, value in values.items():
            self._events.add_scalar(key, value, step)

    def add_image(self, step: int, key: str, image: np.ndarray) -> None:
        self._events.add_image(key, image, step, dataformats="HWC")

    def close(self, failed: bool = False) -> None:
        self._events.close()


class WandB(Writer):
    """A run of W&B's project i2sb; takes pictures as uint8 [H,W,3]."""

    def __init__(
        self,
        log_dir: str | os.PathLike,
        name: str,
        run_id: str,
        config: Mapping[str, Any],
        user: str | None,
        key: str | None,
    ) -> None:
        import wandb

        with _one_line_errors("it cannot be set up"):
            settings = wandb.setup().settings
        hide_secret(settings.api_key)  # from WANDB_API_KEY
        online = settings.mode in ("online", "run", "shared")
        if online and not (key or _has_key_elsewhere(settings)):
            raise UserError(f"--log-writer wandb: no key for W&B: give it by {_KEY_PLACES}, or set WANDB_MODE=offline")
        # console="off": W&B would catch what we print, and keep it in files that our masking does not reach.
        options = {"console": "off", "silent": True}
        if key and online:
            options["api_key"] = key  # unlike wandb.login, this does not write the key to ~/.netrc
        with _one_line_errors(f"no run can be started at {settings.base_url}"), _masked_command_line():
            self._run = wandb.init(
                project="i2sb",
                entity=user,
                name=name,
                id=run_id,
                resume="allow",
                dir=str(log_dir),
                config=dict(config),
                settings=wandb.Settings(**options),
            )
        self._picture = wandb.Image
        folder = Path(self._run.dir).parent
        if online:
            self.where = str(self._run.url)
        elif settings.mode != "disabled":
            self.where = f"offline, send it by: wandb sync {folder}"

    def add_scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def add_image(self, step: int, key: str, image: np.ndarray) -> None:
        self._run.log({key: self._picture(image)}, step=step)

    def close(self, failed: bool = False) -> None:
        self._run.finish(exit_code=int(failed))


@contextlib.contextmanager
def _one_line_errors(what: str) -> Iterator[None]:
    """W&B and its settings raise many kinds of errors, some of several lines."""
    try:
        yield
    except Exception as error:
        reason = redact(" ".join(str(error).split()))[:300]
        raise UserError(
            f"--log-writer wandb: {what}: {reason}; "
            f"check the connection and the key ({_KEY_PLACES}), or set WANDB_MODE=offline"
        ) from None  # a chain could show the key


@contextlib.contextmanager
def _masked_command_line() -> Iterator[None]:
    """W&B notes sys.argv with a run, where --wandb-api-key KEY may stand."""
    kept = sys.argv
    sys.argv = [redact(argument) for argument in kept]
    try:
        yield
    finally:
        sys.argv = kept


def _has_key_elsewhere(settings: Any) -> bool:
    """Whether W&B will find a key without asking at the terminal, where nobody may sit."""
    variables = (os.environ.get("WANDB_API_KEY"), os.environ.get("WANDB_IDENTITY_TOKEN_FILE"))
    if settings.api_key or any(variables):
        return True
    paths = [os.environ["NETRC"]] if "NETRC" in os.environ else ["~/.netrc", "~/_netrc"]
    for path in paths:
        with contextlib.suppress(OSError, netrc.NetrcParseError):
            known = netrc.netrc(Path(path).expanduser())
            return known.authenticators(urlsplit(settings.base_url).netloc) is not None
    return False


def _wandb_id(path: Path, resume: bool) -> str:
    """The run's id at W&B: the one in the file when the run resumes, else a new one, which the file gets."""
    if resume:
        with contextlib.suppress(OSError, UnicodeDecodeError):
            known = path.read_text(encoding="utf-8").strip()
            if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", known):
                return known
    run_id = secrets.token_hex(4)
    with atomic_write(path) as file:
        file.write(run_id.encode() + b"\n")
    return run_id


def _cut_torn_line(file: Any) -> None:
    """Cut `file` (open for reading and writing) after its last whole line."""
    if os.fstat(file.fileno()).st_size == 0:
        return
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        end = content.rfind(b"\n") + 1
    file.truncate(end)


def _plain(value: Any) -> Any:
    """An option as JSON has it: paths and whatever else there may be as text, secrets masked."""
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): MASK if is_secret(str(key)) else _plain(item) for key, item in value.items()}
    return redact(str(value))


def _pixels(image: Any) -> np.ndarray:
    """[3,H,W] or [1,H,W] of floats in [0,1], torch or numpy -> uint8 [H,W,3]."""
    if hasattr(image, "detach"):
        image = image.detach().float().cpu().numpy()
    image = np.asarray(image, dtype=np.float32)
    if image.ndim != 3 or image.shape[0] not in (1, 3):
        raise ValueError(f"a picture is [3,H,W] or [1,H,W], got {list(image.shape)}")
    image = (np.nan_to_num(image, nan=0.0).clip(0, 1) * 255).round().astype(np.uint8)
    return np.broadcast_to(image, (3, *image.shape[1:])).transpose(1, 2, 0)
