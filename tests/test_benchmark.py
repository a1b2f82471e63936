"""The benchmark through its script, with sizes that only show that every row can be had; no time is looked at."""

import json
from pathlib import Path

import pytest

FEW = "training", "corruptions", "frechet", "loading", "optimizer", "memory"
OF_FEW = "training step", "jpeg-10", "blur-gauss", "Frechet", "LMDB", "optimizer", "--grad-checkpoint all"
OF_ALL = *OF_FEW, "forward", "NFE 5", "--help", "first iteration", "checkpoint: ", "2 gloo ranks", "25 GB/s"


@pytest.mark.parametrize(
    ("argv", "parts"), [(["--only", *FEW], OF_FEW), pytest.param(["--quick"], OF_ALL, marks=pytest.mark.slow)]
)
def test_every_row_can_be_had(warm, argv, parts):
    def table(*argv):
        run = warm("benchmark", argv)
        assert run.wait()[0] == 0, run.said()
        return [line for line in run.said().splitlines() if line.startswith("| ")]

    lines = table(*argv, "--tiny", "--out", "rows.json")
    rows = json.loads(Path("rows.json").read_text())["rows"]
    assert len(lines) == 1 + 1 + len(rows)
    assert all(row["ours"] > 0 for row in rows)
    items = " ".join(row["item"] for row in rows)
    for part in parts:
        assert part in items, part

    rows[0]["ours"] *= 2
    Path("slower.json").write_text(json.dumps({"rows": rows}))
    compared = table("--compare", "rows.json", "slower.json")
    assert [line.rsplit("| ", 1)[1] for line in compared[2:4]] == ["0.50 |", "1.00 |"]
