"""Data that do not come, and terminals that go: what is done is saved."""

import contextlib
import fcntl
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import termios
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from processes import ROOT, free_port, is_alive, until
from small_runs import iteration, train_argv
from torch.utils.data import Dataset

import train
from i2sb import loader
from i2sb.errors import UserError
from i2sb.runner import Runner

needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")


def loaders(pid: int) -> list[int]:
    """The processes that load images for a training and its ranks."""
    found = []
    for child in map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()):
        if b"resource_tracker" not in Path(f"/proc/{child}/cmdline").read_bytes():
            found += loaders(child) or [child]
    return found


@needs_proc
@pytest.mark.parametrize(("ranks", "name"), [(1, "SIGTERM"), (2, "SIGUSR1")])
def test_a_loader_that_hangs_does_not_keep_a_signal_from_saving(dataset, warm, ranks, name):
    """With two ranks, one of them has its data, and all processes get the signal, as from SLURM."""
    flags = ["--num-itr", "100000", "--num-workers", "1", "--n-gpu-per-node", ranks, "--microbatch", "1"]
    run = warm("train", train_argv(dataset, *flags))
    run.until("[Train] 3/")
    stuck = loaders(run.pid)
    assert len(stuck) == ranks
    os.kill(stuck[-1], signal.SIGSTOP)
    lines = ""
    while lines != (lines := run.said()):
        time.sleep(1)
    (os.killpg if ranks == 2 else os.kill)(run.pid, getattr(signal, name))
    assert run.wait()[0] == 0, run.said()
    assert f"{name}: stopped after iteration {iteration()} and saved" in run.said()
    until(lambda: not is_alive(stuck[-1]), 10)
    assert "Traceback" not in run.said()


def test_an_evaluation_whose_data_hang_does_not_keep_a_signal_from_saving(dataset, warm, tmp_path):
    hung = tmp_path / "hung"
    shutil.copytree(dataset, hung)
    run = warm("train", train_argv(hung, "--num-itr", "100000", "--eval-every", "20", "--eval-nfe", "1"))
    run.until("[Train] 1/")
    for path in hung.glob("val/*/*.png"):
        path.unlink()
        os.mkfifo(path)  # nobody writes into it: whoever opens it waits for ever
    run.until("[Eval] iteration 20")
    run.kill(signal.SIGTERM, 1)
    assert run.wait()[0] == 0, run.said()
    assert "SIGTERM: stopped after iteration 20 and saved" in run.said()
    assert iteration() == 20


def test_a_terminal_that_is_lost(dataset):
    ours, theirs = os.openpty()
    os.set_blocking(ours, False)
    terminal = {"start_new_session": True, "preexec_fn": lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0)}
    flags = ["--num-itr", "100000", "--save-every", "100000"]
    command = [sys.executable, ROOT / "train.py", *train_argv(dataset, *flags)]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, **terminal)
    os.close(theirs)
    log = Path(".log/sr4x-pool/log.txt")

    def third_iteration():
        with contextlib.suppress(BlockingIOError):
            os.read(ours, 2**16)  # nobody can write to a terminal that is full
        return log.is_file() and "[Train] 3/" in log.read_text()

    try:
        until(third_iteration)
    finally:
        os.close(ours)
    assert process.wait(timeout=60) == 0
    assert f"SIGHUP: stopped after iteration {iteration()} and saved" in log.read_text()


def test_nohup(dataset, monkeypatch):
    training_loss = Runner.training_loss

    def hung_up(*args):
        os.kill(os.getpid(), signal.SIGHUP)
        return training_loss(*args)

    monkeypatch.setattr(Runner, "training_loss", hung_up)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert train.main(train_argv(dataset, "--num-itr", "3")) == 0
    finally:
        signal.signal(signal.SIGHUP, before)
    assert iteration() == 3


class Slow(Dataset):
    """One item that comes late."""

    def __getitem__(self, index):
        late.wait(10)
        return index


late = threading.Event()


def test_a_loader_that_says_nothing_is_said(monkeypatch, caplog):
    monkeypatch.setattr(loader, "SILENCE", 0.1)
    monkeypatch.setattr(logging.getLogger("i2sb"), "propagate", True)
    batches = loader.ordered_loader(Slow(), [[3]], num_workers=0)
    threading.Timer(0.5, late.set).start()
    assert [batch.tolist() for batch in batches] == [[3]]
    assert {line.partition("since")[0] for line in caplog.messages} == {"[Data] no images "}


def test_a_folder_for_sockets_that_is_too_long(tmp_path, monkeypatch):
    late.set()
    folder = tmp_path / ("x" * 100)
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    with pytest.raises(UserError, match=r"^TMPDIR .*x: too long for the sockets of --num-workers"):
        list(loader.ordered_loader(Slow(), [[0]], num_workers=1))
    assert len(list(loader.ordered_loader(Slow(), [[0]], num_workers=0))) == 1


@pytest.mark.parametrize(("size", "reason"), [("4k", "these processes cannot be started"), ("64k", "/dev/shm is full")])
def test_a_full_shared_memory(dataset, warm, size, reason):
    argv = train_argv(dataset, "--num-itr", "4", "--num-workers", "2")
    run = warm("train", argv, f"unshared('mount -t tmpfs -o size={size} none /dev/shm')")
    code, last = run.wait()
    if "unshare" in last or "CalledProcessError" in last:
        pytest.skip("no namespaces here")
    assert code == 2
    assert "Traceback" not in run.said()
    assert last.startswith(f"train.py: error: --num-workers 2: {reason}")
    assert "--shm-size" in last


def test_ranks_with_other_pixels(warm, tmp_path):
    """One file of the same name and size."""
    pixels, flags = np.zeros((40, 32, 32, 3), np.uint8), ["--num-proc-node", "2", "--master-port", free_port()]
    ranks = []
    for rank in (0, 1):
        folder = tmp_path / str(rank)
        for number, image in enumerate(pixels):
            (folder / "train/a").mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / f"train/a/{number}.bmp")
        ranks.append(warm("train", train_argv(folder, *flags, "--node-rank", rank, "--name", "same")))
        pixels[7, 0, 0, 0] = 1
    last = "train.py: error: rank 1: has other images than rank 0 in --dataset-dir; give every node the same"
    assert [rank.wait() for rank in ranks] == [(2, last)] * 2


def test_an_evaluation_leaves_the_workers_of_the_training_alone(dataset):
    argv = train_argv(dataset, "--num-itr", "3", "--num-workers", "1", "--eval-every", "1", "--eval-nfe", "1")
    assert train.main(argv) == 0
