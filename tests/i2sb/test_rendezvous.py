"""How ranks find each other at a real socket, each rank a thread; and the one line that says why they do not."""

import dataclasses
import socket
import threading
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from launching import free_port

from i2sb.errors import UserError
from i2sb.runtime.placement import Placement
from i2sb.runtime.rendezvous import SECONDS_VARIABLE, listen, meet


def node(rank: int, size: int, port: int) -> Placement:
    return Placement(
        num_nodes=size,
        node_rank=rank,
        num_here=1,
        first_rank=rank,
        first_local_rank=0,
        global_size=size,
        num_on_machine=1,
        address="localhost",
        port=port,
    )


def outcomes(placements: list[Placement]) -> list[str]:
    """What each rank's `meet` comes to: "met" or the text of its UserError."""

    def outcome(future: Future) -> str:
        error = future.exception(timeout=30)
        assert error is None or isinstance(error, UserError), error
        return "met" if error is None else str(error)

    with ThreadPoolExecutor(len(placements)) as pool:
        return [outcome(future) for future in [pool.submit(meet, p, p.first_rank) for p in placements]]


def test_ranks_meet_in_any_order() -> None:
    port = free_port()
    assert outcomes([node(rank, 3, port) for rank in (2, 0, 1)]) == ["met"] * 3


def test_ranks_that_count_differently() -> None:
    port = free_port()
    texts = outcomes([node(0, 2, port), node(1, 3, port)])
    assert texts[0] == texts[1]
    assert "counts 3 ranks where the first to come counts 2" in texts[0] or "counts 2 ranks" in texts[0]
    assert "--num-proc-node" in texts[0]


def test_rank_that_comes_twice() -> None:
    port = free_port()
    texts = outcomes([node(rank, 3, port) for rank in (0, 1, 1)])
    assert texts == ["rank 1 came twice; give every node its own --node-rank"] * 3


def test_nobody_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SECONDS_VARIABLE, "0.5")
    port = free_port()
    (text,) = outcomes([node(1, 2, port)])
    for word in ("rank 1", f"0.5 s ({SECONDS_VARIABLE})", f"localhost:{port}", "refused", "--master-address"):
        assert word in text
    assert "\n" not in text


def test_unknown_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SECONDS_VARIABLE, "0.5")
    placement = dataclasses.replace(node(1, 2, 6020), address="no-such-host.invalid")
    (text,) = outcomes([placement])
    assert "no-such-host.invalid:6020: rank 0 does not answer (" in text


def test_others_do_not_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SECONDS_VARIABLE, "0.5")
    port = free_port()
    (text,) = outcomes([node(0, 12, port)])
    assert f"localhost:{port}: 1 of 12 ranks have come, without 1, 2, 3, 4, 5, 6, 7, 8, ...; check" in text


def test_mute_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SECONDS_VARIABLE, "0.5")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        (text,) = outcomes([node(1, 2, port)])
    assert f"what answers at localhost:{port} is not rank 0 of this run" in text
    for thread in threading.enumerate():  # the question without an answer ends when the server hangs up
        if thread.name == "rendezvous":
            thread.join(20)


@pytest.mark.parametrize("text", ["0", "-1", "soon", "inf", "nan"])
def test_wrong_waiting_time(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(SECONDS_VARIABLE, text)
    with pytest.raises(UserError, match=f"{SECONDS_VARIABLE}={text}"):
        meet(node(1, 2, 6020), 1)


@pytest.mark.parametrize("num_nodes", [1, 2])
def test_port_in_use(num_nodes: int) -> None:
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} is in use.*--master-port"):
            listen(node(0, num_nodes, port))


def test_one_node_is_served_on_the_loopback_only() -> None:
    with listen(node(0, 1, 0)) as server:
        assert server.getsockname()[0] == "127.0.0.1"
