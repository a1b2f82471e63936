"""`launch` with real processes: in place, own children; what ranks exchange; and how runs end."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from launch_worker import parse, work
from processes import free_port, is_alive, two_hosts_fixture, until  # noqa: F401
from warm import Child

from i2sb.errors import UserError
from i2sb.runtime.distributed import StopSignal
from i2sb.runtime.launch import launch

ROOT = Path(__file__).resolve().parents[2]


def test_importing_launch_does_not_import_torch() -> None:
    code = "import sys, i2sb.runtime.launch; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True) == "False\n"


def test_one_process_works_in_place() -> None:
    seen = []
    assert launch(parse([]), seen.append) == 0
    (opt,) = seen
    assert (opt.global_rank, opt.global_size, opt.distributed, opt.device) == (0, 1, False, "cpu")


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2", "SIGHUP", "SIGXCPU"])
def test_stop_signal_alone(name: str) -> None:
    number = getattr(signal, name)
    before = signal.getsignal(number)
    with StopSignal() as stop:
        assert stop.poll() is None
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), signal.SIGUSR1)
        assert stop.poll() == name  # the first one counts
        if name == "SIGINT":
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(number) is before


# Ranks that do not come together; as a user's launch would raise it, in this process


def refusal(*flags: object) -> str:
    with pytest.raises(UserError) as error:
        launch(parse([*map(str, flags)]), work)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("flags", [("--n-gpu-per-node", 2), ("--num-proc-node", 2)])
def test_port_in_use(flags: tuple) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        text = refusal(*flags, "--master-port", port)
    assert text.startswith(f"port {port} cannot be opened, perhaps another run")
    assert "--master-port" in text


@pytest.mark.parametrize(
    ("node_rank", "address", "state"),
    [(0, "localhost", "1 of 2 ranks have come"), (1, "no-such-host.invalid", "nobody answers there")],
)
def test_a_node_does_not_come(monkeypatch, node_rank: int, address: str, state: str) -> None:
    monkeypatch.setenv("I2SB_RENDEZVOUS_SECONDS", "0.5")
    place = ("--num-proc-node", 2, "--node-rank", node_rank, "--master-address", address)
    text = refusal(*place, "--master-port", free_port())
    for words in (f"rank {node_rank} waited 0.5 s (I2SB_RENDEZVOUS_SECONDS)", state, "--master-address"):
        assert words in text


def test_ctrl_c_ends_the_waiting(monkeypatch) -> None:
    monkeypatch.setenv("I2SB_RENDEZVOUS_SECONDS", "60")
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells start what ends in "&" with SIGINT ignored
    timer = threading.Timer(1, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        launch(parse(["--num-proc-node", "2", "--node-rank", "1", "--master-port", str(free_port())]), work)
    timer.join()


# Runs of launch_worker.py in forks; each rank writes what it sees as lines of JSON


def on_nodes(warm, folder: Path, *places: str, hosts: tuple = (), **variables: str) -> list[Child]:
    """One run, as a node, for each text of flags."""
    variables = {"I2SB_RENDEZVOUS_SECONDS": "50", **variables}
    before = f"os.environ.update({variables}); signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    port, runs = free_port(), []
    for number, place in enumerate(places):
        argv = [*place.split(), "--master-port", port, "--folder", folder]
        runs.append(warm("launch_worker", argv, before + (f"inside({hosts[number][2]})" if hosts else "")))
    return runs


@pytest.fixture
def one(warm, tmp_path):
    """one("DO") -> a process whose children are two ranks."""
    return lambda do="talk": on_nodes(warm, tmp_path, f"--do {do} --n-gpu-per-node 2")[0]


def notes(folder: Path) -> list[dict]:
    """What the ranks wrote, in the order of the ranks."""
    lines = [line for path in sorted(folder.glob("rank-*.jsonl")) for line in path.read_text().splitlines()]
    return [json.loads(line) for line in lines]


def await_notes(folder: Path, number: int) -> list[dict]:
    until(lambda: len(notes(folder)) >= number)
    return notes(folder)


def alive(folder: Path) -> list[int]:
    """The processes that wrote notes and still run."""
    return [note["pid"] for note in notes(folder) if is_alive(note["pid"])]


def of_two(do: str) -> tuple[str, str]:
    return f"--do {do} --num-proc-node 2 --node-rank 0", f"--do {do} --num-proc-node 2 --node-rank 1"


def ended(run: Child) -> tuple[int, str]:
    """The exit code, and all that was said."""
    code, _ = run.wait()
    return code, run.said().rpartition("exit code")[0]


def test_what_two_ranks_exchange(one, tmp_path) -> None:
    assert ended(one()) == (0, "")
    main, other = notes(tmp_path)
    assert (main["local_rank"], other["local_rank"]) == (0, 1)
    for note in (main, other):
        assert (note["node_rank"], note["device"], note["distributed"], note["global_size"]) == (0, "cpu", True, 2)
        assert note["mean"] == [1.5, 3.0]  # of [1, 2] and [2, 4]
        assert note["gathered"] == [[0, [0, 0]], [1, [1, 1]]]
        assert note["broadcast"] == ["from", 0]
        assert note["stops"] == [[5, "SIGUSR1"]] * 2  # rank 1 alone got a signal before its poll 5
    assert other["first"][0] >= main["first"][1]  # rank 1 enters after rank 0 has left
    assert main["barrier"][1] >= other["barrier"][0]  # rank 0 waited for rank 1


@pytest.mark.parametrize("nodes", [[(2, 0), (3, 1)], [(3, 0), (3, 1), (3, 1)]])
def test_nodes_that_contradict_each_other(warm, tmp_path, nodes: list) -> None:
    for run in on_nodes(warm, tmp_path, *(f"--num-proc-node {n} --node-rank {rank}" for n, rank in nodes)):
        code, stderr = ended(run)
        assert code == 2
        assert stderr.startswith("launch_worker.py: error: rank ")
        assert stderr.endswith(": give every node the same flags and its own --node-rank\n")
        assert stderr.count("\n") == 1


def test_ranks_that_were_started_with_different_options(warm, tmp_path) -> None:
    for run in on_nodes(warm, tmp_path, of_two("talk")[0], of_two("sleep")[1]):
        code, stderr = ended(run)
        assert code == 2
        assert re.fullmatch(r".*error: rank . has --do \w+, rank . has \w+: give every node the same flags\n", stderr)


def test_waiting_for_a_rank_that_works_has_no_end(warm, tmp_path) -> None:
    runs = on_nodes(warm, tmp_path, *of_two("slow-barrier"), COLLECTIVE_SECONDS="1.5")
    assert [ended(run) for run in runs] == [(0, "")] * 2
    assert len(notes(tmp_path)) == 4


def test_waiting_for_a_rank_that_is_not_heard_of_has_one(warm, tmp_path) -> None:
    mine, _ = on_nodes(warm, tmp_path, *of_two("slow-barrier"), COLLECTIVE_SECONDS="1.5", STOP="1")
    assert ended(mine) == (1, "launch_worker.py: error: rank 1 has not been heard of for 0:00:01.500000\n")


def on_two_hosts(warm, folder, two_hosts, do, **variables) -> list[Child]:
    places = (f"{place} --master-address 10.7.0.1" for place in of_two(do))
    return on_nodes(warm, folder, *places, hosts=two_hosts, **variables)


def test_hosts_that_tell_each_other_the_loopback(warm, tmp_path, two_hosts) -> None:
    variables = {"I2SB_RENDEZVOUS_SECONDS": "8", "GLOO_SOCKET_IFNAME": "lo"}
    for run in on_two_hosts(warm, tmp_path, two_hosts, "talk", **variables):
        code, stderr = ended(run)
        assert code == 1
        assert "GLOO_SOCKET_IFNAME" in stderr.splitlines()[-1]
        assert "Traceback" not in stderr


def test_ctrl_c_while_gloo_connects(warm, tmp_path, two_hosts) -> None:
    """One of the two is refused by what it takes for the other, and ends; the other waits to be called."""
    variables = {"I2SB_RENDEZVOUS_SECONDS": "600", "GLOO_SOCKET_IFNAME": "lo"}
    runs = on_two_hosts(warm, tmp_path, two_hosts, "talk", **variables)
    until(lambda: sum(is_alive(run.pid) for run in runs) < 2)
    (waiting,) = (run for run in runs if is_alive(run.pid))
    waiting.kill(signal.SIGINT)
    code, stderr = ended(waiting)
    assert (code, stderr.splitlines()[-1]) == (130, "launch_worker.py: interrupted")
    assert "Traceback" not in stderr


def test_a_link_that_is_lost(warm, tmp_path, two_hosts) -> None:
    variables = {"COLLECTIVE_SECONDS": "3", "GLOO_SOCKET_IFNAME": "here"}
    runs = on_two_hosts(warm, tmp_path, two_hosts, "reduce-for-ever", **variables)
    await_notes(tmp_path, 2)
    time.sleep(1)
    subprocess.run([*two_hosts[0], "ip", "link", "set", "here", "down"], check=True)
    for run in runs:
        assert_another_has_ended(run)


def assert_another_has_ended(run: Child) -> None:
    code, stderr = ended(run)
    assert code == 1
    assert stderr.startswith("launch_worker.py: error: another rank has ended, or the network to it")
    assert stderr.count("\n") == 1


# How runs end


def test_an_error_of_all_ranks_is_printed_once(one) -> None:
    assert ended(one("user-error")) == (2, "launch_worker.py: error: --lr -1: must be above 0\n")


@pytest.mark.parametrize(("do", "culprit"), [("raise", 1), ("first-fails", 0)])
def test_a_rank_that_raises_ends_the_run(one, tmp_path, do: str, culprit: int) -> None:
    code, stderr = ended(one(do))
    assert code == 1
    assert stderr.startswith(f"rank {culprit} failed:\nTraceback")
    assert stderr.endswith(f"ZeroDivisionError: rank {culprit}\n")
    assert stderr.count("Traceback") == 1
    until(lambda: not alive(tmp_path))


def test_a_killed_rank_ends_the_run(one, tmp_path) -> None:
    run = one("collective")
    victim = await_notes(tmp_path, 3)[1]["pid"]
    os.kill(victim, signal.SIGKILL)
    assert ended(run) == (137, f"rank 1 (process {victim}) was ended by SIGKILL: out of memory?\n")
    until(lambda: not alive(tmp_path))


def test_a_rank_killed_on_another_node(warm, tmp_path) -> None:
    mine, other = on_nodes(warm, tmp_path, *of_two("collective"))
    await_notes(tmp_path, 2)
    other.kill(signal.SIGKILL)
    assert_another_has_ended(mine)


def test_a_killed_parent_leaves_nobody(one, tmp_path) -> None:
    run = one("collective")
    await_notes(tmp_path, 3)
    run.kill(signal.SIGKILL)
    until(lambda: not alive(tmp_path), 20)


def test_signals_reach_all_ranks_once_and_the_second_interrupt_kills(one, tmp_path) -> None:
    """SIGINT goes to the whole process group, as from a terminal."""
    run = one("count-signals")
    await_notes(tmp_path, 2)
    os.killpg(run.pid, signal.SIGINT)
    await_notes(tmp_path, 4)
    run.kill(signal.SIGUSR1)
    last = {note["rank"]: note["names"] for note in await_notes(tmp_path, 6) if "names" in note}
    assert last == {rank: ["SIGINT", "SIGUSR1"] for rank in (0, 1)}
    run.kill(signal.SIGINT)
    assert ended(run) == (130, "interrupted twice: all processes are killed\n")
    until(lambda: not alive(tmp_path))


@pytest.mark.parametrize(
    ("name", "code", "line"), [("SIGINT", 130, "launch_worker.py: interrupted"), ("SIGTERM", 143, "ended by SIGTERM")]
)
def test_a_signal_while_the_ranks_start(one, name: str, code: int, line: str) -> None:
    run = one("sleep")
    children = Path(f"/proc/{run.pid}/task/{run.pid}/children")
    until(lambda: len(children.read_text().split()) > 2)  # two ranks and multiprocessing's resource tracker
    os.killpg(run.pid, getattr(signal, name))
    found, stderr = ended(run)
    assert (found, stderr.count("\n")) == (code, 1)
    assert line in stderr
