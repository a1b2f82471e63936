"""The log of a run: on the screen and in its file, for rank 0 and for others, and never with a secret."""

import argparse
import contextlib
import logging
import subprocess
import sys

import hostile
import pytest
from processes import ROOT, as_child, names, readonly_folder
from terminal import on_terminal

from i2sb.errors import UserError
from i2sb.runtime import logger
from i2sb.runtime.logger import build_logger, hide_secret, log_options, redact

KEY = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def _no_secrets_left():
    yield
    logger._secrets.clear()
    for handler in list(logging.getLogger("i2sb").handlers):
        logging.getLogger("i2sb").removeHandler(handler)
        handler.close()


def run(code: str, *args: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, args)], cwd=ROOT, capture_output=True, text=True, timeout=60
    )


def test_file_and_plain_lines_where_there_is_no_terminal(tmp_path):
    text = "x" * 300 + " [bold]not markup[/bold]"
    code = "import sys; from i2sb.runtime.logger import build_logger as b; b(sys.argv[1], 'a').info('%s', sys.argv[2])"
    done = run(code, tmp_path, text)
    first, second = done.stderr.splitlines()
    assert first.endswith(f"INFO started a, log file {tmp_path}/a/log.txt")
    assert second.endswith(f" INFO {text}")
    assert "\x1b" not in done.stderr
    assert done.stdout == ""
    in_file = (tmp_path / "a" / "log.txt").read_text().splitlines()
    assert [line.split(" ", 2)[2] for line in in_file] == [line.split(" ", 1)[1] for line in (first, second)]


def test_on_a_terminal_rich_shows_the_lines_without_reading_markup(tmp_path):
    code = (
        "import sys; from i2sb.runtime.logger import build_logger as b; b(sys.argv[1], 'a').error('[red]x[/red] %d', 7)"
    )
    shown, _ = on_terminal(code, tmp_path)
    assert "ERROR" in shown
    assert "[red]x[/red] 7" in shown


def test_a_resume_is_appended_and_marked(tmp_path):
    log = build_logger(tmp_path, "a", console=False)
    log.info("one")
    with (tmp_path / "a" / "log.txt").open("a") as file:
        file.write("torn li")
    log = build_logger(tmp_path, "a", resumed=True, console=False)
    log.warning("two")
    lines = (tmp_path / "a" / "log.txt").read_text().splitlines()
    assert [" ".join(line.split()[3:5]) for line in lines if "INFO" in line or "WARNING" in line] == [
        "started a,",
        "one",
        "resumed a,",
        "two",
    ]
    assert "torn li" in lines


def test_a_new_logger_takes_the_place_of_the_one_before(tmp_path):
    build_logger(tmp_path, "a", console=False)
    build_logger(tmp_path, "b", console=False).info("for b only")
    assert "for b only" not in (tmp_path / "a" / "log.txt").read_text()
    assert (tmp_path / "b" / "log.txt").read_text().count("for b only") == 1


def test_other_ranks_write_no_file_and_warnings_only(tmp_path):
    code = (
        "import sys; from i2sb.runtime.logger import build_logger; log = build_logger(sys.argv[1], 'a', rank=3)\n"
        "log.info('quiet'); log.warning('w %d', 1); log.error('e')"
    )
    done = run(code, tmp_path)
    assert done.stderr.splitlines() == ["[rank 3] WARNING w 1", "[rank 3] ERROR e"]
    assert names(tmp_path) == []


@pytest.mark.parametrize("name", ["new", "file/below"])
def test_an_unwritable_folder_is_one_line(name):
    with readonly_folder() as folder:
        answer = as_child(lambda: build_logger(folder, name, console=False), no_root=True)
    assert answer.startswith(f"UserError: --log-dir: {folder}/{name} cannot be written: ")
    assert "\n" not in answer


def test_a_folder_in_the_place_of_the_log_file_is_one_line(tmp_path):
    (tmp_path / "a" / "log.txt").mkdir(parents=True)
    with pytest.raises(UserError, match=r"^--log-dir: .*/a/log\.txt cannot be written: .*directory"):
        build_logger(tmp_path, "a", console=False)


@pytest.mark.parametrize("kind", ["link", "dangling", "pipe"])
def test_what_is_no_file_of_its_own_is_not_written_to(tmp_path, kind):
    """A folder of results from elsewhere may hold anything under the name of its log."""
    (tmp_path / "a").mkdir()
    (tmp_path / "mine").write_text("precious")
    path = tmp_path / "a" / "log.txt"
    with contextlib.ExitStack() as stack:
        if kind == "pipe":
            stack.enter_context(hostile.pipe(path))
        else:
            path.symlink_to(tmp_path / ("mine" if kind == "link" else "new"))
        reason = r"^--log-dir: .*/a/log\.txt cannot be written: it is no file but a link, a pipe"
        stack.enter_context(pytest.raises(UserError, match=reason))
        build_logger(tmp_path, "a", console=False)
    assert (tmp_path / "mine").read_text() == "precious"
    assert not (tmp_path / "new").exists()


def test_a_full_disk_is_said_once_and_the_run_goes_on(tmp_path):
    code = (
        "import os, sys; from i2sb.runtime.logger import build_logger; log = build_logger(sys.argv[1], 'a')\n"
        "os.dup2(os.open('/dev/full', os.O_WRONLY), log.handlers[0].stream.fileno())\n"
        "log.info('one'); log.info('two')"
    )
    done = run(code, tmp_path)
    assert done.returncode == 0
    assert done.stderr.count("No space left on device") == 1
    assert [line.split()[-1] for line in done.stderr.splitlines() if " INFO " in line][-2:] == ["one", "two"]
    assert "Traceback" not in done.stderr


# --- secrets


def _say_it_everywhere(log):
    log.info("the key is %s", KEY)
    log.warning({"key": KEY})
    log.getChild("below").info(f"child {KEY}")
    try:
        raise ValueError(f"cannot log in with {KEY}")
    except ValueError:
        log.exception("failed")


def test_a_secret_is_in_no_line_nor_traceback(tmp_path, capfd):
    hide_secret(KEY)
    _say_it_everywhere(build_logger(tmp_path, "a"))
    text = (tmp_path / "a" / "log.txt").read_text()
    screen = capfd.readouterr().err
    for shown in (text, screen):
        assert KEY not in shown
        assert "ValueError: cannot log in with ***" in shown
        assert shown.count("***") >= 4  # a traceback may show the source line too


def test_a_secret_is_not_on_a_terminal_nor_on_other_ranks(tmp_path):
    code = (
        "import sys; from i2sb.runtime.logger import build_logger, hide_secret\n"
        "hide_secret(sys.argv[2]); log = build_logger(sys.argv[1], 'a', rank=int(sys.argv[3]))\n"
        "log.error('key %s', sys.argv[2])\n"
        "try: raise ValueError(sys.argv[2])\n"
        "except ValueError: log.exception('failed')"
    )
    for rank in (0, 1):
        shown, _ = on_terminal(code, tmp_path, KEY, rank)
        assert KEY[:12] not in shown
        assert "key ***" in shown
        assert "ValueError: ***" in shown


def test_the_longer_of_two_secrets_leaves_no_tail():
    hide_secret("abcd")
    hide_secret("abcdefgh")
    assert redact("abcdefgh abcd abc") == "*** *** abc"


def test_nothing_and_very_short_texts_are_not_hidden():
    for value in (None, "", "   ", "1"):
        hide_secret(value)
    assert redact("1 1   1") == "1 1   1"


def test_all_options_are_listed_and_secrets_masked(tmp_path):
    opt = argparse.Namespace(lr=5e-5, corrupt="sr4x-pool", wandb_api_key=KEY, wandb_user=None, hub_token=None)
    log = build_logger(tmp_path, "a", console=False)
    log_options(log, opt)
    log.info("later: %s", KEY)
    text = (tmp_path / "a" / "log.txt").read_text()
    shown = dict(line.split() for line in text.splitlines() if line.startswith("  "))
    assert shown == {
        "lr": "5e-05",
        "corrupt": "sr4x-pool",
        "wandb_api_key": "***",
        "wandb_user": "None",
        "hub_token": "None",
    }
    assert "later: ***" in text
    assert opt.wandb_api_key == KEY
