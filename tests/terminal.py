"""What a person sees: a Python process whose standard error is a real terminal (a pseudo-terminal)."""

import contextlib
import os
import pty
import re
import subprocess
import sys

from processes import ROOT

_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def on_terminal(code: str, *args: object) -> tuple[str, str]:
    """Run `code`; what its standard error shows on the terminal, without colours, and its standard output."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "120", "LINES": "40"}
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        environment.pop(name, None)
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, args)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
    )
    os.close(theirs)
    seen = b""
    with contextlib.suppress(OSError):  # how Linux says that the other side is closed
        while piece := os.read(ours, 65536):
            seen += piece
    os.close(ours)
    out = process.communicate(timeout=60)[0]
    shown = _CONTROL.sub("", seen.decode("utf-8", "replace"))
    assert process.returncode == 0, shown + out
    return shown, out
