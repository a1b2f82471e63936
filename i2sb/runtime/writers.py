"""Curves and pictures of a run: always metrics.jsonl, and TensorBoard or Weights & Biases beside it."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import math
import mmap
import netrc
import os
import re
import secrets
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from i2sb.errors import UserError, one_line
from i2sb.runtime.files import atomic_write
from i2sb.runtime.logger import run_folder, unwritable

if TYPE_CHECKING:
    import numpy as np

KINDS = ("tensorboard", "wandb")


def adopt_wandb_key(opt: Any) -> None:
    """Move opt.wandb_api_key into the environment, where W&B looks for it, and out of the options and sys.argv.

    W&B records sys.argv, and options are saved with every run.
    """
    if key := opt.wandb_api_key:
        os.environ["WANDB_API_KEY"] = key
        sys.argv[:] = ["***" if arg == key or arg.endswith(f"={key}") else arg for arg in sys.argv]
    opt.wandb_api_key = None


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

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self.close(failed=kind is not None)


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
        config: the options, kept with the curves but for the W&B key.
        wandb_user: W&B's entity; `wandb_api_key`: else WANDB_API_KEY or ~/.netrc. WANDB_MODE=offline needs none.
        resume: continue the W&B run of LOG_DIR/NAME/wandb_id.txt instead of a new one.
        start: the first iteration of this run; TensorBoard hides what an earlier run drew from there on.

    Raises:
        UserError: an unknown kind, an unwritable folder, no or a wrong W&B key, no connection to W&B.
    """
    if kind is not None and kind not in KINDS:
        raise UserError(f"--log-writer {kind}: unknown, choose one of {', '.join(KINDS)}")
    if rank != 0:
        return Writer()
    folder = run_folder(log_dir, name)
    config = {key: value for key, value in config.items() if key != "wandb_api_key"}
    with contextlib.ExitStack() as opened:
        writers: list[Writer] = [opened.enter_context(JsonLines(folder / "metrics.jsonl"))]
        try:
            if kind == "tensorboard":
                writers.append(TensorBoard(folder, config, start))
            elif kind == "wandb":
                run_id = _wandb_id(folder / "wandb_id.txt", resume)
                key = wandb_api_key or os.environ.get("WANDB_API_KEY")
                writers.append(WandB(log_dir, name, run_id, config, wandb_user, key))
        except ImportError as error:
            raise UserError(f"--log-writer {kind}: {error}; pip install {kind}") from error
        opened.pop_all()
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


class _FileWriter(Writer):
    """Writes one file; a disk that fills up is logged once: the curves are worth less than the run."""

    def __init__(self, path: Path, mode: str, buffering: int = -1) -> None:
        self.path, self.full = path, False
        try:
            self.file = path.open(mode, buffering)
        except OSError as error:
            raise unwritable(path, error) from error

    @contextlib.contextmanager
    def surviving(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if not self.full:
                text = f"{self.path}: cannot be written: {error.strerror}; the run continues without"
                logging.getLogger("i2sb").warning(text)
            self.full = True

    def close(self, failed: bool = False) -> None:
        with self.surviving():
            self.file.close()


class JsonLines(_FileWriter):
    """One JSON object a line: {"step": iteration, "time": seconds since 1970, KEY: number or null, ...}.

    Values that are not finite are null. Lines are added at the end: after a resume some steps may come twice,
    the later line counts. What a crash left of a last line is cut off.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, "a+b", buffering=0)
        self.where = str(path)
        if os.fstat(self.file.fileno()).st_size:
            with mmap.mmap(self.file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                end = content.rfind(b"\n") + 1
            self.file.truncate(end)

    def add_scalars(self, step: int, values: Mapping[str, float]) -> None:
        if not {"step", "time"}.isdisjoint(values):
            raise ValueError("a metric may not be called step or time")
        numbers = {key: value if math.isfinite(value) else None for key, value in values.items()}
        line = json.dumps({"step": int(step), "time": round(time.time(), 3), **numbers}).encode() + b"\n"
        with self.surviving():
            whole = os.fstat(self.file.fileno()).st_size
            if self.file.write(line) < len(line):
                self.file.truncate(whole)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class TensorBoard(_FileWriter):
    """TensorBoard event files in `folder`; takes pictures as uint8 [H,W,3].

    Not torch's SummaryWriter, whose thread dies with a traceback on a full disk.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any], start: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter
        from torch.utils.tensorboard import summary

        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        super().__init__(folder / name, "xb")
        self.where = f"tensorboard --logdir {folder}"
        self._event, self._records, self._summary = Event, RecordWriter(self.file), summary
        self._add(file_version="brain.Event:2")
        # What an earlier run logged at the iteration of its last checkpoint is not logged again.
        self._add(session_log=SessionLog(status=SessionLog.START), step=start + 1 if start else 0)
        lines = "\n".join(f"    {key}: {value}" for key, value in config.items())  # Markdown: four spaces keep them
        text = lines.encode("utf-8", "backslashreplace").decode()  # a path may be no UTF-8
        self._add(summary=summary.text("options", text), step=start)

    def _add(self, **content: Any) -> None:
        if self.full:
            return  # behind a torn record nothing is read
        with self.surviving():
            self._records.write(self._event(wall_time=time.time(), **content).SerializeToString())
            self.file.flush()

    def add_scalars(self, step: int, values: Mapping[str, float]) -> None:
        for key, value in values.items():
            self._add(summary=self._summary.scalar(key, value), step=step)

    def add_image(self, step: int, key: str, image: np.ndarray) -> None:
        self._add(summary=self._summary.image(key, image, dataformats="HWC"), step=step)


class WandB(Writer):
    """A run of W&B's project i2sb; takes pictures as uint8 [H,W,3]."""

    def __init__(
        self, log_dir: str | os.PathLike, name: str, run_id: str, config: Mapping[str, Any], user: Any, key: Any
    ) -> None:
        import wandb

        try:
            settings = wandb.setup().settings
            online = settings.mode in ("online", "run", "shared")
            if online and not (key or _has_key_elsewhere(settings)):
                raise ValueError("there is no key for W&B")
            own_key = {"api_key": key} if key and online else {}  # unlike wandb.login, this does not write ~/.netrc
            self._run = wandb.init(
                project="i2sb",
                entity=user,
                name=name,
                id=run_id,
                resume="allow",
                dir=str(log_dir),
                config=json.loads(json.dumps(config, default=str)),
                settings=wandb.Settings(console="off", silent=True, **own_key),  # log.txt has what is printed
            )
        except Exception as error:  # of many kinds, some of several lines
            places = "--wandb-api-key, the variable WANDB_API_KEY or ~/.netrc (written by `wandb login`)"
            hint = f"check the connection and the key ({places}), or set WANDB_MODE=offline"
            raise UserError(f"--log-writer wandb: {one_line(error, 300)}; {hint}") from error
        self._picture = wandb.Image
        if online:
            self.where = str(self._run.url)
        elif settings.mode != "disabled":
            self.where = f"offline, send it by: wandb sync {Path(self._run.dir).parent}"

    def add_scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def add_image(self, step: int, key: str, image: np.ndarray) -> None:
        self._run.log({key: self._picture(image)}, step=step)

    def close(self, failed: bool = False) -> None:
        self._run.finish(exit_code=int(failed))


def _has_key_elsewhere(settings: Any) -> bool:
    """Whether W&B will find a key without asking at the terminal, where nobody may sit."""
    if settings.api_key or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
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


def _pixels(image: Any) -> np.ndarray:
    """[3,H,W] or [1,H,W] of floats in [0,1], torch or numpy -> uint8 [H,W,3]."""
    import numpy as np

    if hasattr(image, "detach"):
        image = image.detach().float().cpu().numpy()
    image = np.asarray(image, dtype=np.float32)
    if image.ndim != 3 or image.shape[0] not in (1, 3):
        raise ValueError(f"a picture is [3,H,W] or [1,H,W], got {list(image.shape)}")
    image = (np.nan_to_num(image, nan=0.0).clip(0, 1) * 255).round().astype(np.uint8)
    return np.broadcast_to(image, (3, *image.shape[1:])).transpose(1, 2, 0)
