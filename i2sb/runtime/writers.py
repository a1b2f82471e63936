"""Curves and images of a run: always metrics.jsonl, and TensorBoard or Weights & Biases beside it."""

from __future__ import annotations

import json
import logging
import math
import os
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from i2sb.errors import UserError, one_line
from i2sb.runtime.files import unwritable

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


def adopt_wandb_key(opt: Any) -> None:
    """Move opt.wandb_api_key into the environment, where W&B looks for it, and out of the options and sys.argv.

    W&B records sys.argv, and options are saved with every run.
    """
    if key := opt.wandb_api_key:
        os.environ["WANDB_API_KEY"] = key  # unlike wandb.login, this does not write ~/.netrc
        sys.argv[:] = ["***" if arg == key or arg.endswith(f"={key}") else arg for arg in sys.argv]
    opt.wandb_api_key = None


class Writer:
    """Hands the scalars and images of a run to its sinks; without any (ranks other than 0) they are dropped.

    A sink whose disk is full is logged once and dropped: the curves are worth less than the run.
    A context manager that closes itself; `where` says in one line where to look.
    """

    def __init__(self, *sinks: Any) -> None:
        self._sinks = list(sinks)
        self.where: str = sinks[-1].where if sinks else ""

    def add_scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers of iteration `step`: anything that `float` takes, also NaN and infinity."""
        self._each("add_scalars", step, {k: v if type(v) is int else float(v) for k, v in values.items()})

    def add_image(self, step: int, key: str, image: Tensor) -> None:
        """An image [3,H,W] of floats in [0,1] (values outside are clipped); no part of metrics.jsonl."""
        pixels = image.detach().float().nan_to_num(0).clamp(0, 1).mul(255).round().byte()
        self._each("add_image", step, key, pixels.permute(1, 2, 0).cpu().numpy())

    def close(self, failed: bool = False) -> None:
        """Write what is left; may be called again. `failed`: the run ended by an error."""
        self._each("close", failed)
        self._sinks.clear()

    def _each(self, method: str, *args: Any) -> None:
        for sink in list(self._sinks):
            try:
                getattr(sink, method)(*args)
            except Exception as error:  # of many kinds: W&B has its own
                self._sinks.remove(sink)
                reason = getattr(error, "strerror", None) or one_line(error, 200)
                text = f"{sink.where}: cannot be written: {reason}; the run continues without"
                logging.getLogger("i2sb").warning(text)

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self.close(failed=kind is not None)


def build_writer(opt: Any, *, network: Any = None, start: int = 0) -> Writer:
    """The writer of a run: LOG_DIR/NAME/metrics.jsonl, and what opt.log_writer names; nothing for ranks other than 0.

    Args:
        opt: the training options, kept with the curves (the W&B key goes: see `adopt_wandb_key`).
        network: its description, kept with the options.
        start: the first iteration of this run; TensorBoard hides what an earlier run drew from there on.

    Raises:
        UserError: an unknown kind, an unwritable folder, no or a wrong W&B key, no connection to W&B.
    """
    if opt.log_writer not in (None, "tensorboard", "wandb"):
        raise UserError(f"--log-writer {opt.log_writer}: unknown, choose tensorboard or wandb")
    if opt.global_rank != 0:
        return Writer()
    adopt_wandb_key(opt)
    folder, config = Path(opt.log_dir, opt.name), {**vars(opt), "network": network}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        sinks: list[Any] = [JsonLines(folder / "metrics.jsonl")]
        if opt.log_writer == "tensorboard":
            sinks.append(TensorBoard(folder, config, start))
        elif opt.log_writer == "wandb":
            sinks.append(WandB(opt, config))
    except OSError as error:
        raise unwritable(folder, error) from error
    return Writer(*sinks)


class JsonLines:
    """One JSON object a line: {"step": iteration, "time": seconds since 1970, KEY: number or null, ...}.

    Values that are not finite are null. Lines are added at the end: after a resume some steps may come twice,
    the later line counts. What a crash left of a last line is cut off.
    """

    def __init__(self, path: Path) -> None:
        self.where = str(path)
        self._file = path.open("a", encoding="ascii")
        os.truncate(path, path.read_bytes().rfind(b"\n") + 1)

    def add_scalars(self, step: int, values: Mapping[str, float]) -> None:
        numbers = {key: value if math.isfinite(value) else None for key, value in values.items()}
        entry = {"step": int(step), "time": round(time.time(), 3), **numbers}
        self._file.write(json.dumps(entry) + "\n")
        self._file.flush()

    def add_image(self, step: int, key: str, image: np.ndarray) -> None:
        """Only curves lie here."""

    def close(self, failed: bool) -> None:
        self._file.close()


class TensorBoard:
    """TensorBoard event files in `folder`; takes images as uint8 [H,W,3]."""

    def __init__(self, folder: Path, config: Mapping[str, Any], start: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.where = f"tensorboard --logdir {folder}"
        threading.excepthook = _without_event_files
        # What an earlier run logged at the iteration of its last checkpoint is not logged again.
        self._writer = SummaryWriter(str(folder), purge_step=start + 1 if start else 0, flush_secs=10)
        lines = "\n".join(f"    {key}: {value}" for key, value in config.items())  # Markdown: four spaces keep them
        text = lines.encode("utf-8", "backslashreplace").decode()  # a path may not be UTF-8
        self._writer.add_text("options", text, start)

    def add_scalars(self, step: int, values: Mapping[str, float]) -> None:
        for key, value in values.items():
            self._writer.add_scalar(key, value, step)

    def add_image(self, step: int, key: str, image: np.ndarray) -> None:
        self._writer.add_image(key, image, step, dataformats="HWC")

    def close(self, failed: bool) -> None:
        self._writer.close()


def _without_event_files(what: Any) -> None:
    """No traceback where TensorBoard's thread cannot write: the next call says so."""
    if not type(what.thread).__module__.startswith("tensorboard."):
        threading.__excepthook__(what)


class WandB:
    """A run of W&B's project i2sb, files in LOG_DIR/wandb; takes images as uint8 [H,W,3].

    The key is that of WANDB_API_KEY or ~/.netrc; WANDB_MODE=offline needs none.
    """

    def __init__(self, opt: Any, config: Mapping[str, Any]) -> None:
        import wandb

        try:
            self._run = wandb.init(
                project="i2sb",
                entity=opt.wandb_user,
                name=opt.name,
                dir=str(opt.log_dir),
                config=json.loads(json.dumps(config, default=str)),
                settings=wandb.Settings(console="off", silent=True),  # log.txt has what is printed
            )
        except Exception as error:  # of many kinds, some of several lines
            places = "--wandb-api-key, the variable WANDB_API_KEY or ~/.netrc (written by `wandb login`)"
            hint = f"check the connection and the key ({places}), or set WANDB_MODE=offline"
            raise UserError(f"--log-writer wandb: {one_line(error, 300)}; {hint}") from error
        self._image = wandb.Image
        offline = f"offline, send it by: wandb sync {Path(self._run.dir).parent}"
        self.where = offline if self._run.offline else self._run.url

    def add_scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def add_image(self, step: int, key: str, image: np.ndarray) -> None:
        self._run.log({key: self._image(image)}, step=step)

    def close(self, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))
