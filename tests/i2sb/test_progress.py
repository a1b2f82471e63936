"""The progress bar: what a terminal shows, beside log lines, and nothing where there is no terminal."""

import re

from terminal import on_terminal

from i2sb.runtime.progress import Progress

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


def test_output_to_a_file_stays_out_of_the_terminal():
    code = "from i2sb.runtime.progress import Progress\nwith Progress('x', 3) as bar: print('result'); bar.update(1)"
    shown, out = on_terminal(code)
    assert out == "result\n"
    assert "result" not in shown


def test_no_bar_on_other_ranks():
    code = "from i2sb.runtime.progress import Progress\nwith Progress('x', 3, shown=False) as bar: bar.advance()"
    assert on_terminal(code) == ("", "")


def test_no_bar_without_a_terminal(capfd):
    with Progress("x", 3) as bar:
        bar.update(1, "text")
        bar.advance(2)
    assert capfd.readouterr() == ("", "")
