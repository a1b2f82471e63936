"""The progress bars: what a terminal shows, beside log lines, and nothing where there is no terminal."""

import re

from terminal import on_terminal

from i2sb.runtime.progress import SampleProgress, TrainProgress

TRAIN = """
import sys, time
from i2sb.runtime.logger import build_logger
from i2sb.runtime.progress import TrainProgress, track
log = build_logger(sys.argv[1], "a")
with TrainProgress(total=400, start=100) as bar:
    for iteration in range(110, 160, 10):
        time.sleep(0.3)
        bar.update(iteration, loss=0.125, images_per_second=42.5)
        log.info("iteration %d", iteration)
    for _ in track(range(3), "evaluation"):
        time.sleep(0.3)
print("to the pipe")
"""


def test_training_shows_iteration_loss_speed_and_time_left(tmp_path):
    shown, out = on_terminal(TRAIN, tmp_path)
    assert "training" in shown
    assert "100/400" in shown
    assert re.search(r"150/400 +loss 0\.125 +42\.5 images/s +0:00:\d\d left", shown)
    for iteration in range(110, 160, 10):
        lines = [line for line in re.split(r"[\r\n]+", shown) if f"iteration {iteration}" in line]
        assert len(lines) == 1
        assert "training" not in lines[0]
    assert re.search(r"evaluation .*100%", shown)  # a second bar may run inside
    assert out == "to the pipe\n"


def test_output_to_a_file_stays_out_of_the_terminal(tmp_path):
    code = (
        "from i2sb.runtime.progress import TrainProgress\nwith TrainProgress(3) as bar: print('result'); bar.update(1)"
    )
    shown, out = on_terminal(code)
    assert out == "result\n"
    assert "result" not in shown


SAMPLE = """
import time
from i2sb.runtime.progress import SampleProgress
with SampleProgress(num_images=40, nfe=4, batch_size=16, done=16) as bar:
    for count in (16, 8):
        for _ in range(4):
            time.sleep(0.15)
            bar.step()
        if count == 16:
            time.sleep(0.3)
        bar.images(count)
    time.sleep(0.3)
"""


def test_sampling_shows_images_step_and_time_left():
    shown, _ = on_terminal(SAMPLE)
    assert "16/40 images  NFE 0/4" in shown
    assert re.search(r"16/40 images  NFE [1-3]/4", shown)
    assert "16/40 images  NFE 4/4" in shown
    assert re.search(r"32/40 images  NFE [0-3]/4 0:00:0\d left", shown)
    assert "40/40 images" in shown


def test_a_hidden_bar_says_nothing_and_loads_no_rich():
    code = (
        "import sys; from i2sb.runtime.progress import SampleProgress, TrainProgress\n"
        "with TrainProgress(3, shown=False) as a, SampleProgress(2, 1, shown=False) as b:\n"
        "    a.update(1, 0.5, 2.0); b.step(); b.images(2)\n"
        "print(any(name.partition('.')[0] == 'rich' for name in sys.modules))"
    )
    shown, out = on_terminal(code)
    assert shown == ""
    assert out == "False\n"


def test_no_bar_without_a_terminal(capfd, monkeypatch):
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    with TrainProgress(3) as bar, SampleProgress(4, 2) as samples:
        bar.update(1, loss=0.5, images_per_second=2.0)
        samples.step()
        samples.images(4)
    assert capfd.readouterr() == ("", "")
    assert bar.iteration == 1
    assert (samples.done, samples.steps) == (4, 0)
