"""The log of a run, on the screen and in its file, for rank 0 and for others; progress bars beside it."""

import argparse
import contextlib
import logging
import os
import pty
import re
import subprocess
import sys

import pytest
from processes import ROOT, as_child, names, readonly_folder

from i2sb.errors import UserError
from i2sb.runtime.logger import build_logger, log_options
from i2sb.runtime.progress import Progress

_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
TRAIN = """
import sys, time
from pathlib import Path
from i2sb.runtime.logger import build_logger
from i2sb.runtime.progress import Progress
log = build_logger(Path(sys.argv[1]))
with Progress("training", total=400, done=100, text="100/400") as bar:
    for iteration in (110, 120, 130):
        time.sleep(0.3)
        bar.update(iteration, f"{iteration}/400  loss 0.125")
        log.info("iteration %d", iteration)
    with Progress("evaluation", total=None) as inner:
        for done in range(3):
            time.sleep(0.3)
            inner.update(done, f"{done} of 7", total=7)
print("to the pipe")
"""


def on_terminal(code: str, *args: object) -> tuple[str, str]:
    """Run `code` on a pseudo-terminal: what its standard error shows there, without colours; and its output."""
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


START = """
import os, sys
from pathlib import Path
from i2sb.runtime.logger import build_logger
folder = Path(sys.argv[1], "a")
"""


@pytest.fixture(autouse=True)
def _no_handlers_left():
    yield
    for handler in list(logging.getLogger("i2sb").handlers):
        logging.getLogger("i2sb").removeHandler(handler)
        handler.close()


def run(code: str, *args: object, **variables: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", code, *map(str, args)]
    return subprocess.run(command, cwd=ROOT, env=os.environ | variables, capture_output=True, timeout=60)


def test_on_a_terminal_rich_shows_the_lines_without_reading_markup(tmp_path):
    shown, _ = on_terminal(START + "build_logger(folder).error('[red]x[/red] %d', 7)", tmp_path)
    assert "ERROR" in shown
    assert "[red]x[/red] 7" in shown


def test_a_resume_is_appended_and_marked_and_without_a_terminal_lines_are_plain(tmp_path, capsys):
    build_logger(tmp_path / "a").info("one %s", "x" * 300)
    with (tmp_path / "a" / "log.txt").open("a") as file:
        file.write("torn li")
    build_logger(tmp_path / "a", resumed=True).warning("two [bold]not markup[/bold]")
    lines = (tmp_path / "a" / "log.txt").read_text().splitlines()
    assert lines.pop(2) == "torn li"
    shown = capsys.readouterr()
    assert [line.split(" ", 1)[1] for line in shown.err.splitlines()] == [line.split(" ", 2)[2] for line in lines]
    assert [line.split()[3:5] for line in lines] == [
        ["started", "a,"],
        ["one", "x" * 300],
        ["resumed", "a,"],
        ["two", "[bold]not"],
    ]
    assert shown.out == ""


def test_other_ranks_write_no_file_and_warnings_only(tmp_path):
    code = START + "log = build_logger(folder, rank=3); log.info('quiet'); log.warning('w %d', 1); log.error('e')"
    assert run(code, tmp_path).stderr.splitlines() == [b"[rank 3] WARNING w 1", b"[rank 3] ERROR e"]
    assert names(tmp_path) == []


def test_a_folder_or_file_that_cannot_be_written_is_one_line(tmp_path):
    with readonly_folder() as folder:
        answer = as_child(lambda: build_logger(folder / "new"), no_root=True)
    assert answer.startswith(f"UserError: {folder}/new/log.txt: cannot be written: Permission denied; ")
    assert "\n" not in answer
    (tmp_path / "a" / "log.txt").mkdir(parents=True)
    with pytest.raises(UserError, match=r"/a/log\.txt: cannot be written: .*directory"):
        build_logger(tmp_path / "a")


def test_a_full_disk_is_said_once_and_the_run_continues(tmp_path):
    code = (
        START + "log = build_logger(folder)\n"
        "os.dup2(os.open('/dev/full', os.O_WRONLY), log.handlers[0].stream.fileno())\n"
        "log.info('one'); log.info('two')"
    )
    done = run(code, tmp_path)
    assert done.returncode == 0
    said = done.stderr.decode()
    assert said.count("log.txt: cannot be written: [Errno 28] No space left on device; the run continues") == 1
    assert [line.split()[-1] for line in said.splitlines() if " INFO " in line][-2:] == ["one", "two"]
    assert "Traceback" not in said


def test_any_text_is_printed_in_any_encoding(tmp_path):
    code = (
        START + "from i2sb.runtime.script import run_script\n"
        "def work():\n"
        "    from rich.table import Table; from rich.console import Console\n"
        "    print('é → \\udcff'); build_logger(folder).info('\\u0416 → \\udcff')\n"
        "    table = Table('dB ↑'); table.add_row('Жук'); Console().print(table)\n"
        "    return 0\n"
        "sys.exit(run_script('x.py', work))"
    )
    done = run(code, tmp_path, PYTHONIOENCODING="latin-1", PYTHONUTF8="0")
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode("latin-1").startswith("é \\u2192 \\udcff")
    assert b"INFO \\u0416 \\u2192 \\udcff" in done.stderr
    assert "\u0416 → \\udcff" in (tmp_path / "a" / "log.txt").read_text("utf-8")


def test_all_options_but_the_key_are_listed(tmp_path):
    opt = argparse.Namespace(lr=5e-5, corrupt="sr4x-pool", wandb_api_key="0123", wandb_user=None)
    log_options(build_logger(tmp_path / "a"), opt)
    text = (tmp_path / "a" / "log.txt").read_text()
    shown = dict(line.split() for line in text.splitlines() if line.startswith("  "))
    assert shown == {"lr": "5e-05", "corrupt": "sr4x-pool", "wandb_user": "None"}


# --- progress bars


def test_a_bar_shows_text_and_time_left_below_the_log_lines(tmp_path):
    shown, out = on_terminal(TRAIN, tmp_path)
    assert "100/400" in shown
    assert re.search(r"training .*130/400 +loss 0\.125 +0:00:\d\d left", shown)
    for iteration in (110, 120, 130):
        lines = [line for line in re.split(r"[\r\n]+", shown) if f"iteration {iteration}" in line]
        assert len(lines) == 1
        assert "training" not in lines[0]
    assert re.search(r"evaluation .*2 of 7", shown)  # a second bar may run inside
    assert out == "to the pipe\n"


def test_no_bar_on_other_ranks():
    code = "from i2sb.runtime.progress import Progress\nwith Progress('x', 3, shown=False) as bar: bar.advance()"
    assert on_terminal(code) == ("", "")


def test_no_bar_without_a_terminal(capfd):
    with Progress("x", 3) as bar:
        bar.update(1, "text")
        bar.advance(2)
    assert capfd.readouterr() == ("", "")
