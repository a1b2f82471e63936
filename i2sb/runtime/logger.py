"""What a run logs: on the screen, and in LOG_DIR/NAME/log.txt."""

from __future__ import annotations

import functools
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from i2sb.runtime.files import unwritable

if TYPE_CHECKING:
    from rich.console import Console


@functools.cache
def console() -> Console:
    """The one rich console on standard error: log lines appear above a running progress bar."""
    from rich.console import Console  # rich costs a tenth of a second, --help does without

    return Console(stderr=True)


def build_logger(folder: Path | None, rank: int = 0, resumed: bool = False) -> logging.Logger:
    """The logger of a run; it takes the place of the one that was built before in this process.

    Rank 0 writes to standard error (plain lines where that is no terminal) and to the end of `folder`/log.txt, where a
    first line says that the run started or resumed. The other ranks write no file, and only warnings and errors to
    standard error, each with the rank before it.  Without a folder there is no file.
    """
    path = None if folder is None or rank else folder / "log.txt"
    handlers = [_screen()] if rank == 0 else [_plain(f"[rank {rank}] %(levelname)s %(message)s")]
    if path is not None:
        handlers.insert(0, _log_file(path))

    log = logging.getLogger("i2sb")
    log.setLevel(logging.DEBUG if rank == 0 else logging.WARNING)
    log.propagate = False  # a library that sets up the root logger must not print all lines a second time
    for handler in list(log.handlers):
        log.removeHandler(handler)
        handler.close()
    for handler in handlers:
        log.addHandler(handler)
    if path is not None:
        log.info("%s %s, log file %s", "resumed" if resumed else "started", folder.name, path)
    return log


def of_all_ranks(log: Any, rank: int) -> Any:
    """The logger for what every rank would log alike: that of rank 0, a silent one on the others."""
    return log if rank == 0 else logging.Logger("silent", logging.CRITICAL + 1)


def log_options(log: Any, opt: Any) -> None:
    """One block in the log file alone: all options of `opt` (a namespace) but the W&B key, one a line."""
    options = {name: value for name, value in vars(opt).items() if name != "wandb_api_key"}
    width = max(map(len, options))
    log.debug("\n".join(["options:", *(f"  {name:<{width}}  {value}" for name, value in options.items())]))


class _LogFile(logging.FileHandler):
    """A log file whose disk may fill up: the screen says so once, and the run continues."""

    _failed = False

    def handleError(self, record: logging.LogRecord) -> None:
        if not self._failed:
            self._failed = True
            print(f"{self.baseFilename}: cannot be written: {sys.exc_info()[1]}; the run continues", file=sys.stderr)


def _log_file(path: Path) -> logging.Handler:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = _LogFile(path, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise unwritable(path, error) from error
    if path.stat().st_size:
        handler.stream.write("\n")  # sets this start apart, and ends a line that a crash has cut
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    return handler


def _screen() -> logging.Handler:
    if not console().is_terminal:  # rich would break lines at 80 characters there
        return _plain("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S")
    from rich.highlighter import NullHighlighter
    from rich.logging import RichHandler

    plain = {"show_path": False, "markup": False, "highlighter": NullHighlighter(), "log_time_format": "%H:%M:%S"}
    return RichHandler(logging.INFO, console=console(), **plain)


def _plain(form: str, times: str | None = None) -> logging.Handler:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(form, times))
    handler.setLevel(logging.INFO)  # options are for the log file
    return handler
