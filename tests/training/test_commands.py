"""The commands beside train.py: the published ones, the SLURM example; memory."""

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from processes import until
from small_runs import ROOT, photos, train_argv

from corruption import TASKS
from corruption.registry import lookup
from i2sb.ckpt_util import load_checkpoint
from i2sb.options import parse_train_options


def bash(name: str, *argv: str) -> subprocess.CompletedProcess:
    return subprocess.run(["bash", ROOT / "scripts" / name, *argv], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("task", TASKS[:9])
def test_the_published_trainings(task):
    done = bash("train.sh", "--dry-run", task, "--n-gpu-per-node", "8", "--lr", "1e-4")
    assert done.returncode == 0, done.stderr
    _, script, *argv = shlex.split(done.stdout)
    assert Path(script).resolve() == ROOT / "train.py"
    opt = parse_train_options(argv)
    assert (opt.corrupt, opt.name) == (task, task)
    assert (opt.beta_max, opt.ot_ode) == (lookup(task).beta_max, lookup(task).ot_ode)
    assert (opt.interval, opt.batch_size, opt.microbatch, opt.image_size) == (1000, 256, 2, 256)
    assert (opt.n_gpu_per_node, opt.lr) == (8, 1e-4)  # what is added is handed on


@pytest.mark.parametrize("argv", [[], ["--dry-run"], ["jpeg-7"]])
def test_other_tasks_are_not_published(argv):
    done = bash("train.sh", *argv)
    assert done.returncode == 2
    assert "TASK is one of jpeg-5 " in done.stderr


# What the example asks of SLURM, on this machine: the step is one process that a signal finds by its number.
SLURM = {
    "srun": 'shift; export SLURM_PROCID=0 SLURM_NTASKS=1 SLURM_STEP_ID=0; echo $$ > step; exec "$@"',
    "scontrol": 'if [ "$1" = show ]; then echo localhost; else echo "$@" >> asked; fi',
    "scancel": '[ "$*" = "--signal=USR1 7" ] && kill -USR1 "$(cat step)"',
}


def test_a_slurm_job_saves_and_resumes(tmp_path):
    photos(tmp_path / "photos")
    (tmp_path / "bin").mkdir()
    for name, body in SLURM.items():
        (tmp_path / "bin" / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "scripts").symlink_to(ROOT / "scripts")  # a job starts in the repository
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "1", "SLURM_JOB_NODELIST": "here", "SLURM_GPUS_ON_NODE": "1"}
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    latest = tmp_path / "results/mine/latest.pt"

    def start(num_itr: int, said: Path) -> subprocess.Popen:
        flags = train_argv(tmp_path / "photos", "--num-itr", num_itr, "--name", "mine")
        return subprocess.Popen(
            ["bash", "scripts/slurm.sh", "sr4x-pool", *flags],
            cwd=tmp_path,
            env={**os.environ, **job, "PATH": path, "PYTHON": sys.executable},
            stdout=subprocess.DEVNULL,
            stderr=said.open("w"),
        )

    first, second = tmp_path / "first", tmp_path / "second"
    process = start(100000, first)
    until(lambda: "[Train] 3/" in first.read_text())
    process.send_signal(signal.SIGUSR1)
    assert process.wait(timeout=60) == 0, first.read_text()[-2000:]
    stopped = load_checkpoint(latest)["resume"]["iteration"]
    assert f"SIGUSR1: stopped after iteration {stopped} and saved" in first.read_text()
    assert (tmp_path / "asked").read_text() == "requeue 7\n"

    assert start(stopped + 1, second).wait(timeout=90) == 0, second.read_text()[-2000:]
    assert f"[Resume] after iteration {stopped}, " in second.read_text()
    assert load_checkpoint(latest)["resume"]["iteration"] == stopped + 1
    assert (tmp_path / "asked").read_text() == "requeue 7\n"  # a job that is done does not come again


def test_memory_is_computed_from_shapes():
    import torch

    from guided_diffusion.memory import saved_bytes

    class Net(torch.nn.Conv2d):
        def forward(self, x, steps):
            return torch.sigmoid(super().forward(x)).exp()

    # the convolution keeps its input, the sigmoid and the exponential keep what they give; weights do not count
    assert saved_bytes(Net(3, 5, 3, padding=1, device="meta"), 8, 8, 2) == 2 * 8 * 8 * (3 + 5 + 5) * 4
