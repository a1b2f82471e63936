"""What a run says: on the screen, and in LOG_DIR/NAME/log.txt; never a secret."""

from __future__ import annotations

import errno
import logging
import os
import stat
import sys
from pathlib import Path
from typing import Any, TextIO

from i2sb.errors import UserError
from i2sb.safe_pickle import is_secret

MASK = "***"
_SHORTEST_SECRET = 4
_secrets: set[str] = set()


def hide_secret(value: str | None) -> None:
    """From now on `value` reads *** in all that the loggers and `redact` give out.

    None and texts of fewer than 4 characters are ignored: hiding each "1" would make the log unreadable.
    """
    if value and len(str(value).strip()) >= _SHORTEST_SECRET:
        _secrets.add(str(value).strip())


def redact(text: str) -> str:
    """`text` with every hidden secret as ***."""
    for secret in sorted(_secrets, key=len, reverse=True):  # a secret may be a part of a longer one
        text = text.replace(secret, MASK)
    return text


def run_folder(log_dir: str | os.PathLike, name: str) -> Path:
    """LOG_DIR/NAME, made when missing.

    Raises:
        UserError: it cannot be made.
    """
    folder = Path(log_dir) / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from error
    return folder


def unwritable(path: str | os.PathLike, error: OSError) -> UserError:
    """The one line for a log folder or file that cannot be written."""
    return UserError(f"--log-dir: {path} cannot be written: {error.strerror or error}; choose another --log-dir")


def build_logger(
    log_dir: str | os.PathLike, name: str, rank: int = 0, resumed: bool = False, console: bool = True
) -> logging.Logger:
    """The logger of a run; it takes the place of the one that was built before in this process.

    Rank 0 writes to standard error (if `console`; plain lines where that is no terminal) and to the end of
    LOG_DIR/NAME/log.txt, where a first line tells that the run started or resumed. The other ranks write no
    file, and only warnings and errors to standard error, each with the rank before it.

    Raises:
        UserError: the log folder or file cannot be written.
    """
    handlers: list[logging.Handler] = []
    if rank == 0:
        path = run_folder(log_dir, name) / "log.txt"
        handlers.append(_log_file(path))
        if console:
            handlers.append(_screen())
    else:
        handlers.append(_other_rank(rank))

    log = logging.getLogger("i2sb")
    log.setLevel(logging.INFO)
    log.propagate = False  # a library that sets up the root logger must not print all lines a second time
    for handler in list(log.handlers):
        log.removeHandler(handler)
        handler.close()
    for handler in handlers:
        log.addHandler(handler)
    if rank == 0:
        log.info("%s %s, log file %s", "resumed" if resumed else "started", name, path)
    return log


def of_all_ranks(log: Any, rank: int) -> Any:
    """The logger for what every rank would say alike: rank 0 says it, the others' drops it."""
    if rank == 0:
        return log
    silent = logging.getLogger("i2sb.silent")
    silent.propagate = False
    if not silent.handlers:
        silent.addHandler(logging.NullHandler())
    return silent


def log_options(log: Any, opt: Any) -> None:
    """One block with all options of `opt` (a namespace), one a line; secrets as ***, and hidden from now on."""
    options = dict(vars(opt))
    for name, value in options.items():
        if is_secret(name) and value is not None:
            hide_secret(value)
            options[name] = MASK
    width = max(map(len, options), default=0)
    log.info("\n".join(["options:", *(f"  {name:<{width}}  {value}" for name, value in options.items())]))


class _HidingFormatter(logging.Formatter):
    """Masks the finished text, so that arguments, tracebacks and lines of child loggers are covered as well."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


class _LogFile(logging.FileHandler):
    """A log file whose disk may fill up: that is said once, and the run goes on."""

    _failed = False

    def _open(self) -> TextIO:
        return open(self.baseFilename, self.mode, encoding=self.encoding, errors=self.errors, opener=_open_file)

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._failed:
            self._failed = True
            print(f"{self.baseFilename}: cannot be written: {error.strerror}; going on", file=sys.stderr)


def _open_file(path: str, flags: int) -> int:
    """Open what is or becomes a file of its own.

    A link in a folder from somewhere else may lead to any file of the user's, and a pipe would make us wait.
    """
    if os.path.lexists(path) and not stat.S_ISREG(os.lstat(path).st_mode):
        raise OSError(errno.EINVAL, "it is no file but a link, a pipe or a directory; remove it")
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def _log_file(path: Path) -> logging.Handler:
    try:
        handler = _LogFile(path, encoding="utf-8", errors="backslashreplace")
        if path.stat().st_size:
            handler.stream.write("\n")  # sets this start apart, and ends a line that a crash has cut
    except OSError as error:
        raise unwritable(path, error) from error
    handler.setFormatter(_HidingFormatter("%(asctime)s %(levelname)s %(message)s"))
    return handler


def _screen() -> logging.Handler:
    from i2sb.runtime.console import console

    if not console().is_terminal:  # rich would break lines at 80 characters there
        return _plain("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S")
    from rich.highlighter import NullHighlighter
    from rich.logging import RichHandler

    handler = RichHandler(
        console=console(),
        show_path=False,
        markup=False,
        highlighter=NullHighlighter(),
        log_time_format="%H:%M:%S",
    )
    handler.setFormatter(_HidingFormatter("%(message)s"))
    return handler


def _other_rank(rank: int) -> logging.Handler:
    handler = _plain(f"[rank {rank}] %(levelname)s %(message)s")
    handler.setLevel(logging.WARNING)
    return handler


def _plain(form: str, times: str | None = None) -> logging.Handler:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_HidingFormatter(form, times))
    return handler
