"""What a process does with memory that tensors give back."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CODE = """
import resource, torch
from i2sb.runtime.memory import kept_memory

def page_faults():
    counts = []
    for _ in range(50):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(2**24)  # 64 MiB, given back at once
        counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    return min(counts)

def resident():
    return next(int(line.split()[1]) // 1024 for line in open("/proc/self/status") if line.startswith("RssAnon"))

cpu, before = torch.device("cpu"), resident()
with kept_memory(cpu):
    with kept_memory(cpu):
        pass
    within = page_faults()
    several = [torch.ones(2**24) for _ in range(16)]
    del several  # 1 GiB, more than may stay
print(within, resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left as they are")
@pytest.mark.parametrize("own", [{}, {"MALLOC_ARENA_MAX": "1"}])
def test_tensors_take_the_pages_of_former_ones(own):
    environ = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")} | own
    done = subprocess.check_output([sys.executable, "-c", CODE], text=True, env={**environ, "PYTHONPATH": str(ROOT)})
    within, kept = map(int, done.split())
    assert (within < 100) == (not own)  # the user's own settings stand
    assert kept < 64  # MiB
