"""What the options leave to the machine: precision, memory layout, threads."""

from argparse import Namespace

import pytest

from i2sb import precision
from i2sb.forecast import threads_advice


@pytest.mark.parametrize(
    ("device", "asked", "instructions", "channels_last", "settled"),
    [
        ("cpu", "fp32", "avx512 bf16", None, ("fp32", True)),
        ("cpu", "auto", "avx512 bf16", None, ("bf16", True)),
        ("cpu", "auto", "avx512", None, ("fp32", True)),
        ("cpu", "auto", "avx2", None, ("fp32", False)),
        ("cpu", "auto", "avx512 bf16", False, ("bf16", False)),
        ("cuda:0", "fp32", "bf16", None, ("fp32", False)),
        ("cuda:0", "tf32", "bf16", None, ("tf32", False)),
        ("cuda:0", "auto", "bf16", None, ("bf16", True)),
        ("cuda:0", "fp16", "", None, ("fp16", True)),
        ("mps", "fp32", "", True, ("fp32", True)),
    ],
)
def test_what_is_left_open_depends_on_the_machine(monkeypatch, device, asked, instructions, channels_last, settled):
    monkeypatch.setattr(precision, "has_bf16", lambda device: "bf16" in instructions)
    monkeypatch.setattr(precision, "has_avx2_alone", lambda: instructions == "avx2")
    opt = Namespace(device=device, precision=asked, channels_last=channels_last)
    precision.settle(opt)
    assert (opt.precision, opt.channels_last) == settled


def test_sampling_on_a_cpu_keeps_channels_last(monkeypatch):
    monkeypatch.setattr(precision, "has_avx2_alone", lambda: True)
    opt = Namespace(device="cpu", precision="fp32", channels_last=None)
    precision.settle(opt, trains=False)
    assert opt.channels_last


def test_more_threads_than_free_cores_are_noticed():
    assert threads_advice(2, 2, 0.3) is None
    assert threads_advice(1, 2, 5.0) is None
    assert "OMP_NUM_THREADS=1" in threads_advice(2, 2, 2.1)
    assert "6 of 16 cores free" in threads_advice(16, 16, 10.2)
