"""Kills, signals, full disks and broken gradients: the last good checkpoint survives, and what happened is logged."""

import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from processes import largest_file, until
from small_runs import iteration, refusal, train_argv

import i2sb.training
import train
from i2sb.ckpt_util import load_checkpoint
from i2sb.errors import UserError


def kill_at_random(dataset, warm, rounds: int, seed: int = 0) -> int:
    """kill -9 at a random moment of a save; the next run resumes from there.  Returns how many were not finished."""
    draw = random.Random(seed)
    latest = Path("results/sr4x-pool/latest.pt")
    assert train.main(train_argv(dataset, "--num-itr", "1")) == 0
    last, unfinished = iteration(), 0

    def drafts():
        return list(latest.parent.glob(".*.tmp"))

    for _ in range(rounds):
        before = latest.stat().st_mtime_ns
        run = warm("train", train_argv(dataset, "--ckpt", "sr4x-pool", "--num-itr", "100000", "--save-every", "1"))
        until(lambda before=before: latest.stat().st_mtime_ns != before)
        logged = run.said().count("[Save]")
        deadline = time.monotonic() + 60
        while not drafts() and time.monotonic() < deadline:
            pass
        run.kill(signal.SIGKILL, draw.uniform(0, 0.02))
        run.wait()
        unfinished += bool(drafts())
        reached = iteration()  # a whole file, whatever the moment
        assert reached >= last + max(1, logged)  # what was logged as saved is saved: one iteration at most is lost
        last = reached
    assert train.main(train_argv(dataset, "--ckpt", "sr4x-pool", "--num-itr", last + 1)) == 0
    assert not drafts()  # the last save swept what killed ones had left
    print(f"{rounds} kills, {unfinished} in the middle of a save")
    return unfinished


def test_a_kill_at_any_moment_leaves_a_whole_checkpoint(dataset, warm):
    kill_at_random(dataset, warm, rounds=2)


@pytest.mark.slow
def test_sixty_kills(dataset, warm):
    assert kill_at_random(dataset, warm, rounds=60, seed=1) >= 10


def test_a_signal_saves_and_ends_well(dataset, warm):
    argv = train_argv(dataset, "--num-itr", "100000", "--num-workers", "1")
    run = warm("train", argv, "signal.signal(signal.SIGINT, signal.default_int_handler)")
    run.until("[Train] 3/")
    run.kill(signal.SIGINT)
    assert run.wait()[0] == 0, run.said()
    line = f"SIGINT: stopped after iteration {iteration()} and saved; to resume: python train.py --ckpt sr4x-pool"
    assert line in run.said()
    assert "Traceback" not in run.said()


def test_a_signal_ends_an_evaluation_too(dataset, warm):
    run = warm("train", train_argv(dataset, "--num-itr", "100000", "--interval", "10000", "--eval-every", "1"))
    run.until("[Eval] iteration 0")
    run.kill(signal.SIGTERM, 0.5)
    assert run.wait()[0] == 0, run.said()
    assert iteration() == 0


def test_a_full_disk_leaves_the_old_checkpoint(dataset, capsys):
    assert train.main(train_argv(dataset, "--num-itr", "1")) == 0
    latest = Path("results/sr4x-pool/latest.pt")
    before = latest.read_bytes()
    with largest_file(len(before) // 2):
        flags = ["--ckpt", "sr4x-pool", "--num-itr", "100000", "--save-every", "2"]
        last = refusal(capsys, train, train_argv(dataset, *flags))
    assert "latest.pt: cannot be written: " in last
    assert "(the file there is as it was)" in last
    assert latest.read_bytes() == before
    assert [path.name for path in latest.parent.glob(".*tmp")] == []


class Poison:
    """Spoils the loss at the given calls: by a NaN, or by an infinity that leaves finite gradients."""

    def __init__(self, runner_class, calls, spoil=lambda loss: loss * float("nan")):
        self.count, self.calls, self.loss, self.spoil = 0, calls, runner_class.training_loss, spoil

    def __get__(self, runner, owner):
        def loss(*args):
            self.count += 1
            value = self.loss(runner, *args)
            return self.spoil(value) if self.count in self.calls else value

        return loss


@pytest.mark.parametrize("spoil", [lambda loss: loss * float("nan"), lambda loss: loss + float("inf")])
def test_steps_without_finite_losses_or_gradients_are_skipped_and_counted(dataset, monkeypatch, capsys, spoil):
    from i2sb.runner import Runner

    argv = train_argv(dataset, "--num-itr", "3", "--microbatch", "4")
    assert train.main([*argv, "--name", "clean", "--num-itr", "2"]) == 0
    clean = load_checkpoint("results/clean/latest.pt")
    monkeypatch.setattr(Runner, "training_loss", Poison(Runner, {3}, spoil))
    assert train.main([*argv, "--name", "poisoned"]) == 0
    assert "1 steps skipped" in capsys.readouterr().err
    poisoned = load_checkpoint("results/poisoned/latest.pt")
    for key, tensor in clean["net"].items():
        assert torch.equal(tensor, poisoned["net"][key])  # the third step changed nothing
    assert poisoned["optimizer"]["state"][0]["step"] == 2


def test_too_many_of_them_stop_the_run(dataset, monkeypatch, capsys):
    from i2sb.runner import Runner

    assert train.main(train_argv(dataset, "--num-itr", "1")) == 0
    before = Path("results/sr4x-pool/latest.pt").read_bytes()
    monkeypatch.setattr(Runner, "training_loss", Poison(Runner, set(range(100))))
    argv = train_argv(dataset, "--ckpt", "sr4x-pool", "--num-itr", "50", "--max-nonfinite", "3")
    last = refusal(capsys, train, argv)
    assert last.startswith("train.py: error: --max-nonfinite 3: as many consecutive steps had NaN or inf")
    assert "stopped at iteration 4" in last
    assert Path("results/sr4x-pool/latest.pt").read_bytes() == before


def test_a_checkpoint_keeps_its_options_until_a_new_one_takes_its_place(dataset, warm, capsys):
    """A run that is killed before its first save has changed nothing, not even the options beside latest.pt.

    While it trains, no other trains into its folder.
    """
    assert train.main(train_argv(dataset, "--num-itr", "1")) == 0
    folder = Path("results/sr4x-pool")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    other = ["--overwrite", "--beta-max", "1.0", "--ot-ode"]
    run = warm("train", train_argv(dataset, "--num-itr", "100000", *other))
    run.until("[Train] 3/")
    last = refusal(capsys, train, train_argv(dataset, "--num-itr", "2", *other))
    assert "results/sr4x-pool: another process is training into it" in last
    run.kill(signal.SIGKILL)
    run.wait()
    assert {p.name: p.read_bytes() for p in folder.iterdir() if p.name != ".train.lock"} == before
    assert train.main(train_argv(dataset, "--num-itr", "2", *other)) == 0
    assert json.loads((folder / "options.json").read_text())["ot_ode"] is True


def test_an_error_beside_the_steps_costs_nothing(dataset, tmp_path, capsys):
    """An image that cannot be read ends the run, at the same bits as one that was to end there."""
    flags = ["--num-itr", "100", "--deterministic", "--microbatch", "2", "--save-every", "1000", "--dropout", "0.1"]
    bad = tmp_path / "photos"
    shutil.copytree(dataset, bad)
    path = sorted(bad.glob("train/*/*.png"))[30]
    path.write_bytes(path.read_bytes()[:200])
    assert train.main(train_argv(bad, *flags, "--name", "bad")) == 2
    *_, saved, last = capsys.readouterr().err.splitlines()
    reached = iteration("bad")
    assert reached > 0
    assert f"an error ends the run after iteration {reached}, which is saved" in saved
    assert "cannot decode the image" in last
    for more in (["--num-itr", str(reached)], ["--num-itr", str(reached + 2), "--ckpt", "good"]):
        assert train.main(train_argv(dataset, *flags, "--name", "good", *more)) == 0
    assert train.main(train_argv(dataset, *flags, "--ckpt", "bad", "--name", "on", "--num-itr", str(reached + 2))) == 0
    on, good = (load_checkpoint(f"results/{name}/latest.pt") for name in ("on", "good"))
    assert all(torch.equal(tensor, good["net"][key]) for key, tensor in on["net"].items())


def test_a_dead_loader_is_named_and_costs_nothing(dataset, warm):
    run = warm("train", train_argv(dataset, "--num-itr", "100000", "--num-workers", "1"))
    run.until("[Train] 3/")
    workers = [int(pid) for pid in Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()]
    for pid in workers:
        if b"spawn_main" not in (command := Path(f"/proc/{pid}/cmdline").read_bytes()) and b"tracker" not in command:
            os.kill(pid, signal.SIGKILL)
    code, last = run.wait()
    assert code == 2, run.said()
    assert last.startswith("train.py: error: --num-workers 1: a process that loads images has died")
    assert "Traceback" not in run.said()
    assert iteration() >= 3


def test_a_save_that_fails_once_is_tried_again(dataset, monkeypatch, capsys):
    """The last one; it is written beside the loop, which has already ended."""
    save, calls = i2sb.training.save_checkpoint, []

    def fails_first(*args):
        calls.append(args)
        if len(calls) == 1:
            raise UserError("the disk is full for a moment")
        save(*args)

    monkeypatch.setattr(i2sb.training, "save_checkpoint", fails_first)
    assert train.main(train_argv(dataset)) == 2
    assert "the disk is full for a moment" in capsys.readouterr().err
    assert iteration() == 4


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
@pytest.mark.parametrize(("ranks", "seconds"), [(1, 0), (2, 2.2)])
def test_a_signal_before_the_first_iteration(dataset, warm, ranks, seconds):
    """With two ranks: about when they find each other."""
    argv = train_argv(dataset, "--num-itr", "100000", "--n-gpu-per-node", ranks, "--microbatch", "1")
    run = warm("train", argv)
    children = Path(f"/proc/{run.pid}/task/{run.pid}/children")
    if ranks == 1:
        run.until("started")
    else:
        until(lambda: len(children.read_text().split()) >= 3)  # the tracker of resources and two ranks
    run.kill(signal.SIGUSR1, seconds)
    code, _ = run.wait()
    assert code in (0, 128 + signal.SIGUSR1 if ranks == 2 else -1), run.said()
    assert "Traceback" not in run.said()
    if ranks == 1:
        assert Path("results/sr4x-pool/latest.pt").exists() == (code == 0)
        assert train.main(train_argv(dataset, "--num-itr", "2", "--overwrite")) == 0
