"""What the options leave to the machine: precision, memory layout, threads."""

from argparse import Namespace

import pytest

from i2sb import precision
from i2sb.forecast import threads_advice


@pytest.mark.parametrize(
    ("device", "asked", "bf16_here", "channels_last", "settled"),
    [
        ("cpu", "fp32", True, None, ("fp32", True)),
        ("cpu", "auto", True, None, ("bf16", True)),
        ("cpu", "auto", False, None, ("fp32", True)),
        ("cpu", "auto", True, False, ("bf16", False)),
        ("cuda:0", "fp32", True, None, ("fp32", False)),
        ("cuda:0", "tf32", True, None, ("tf32", False)),
        ("cuda:0", "auto", True, None, ("bf16", True)),
        ("cuda:0", "fp16", False, None, ("fp16", True)),
        ("mps", "fp32", False, True, ("fp32", True)),
    ],
)
def test_what_is_left_open_depends_on_the_machine(monkeypatch, device, asked, bf16_here, channels_last, settled):
    monkeypatch.setattr(precision, "has_bf16", lambda device: bf16_here)
    opt = Namespace(device=device, precision=asked, channels_last=channels_last)
    precision.settle(opt)
    assert (opt.precision, opt.channels_last) == settled


def test_more_threads_than_free_cores_are_noticed():
    assert threads_advice(2, 2, 0.3) is None
    assert threads_advice(1, 2, 5.0) is None
    assert "OMP_NUM_THREADS=1" in threads_advice(2, 2, 2.1)
    assert "6 of 16 cores free" in threads_advice(16, 16, 10.2)
