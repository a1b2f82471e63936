"""How the entry scripts end: an error is one line and an exit code, or a debugger where it happened."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator

from i2sb.errors import UserError, printable
from i2sb.runtime.children import EndedElsewhere
from i2sb.runtime.console import print_anything

INTERRUPTED = 130  # what shells give for Ctrl-C


def run_script(name: str, work: Callable[[], int], debug: bool = False) -> int:
    """The exit code of `work()`; an error that a user can put right is one line on stderr and code 2.

    Args:
        name: of the script, for the message.
        debug: open ipdb at the place of any error.
    """
    print_anything()
    try:
        return work()
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BaseException as error:
        if debug and not isinstance(error, SystemExit):
            return _inspect(error)
        if isinstance(error, UserError | EndedElsewhere):
            print(f"{name}: error: {printable(error)}", file=sys.stderr)
            return 2 if isinstance(error, UserError) else 1
        raise


@contextlib.contextmanager
def ending_quietly(name: str, rank: int = 0) -> Iterator[None]:
    """SIGTERM and SIGUSR1 end the block, and the program, with code 0: a training has nothing to save yet.

    Args:
        name: of the script, for the one line that tells it.
        rank: of this process; rank 0 tells it.
    """
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name)]

    def end(number: int, frame: object) -> None:
        if rank == 0:
            told = f"{name}: {signal.Signals(number).name}: ended outside of the iterations, nothing new to save"
            print(told, file=sys.stderr)
        raise SystemExit(0)

    if threading.current_thread() is not threading.main_thread():  # handlers belong to the main thread
        yield
        return
    before = {number: signal.signal(number, end) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _inspect(error: BaseException) -> int:
    import ipdb

    print(f"{type(error).__name__}: {error}", file=sys.stderr)
    ipdb.post_mortem(error.__traceback__)
    return 1
