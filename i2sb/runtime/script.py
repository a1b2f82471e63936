"""How the entry scripts end: an error is one line and an exit code, or a debugger where it happened."""

from __future__ import annotations

import sys
from collections.abc import Callable

from i2sb.errors import UserError, printable

INTERRUPTED = 130  # what shells give for Ctrl-C


def run_script(name: str, work: Callable[[], int], debug: bool = False) -> int:
    """The exit code of `work()`; an error that a user can put right is one line on stderr and code 2.

    Args:
        name: of the script, for the message.
        debug: open ipdb at the place of any error.
    """
    try:
        return work()
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BaseException as error:
        if debug and not isinstance(error, SystemExit):
            return _inspect(error)
        if isinstance(error, UserError):
            print(f"{name}: error: {printable(error)}", file=sys.stderr)
            return 2
        raise


def _inspect(error: BaseException) -> int:
    import ipdb

    print(f"{type(error).__name__}: {error}", file=sys.stderr)
    ipdb.post_mortem(error.__traceback__)
    return 1
