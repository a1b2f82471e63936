"""The one console that log lines and progress bars share, so that lines appear above a running bar."""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


@functools.cache
def console() -> Console:
    """The rich console on standard error of this process."""
    from rich.console import Console  # rich costs a tenth of a second, --help does without

    return Console(stderr=True)


def print_anything() -> None:
    """From now on characters that the terminal's encoding lacks (ASCII, Latin-1) are printed as escapes: \\u2192."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
