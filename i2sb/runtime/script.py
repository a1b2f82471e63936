"""How the entry scripts end: one line and an exit code, or a debugger where the error happened."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from i2sb.errors import EndedElsewhere, SomeFailed, UserError, one_line, printable

# What a training saves for: of people, schedulers, limits, and of a terminal that is lost.
SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP, signal.SIGXCPU]

# How the loader of libraries, the system, Python's threads and oneDNN say that there is no memory.
_NO_MEMORY = ("failed to map segment", "Cannot allocate memory", "cannot allocate memory", "can't start new thread")
_NO_MEMORY += ("could not create a primitive",)


def run_script(name: str, work: Callable[[], int], debug: bool = False) -> int:
    """The exit code of `work()`; an error of `short_report` is its one line on stderr.

    name: of the script, for the message.  debug: open ipdb at the place of any error.
    """
    print_anything()
    try:
        code = work()
        with printing():  # what Python holds back is written now: as it ends, nothing could be said of it
            return code
    except BaseException as error:
        if debug and not isinstance(error, KeyboardInterrupt | SystemExit):
            import ipdb

            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            ipdb.post_mortem(error.__traceback__)
            return 1
        report = short_report(name, error)
        if report is None:
            raise
        print(report[0], file=sys.stderr)
        return report[1]


def short_report(name: str, error: BaseException) -> tuple[str, int] | None:
    """(line, exit code) for an error that needs no traceback; None for any other."""
    if isinstance(error, KeyboardInterrupt):
        return f"{name}: interrupted", 130  # what shells give for Ctrl-C
    if isinstance(error, UserError | EndedElsewhere | SomeFailed):
        return f"{name}: error: {printable(error)}", 2 if isinstance(error, UserError) else 1
    text = one_line(error, 200)
    if isinstance(error, MemoryError) or any(words in text for words in _NO_MEMORY):
        return f"{name}: error: no memory is left, or `ulimit -v` grants no more: {text or 'MemoryError'}", 2
    if "No usable temporary directory" in text:
        return f"{name}: error: no folder for temporary files can be written to; TMPDIR names another", 2
    return None


def print_anything() -> None:
    """From now on characters that the terminal's encoding lacks (ASCII, Latin-1) are printed as escapes: \\u2192."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed: what is printed goes nowhere, and into no file that is opened next
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


@contextlib.contextmanager
def printing() -> Iterator[None]:
    """A UserError where what the block prints cannot be written: standard output is a file on a full disk."""
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python would try again as it ends
        raise UserError(f"standard output: {error.strerror}; not all is shown, the files are written") from error


def say(text: object) -> None:
    """Print a line on standard output; see `printing`."""
    with printing():
        print(text)


@contextlib.contextmanager
def on_signals(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """`handler` gets SIGNALS while the block runs, but for what nohup ignores; only the main thread can do that."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ignored = {signal.SIGHUP} if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else set()
    before = {number: signal.signal(number, handler) for number in SIGNALS if number not in ignored}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)


@contextlib.contextmanager
def signals_held() -> Iterator[None]:
    """Signals wait until the block has ended: one in the middle of importing torch aborts the process."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def explained(opt: Any, *, smaller: str) -> Iterator[None]:
    """Errors of libraries that a user can do something about, as UserErrors; lowering `smaller` saves GPU memory."""
    import torch

    try:
        yield
    except Exception as error:
        text = one_line(error, 200)
        if isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in str(error):
            raise UserError(f"{opt.device} is out of memory: lower {smaller} ({text})") from error
        last = one_line(str(error).strip().rpartition("\n")[2], 200)
        if "shared memory" in last or "</torch_" in last:
            raise UserError(
                f"--num-workers {opt.num_workers}: /dev/shm is full: --num-workers 0 does without it, and docker run "
                f"--shm-size=8g makes it larger ({last})"
            ) from error
        if "DataLoader worker (pid" in str(error):  # not an error that a worker has met and handed on
            raise UserError(
                f"--num-workers {opt.num_workers}: a process that loads images has died, perhaps out of memory: "
                f"lower it ({text})"
            ) from error
        if getattr(opt, "compile", False) and type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise UserError(f"--compile: torch cannot compile the network here, leave it out ({text})") from error
        raise
