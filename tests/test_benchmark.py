"""The benchmark through its script, with sizes that only show that every row can be had; no time is looked at."""

import json
import subprocess
import sys

import pytest
from small_runs import ROOT

SCRIPT = ROOT / "scripts/benchmark.py"


def run(*argv):
    return subprocess.run([sys.executable, SCRIPT, *argv], capture_output=True, text=True, timeout=600)


FEW = "training", "corruptions", "frechet", "loading", "optimizer", "memory"
OF_FEW = "training step", "jpeg-10", "blur-gauss", "Frechet", "LMDB", "optimizer", "--grad-checkpoint all"
OF_ALL = *OF_FEW, "forward", "NFE 5", "--help", "first iteration", "checkpoint: ", "2 gloo ranks", "25 GB/s"


@pytest.mark.parametrize(
    ("argv", "parts"), [(["--only", *FEW], OF_FEW), pytest.param(["--quick"], OF_ALL, marks=pytest.mark.slow)]
)
def test_every_row_can_be_had(tmp_path, argv, parts):
    done = run(*argv, "--tiny", "--out", tmp_path / "rows.json")
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    table = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    assert len(table) == 1 + 1 + len(rows)
    assert all(row["ours"] > 0 for row in rows)
    items = " ".join(row["item"] for row in rows)
    for part in parts:
        assert part in items, part

    rows[0]["ours"] *= 2
    (tmp_path / "slower.json").write_text(json.dumps({"rows": rows}))
    compared = run("--compare", tmp_path / "rows.json", tmp_path / "slower.json").stdout.splitlines()
    assert [line.rsplit("| ", 1)[1] for line in compared[2:4]] == ["0.50 |", "1.00 |"]
