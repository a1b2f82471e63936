"""The commands and programs of docs/restore.md, as they stand there."""

import re
import shlex

import numpy as np
import pytest
from bridges import make_bridge, photograph
from PIL import Image
from small_runs import ROOT

import sample

BLOCKS = re.findall(r"^```(bash|python)\n(.*?)^```$", (ROOT / "docs/restore.md").read_text(), re.DOTALL | re.MULTILINE)
COMMANDS = [line for kind, block in BLOCKS if kind == "bash" for line in block.splitlines()]
PROGRAMS = [block for kind, block in BLOCKS if kind == "python"]


@pytest.fixture
def pictures(here):
    """The pictures that the page names."""
    for name in ("photo.jpg", "holidays/beach/1.jpg", "scans/1.png", "clean/1.png"):
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        photograph(48, 32).save(here / name)
    hole = np.zeros((32, 48), np.uint8)
    hole[8:20, 10:30] = 255
    Image.fromarray(hole).save(here / "hole.png")
    return here


@pytest.mark.parametrize("command", COMMANDS)
def test_its_commands_run(pictures, command):
    program, script, *flags = shlex.split(command)
    assert (program, script) == ("python", "sample.py")
    assert sample.main([*flags, "--device", "cpu"]) == 0
    output = pictures / flags[flags.index("--output") + 1]
    assert [path for path in output.rglob("*") if path.suffix in (".jpg", ".png")]


@pytest.mark.parametrize("program", PROGRAMS)
def test_its_programs_run(pictures, program):
    exec(program, {})


def test_the_published_blur_is_refused_and_the_textbook_blur_named(here, capsys):
    make_bridge(here, "blur-gauss")
    flags = ["--ckpt", "blur-gauss", "--input", "pictures/a.jpg", "--nfe", "1", "--device", "cpu"]
    assert sample.main([*flags, "--degrade", "--output", "a"]) == 1
    assert "blur-gauss-SIGMA" in capsys.readouterr().err
    assert sample.main([*flags, "--output", "b"]) == 0
