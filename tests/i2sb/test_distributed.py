"""What ranks exchange, alone and between two gloo processes."""

import os
import signal

import pytest
import torch
from launching import start_run_fixture  # noqa: F401

from i2sb.runtime import distributed
from i2sb.runtime.distributed import StopSignal


def test_alone_everything_is_rank_0_of_1() -> None:
    tensor = torch.tensor([1.0, 2.0], requires_grad=True)
    mean = distributed.mean_over_ranks(tensor)
    assert (distributed.rank(), distributed.world_size(), distributed.is_main()) == (0, 1, True)
    assert torch.equal(mean, tensor)
    assert not mean.requires_grad
    mean += 1
    assert tensor.tolist() == [1.0, 2.0]  # the mean is another tensor
    assert distributed.gather_objects("a") == ["a"]
    assert distributed.broadcast_object("a") == "a"
    distributed.barrier()
    with distributed.main_first():
        pass


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR1"])
def test_stop_signal_alone(name: str) -> None:
    number = getattr(signal, name)
    before = signal.getsignal(number)
    with StopSignal() as stop:
        assert stop.poll() is None
        os.kill(os.getpid(), number)
        assert stop.poll() == stop.poll() == name
        os.kill(os.getpid(), signal.SIGUSR1)
        assert stop.poll() == name  # the first one counts
        if name == "SIGINT":
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(number) is before


def test_two_ranks(start_run) -> None:
    one = start_run("--n-gpu-per-node", 2)
    assert one.wait() == (0, "")
    main, other = one.notes()
    assert (main["local_rank"], other["local_rank"]) == (0, 1)
    assert one.process.pid not in (main["pid"], other["pid"])
    for note in (main, other):
        assert (note["node_rank"], note["device"], note["distributed"], note["global_size"]) == (0, "cpu", True, 2)
        assert note["mean"] == [1.5, 3.0]  # of [1, 2] and [2, 4]
        assert note["gathered"] == [[0, [0, 0]], [1, [1, 1]]]
        assert note["broadcast"] == ["from", 0]
        # Rank 1 alone got a signal before its poll 5: both know at poll 6.
        assert note["stops"] == [[6, "SIGUSR1"]] * 2
    assert other["first"][0] >= main["first"][1]  # rank 1 enters after rank 0 has left
    assert main["barrier"][1] >= other["barrier"][0]  # rank 0 waited for rank 1
