"""What a process does with memory that tensors give back."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CODE = """
import resource, sys, torch
from launch_worker import parse
from i2sb.runtime.launch import launch

def main(opt):
    torch.ones(2**24)  # 64 MiB, given back at once
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**24)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

launch(parse([]), main)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left as they are")
def test_tensors_take_the_pages_of_former_ones(monkeypatch):
    def faults(**environ: str) -> int:
        monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{ROOT / 'tests'}")
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        return int(subprocess.check_output([sys.executable, "-c", CODE], text=True))

    assert faults() < 100
    assert faults(MALLOC_ARENA_MAX="1") > 1000  # the user's own settings stand
