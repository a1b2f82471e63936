"""The table, its notes and metrics.json; the published numbers; a light import."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console

from evaluation.published import PUBLISHED
from evaluation.table import (
    Score,
    kid_score,
    mean_score,
    metrics_table,
    print_scores,
    read_metrics,
    write_metrics,
)
from i2sb.errors import UserError

REASON = "Inception weights: could not fetch https://a.b/c.pth; put it at /home/[x]/a/very/long/path/c.pth"
SCORES = {
    "degraded": {"psnr": Score(24.456, num_images=8), "ssim": Score(0.71234), "fid": Score(None, REASON)},
    "restored [b]": {
        "psnr": Score(25.7),
        "ssim": Score(0.8),
        "niqe": Score(0.25),
        "fid": Score(None, REASON),
    },
}


def printed(scores):
    console = Console(width=80)
    with console.capture() as capture:
        print_scores(scores, "sr4x-pool, NFE 5", console)
    return capture.get()


def test_table_shows_rows_columns_and_units():
    text = printed(SCORES)
    assert "sr4x-pool, NFE 5" in text
    for cell in (
        "degraded",
        "restored",
        "PSNR [dB] ↑",
        "24.46",
        "25.70",
        "0.7123",
        "FID ↓",
        "niqe",
        "0.2500",
    ):
        assert cell in text
    table = metrics_table(SCORES)
    assert [str(column.header) for column in table.columns] == [
        "images",
        "PSNR [dB] ↑",
        "SSIM ↑",
        "FID ↓",
        "niqe",
    ]


def test_each_reason_is_told_once_on_one_line():
    lines = [line.rstrip() for line in printed(SCORES).splitlines()]
    assert [line for line in lines if "Inception" in line] == [f"FID (degraded, restored [b]): {REASON}"]


def test_metrics_json_is_strict_and_whole(tmp_path):
    path = tmp_path / "samples" / "metrics.json"
    write_metrics(path, SCORES, {"ckpt": "sr4x", "folder": Path("data"), "nfe": 5})
    content = json.loads(path.read_text(), parse_constant=pytest.fail)  # neither NaN nor Infinity
    assert content["settings"] == {"ckpt": "sr4x", "folder": "data", "nfe": 5}
    assert content["scores"]["degraded"]["psnr"] == {"value": 24.456, "note": "", "num_images": 8}
    assert content["scores"]["restored [b]"]["fid"] == {"value": None, "note": REASON, "num_images": None}
    assert [p.name for p in path.parent.iterdir()] == ["metrics.json"]


def test_a_failed_write_keeps_the_old_file(tmp_path):
    path = tmp_path / "metrics.json"
    write_metrics(path, SCORES)
    before = path.read_text()
    with pytest.raises(ValueError):
        write_metrics(path, SCORES, {"lr": math.nan})
    assert path.read_text() == before


def test_values_that_are_no_number_say_so():
    score = Score(math.nan)
    assert score.value is None
    assert "nan" in score.note


def test_mean_over_images():
    assert mean_score(torch.tensor([20.0, 30.0])) == Score(25.0, "", 2, (20.0, 30.0))
    per_cent = mean_score(torch.tensor([True, False, True, True]), scale=100)
    assert (per_cent.value, per_cent.note, per_cent.num_images) == (75.0, "", 4)
    assert 0 <= per_cent.interval[0] < 75 < per_cent.interval[1] <= 100
    assert mean_score([3.0]) == Score(3.0, "", 1)
    partly = mean_score([20.0, math.inf, 30.0])
    assert (partly.value, partly.num_images, partly.interval) == (25.0, 2, (20.0, 30.0))
    assert "1 of 3 images equal the clean ones" in partly.note
    assert mean_score([math.inf]).value is None
    assert mean_score([]).value is None
    assert mean_score([1.0, math.nan]).value is None


def test_intervals_are_shown_and_written(tmp_path):
    values = torch.linspace(20, 30, 100)
    psnr, lpips = mean_score(values), Score(0.25, interval=(0.2, 0.32))
    low, high = psnr.interval
    # The mean's standard error is 0.2916, so both ends lie about 1.96 of it from the mean
    assert (25 - low, high - 25) == pytest.approx((0.57, 0.57), abs=0.06)
    scores = {"restored": {"psnr": psnr, "lpips": lpips, "kid": kid_score(0.0012345, 50)}}
    lines = printed(scores).splitlines()
    assert any(f"25.00 ± {(high - low) / 2:.2f} " in line and "0.2500 ± 0.0600" in line for line in lines)
    assert any("LPIPS ↓" in line and "KID x1e3 ↓" in line for line in lines)
    assert any(" 1.234 " in line for line in lines)
    assert sum("95 % bootstrap interval" in line for line in lines) == 1
    assert "bootstrap" not in printed(SCORES)
    write_metrics(tmp_path / "metrics.json", scores)
    content = json.loads((tmp_path / "metrics.json").read_text())["scores"]["restored"]
    assert content["psnr"]["interval"] == [low, high]
    assert content["kid"] == {"value": pytest.approx(1.2345), "note": "", "num_images": 50}


def test_published_table():
    assert len(PUBLISHED) == 9
    assert PUBLISHED["inpaint-freeform1020"] == (2.9, 74.9)
    assert all(2 < fid < 5 and 66 < accuracy <= 75 for fid, accuracy in PUBLISHED.values())


def test_importing_the_package_loads_no_torch():
    code = "import evaluation, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == 0


def test_every_public_name_is_there():
    import evaluation

    for name in evaluation.__all__:
        assert getattr(evaluation, name) is not None
    with pytest.raises(AttributeError, match="nonesuch"):
        _ = evaluation.nonesuch


def test_metrics_are_read_back(tmp_path):
    write_metrics(tmp_path / "metrics.json", SCORES, {"nfe": 5})
    settings, scores = read_metrics(tmp_path / "metrics.json")
    assert settings == {"nfe": 5}
    assert scores == SCORES


SCORE = '{"value": %s, "note": %s, "num_images": %s, "interval": %s}'


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"settings": {}, "scores": []}',
        '{"settings": 5, "scores": {}}',
        '{"settings": {}, "scores": {"degraded": {"psnr": 5}}}',
        *(
            '{"settings": {}, "scores": {"degraded": {"psnr": ' + SCORE % cell + "}}}"
            for cell in [
                ('"24"', '""', "8", "null"),
                ("24", "5", "8", "null"),
                ("24", '""', '"8"', "null"),
                ("24", '""', "8", "[1]"),
                ("24", '""', "8", '["a", "b"]'),
                ("24", '""', "8", "5"),
                ("24", '""', "8", "[]"),
                ("1" + "0" * 400, '""', "8", "null"),
                ("24", '""', "1" + "0" * 400, "null"),
                ("24", '""', "8", "[1, 1" + "0" * 400 + "]"),
                ("NaN", '""', "8", "null"),
                ("24", '""', "8", "[-Infinity, 1]"),
                ("1e300", '""', "8", "null"),
            ]
        ),
    ],
)
def test_what_holds_no_scores_is_refused(tmp_path, content):
    (tmp_path / "metrics.json").write_text(content)
    with pytest.raises(UserError, match=r"metrics\.json: cannot be read: it holds no scores; run compute_metrices"):
        read_metrics(tmp_path / "metrics.json")
