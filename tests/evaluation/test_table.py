"""The table, its notes, metrics.json and the values per image; the published numbers; a light import."""

import json
import math
import os
import re
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from evaluation.table import Score, bootstrap_interval, mean_scores, print_scores, read_metrics, write_metrics
from i2sb.errors import UserError

REASON = "Inception weights: could not fetch https://a.b/c.pth; put it at /home/[x]/a/very/long/path/c.pth"
SCORES = {
    "degraded": {"psnr": Score(24.456, num_images=8), "ssim": Score(0.71234), "fid": Score(None, REASON)},
    "restored [b]": {"psnr": Score(25.7), "ssim": Score(0.8), "niqe": Score(0.25), "fid": Score(None, REASON)},
}
RUN = {"seed": 0, "data": "24-abc"}


def printed(scores):
    console = Console(width=80)
    with console.capture() as capture:
        print_scores(scores, "sr4x-pool, NFE 5", console)
    return capture.get()


def test_table_shows_rows_columns_units_and_each_reason_once():
    lines = [line.rstrip() for line in printed(SCORES).splitlines()]
    for cell in ("sr4x-pool, NFE 5", "degraded", "restored [b]", "24.46", "25.70", "0.7123", "0.2500"):
        assert cell in "".join(lines)
    assert re.search("images .* PSNR \\[dB\\] ↑ .* SSIM ↑ .* FID ↓ .* niqe", lines[2])
    assert [line for line in lines if "Inception" in line] == [f"FID (degraded, restored [b]): {REASON}"]


def test_metrics_json_is_strict_and_read_back(tmp_path):
    path = tmp_path / "samples" / "metrics.json"
    write_metrics(path, SCORES, {"ckpt": "sr4x", "folder": Path(os.fsdecode(b"data\xff")), "nfe": 5}, RUN)
    found = json.loads(path.read_text(), parse_constant=pytest.fail)  # neither NaN nor Infinity
    assert found["settings"] == {"ckpt": "sr4x", "folder": "data\udcff", "nfe": 5}
    assert found["run"] == RUN
    assert found["scores"]["degraded"]["psnr"]["value"] == 24.456
    assert found["scores"]["restored [b]"]["fid"]["note"] == REASON
    assert read_metrics(path, RUN) == ({"ckpt": "sr4x", "folder": "data\udcff", "nfe": 5}, SCORES)
    with pytest.raises(ValueError):
        write_metrics(path, SCORES, {"lr": math.nan}, RUN)
    assert read_metrics(path, RUN)[1] == SCORES  # a failed write keeps the old file


def test_values_that_are_no_number_say_so():
    assert Score(math.nan) == Score(None, "the value is nan")
    assert Score(math.inf, "why").note == "why"


def test_means_over_images():
    found = mean_scores({"degraded": [20.0, 30.0], "restored": [30.0, 40.0]})
    assert found == {"degraded": Score(25.0, "", 2, (20.0, 30.0)), "restored": Score(35.0, "", 2, (30.0, 40.0))}
    per_cent = mean_scores({"restored": [1.0, 0.0, 1.0, 1.0]}, scale=100)["restored"]
    assert (per_cent.value, per_cent.num_images) == (75.0, 4)
    assert 0 <= per_cent.interval[0] < 75 < per_cent.interval[1] <= 100
    assert mean_scores({"restored": [3.0]})["restored"] == Score(3.0, "", 1)
    assert mean_scores({"restored": [1.0, math.nan]})["restored"].value is None


def test_infinite_psnr_leaves_an_image_out_of_both_rows():
    rows = mean_scores({"degraded": [20.0, math.inf, 30.0, math.inf], "restored": [24.0, 50.0, math.inf, math.inf]})
    assert {row: (score.value, score.num_images) for row, score in rows.items()} == {
        "degraded": (20.0, 1),
        "restored": (24.0, 1),
    }
    assert all("over 1 of 4 images" in score.note for score in rows.values())
    nothing = mean_scores({"restored": [math.inf]})["restored"]
    assert (nothing.value, nothing.num_images) == (None, 0)


def test_intervals_of_normal_and_binomial_data_are_the_known_ones():
    values = np.random.default_rng(0).normal(25, 3, 2000)
    low, high = bootstrap_interval(values)
    half = 1.96 * values.std(ddof=1) / np.sqrt(2000)
    assert (values.mean() - low, high - values.mean()) == pytest.approx((half, half), rel=0.12)
    assert bootstrap_interval(np.repeat([1.0, 0.0], [70, 30])) == pytest.approx((0.61, 0.79), abs=0.025)
    assert bootstrap_interval(values) == (low, high)
    assert bootstrap_interval(np.full(5, 2.0)) == (2, 2)


def test_intervals_are_shown_and_written(tmp_path):
    psnr = mean_scores({"restored": np.linspace(20, 30, 100).tolist()})["restored"]
    low, high = psnr.interval
    scores = {"restored": {"psnr": psnr, "lpips": Score(0.25, interval=(0.2, 0.32)), "kid": Score(1.2344)}}
    lines = printed(scores).splitlines()
    assert any(f"25.00 ± {(high - low) / 2:.2f} " in line and "0.2500 ± 0.0600" in line for line in lines)
    assert any("LPIPS ↓" in line and "KID x1e3 ↓" in line for line in lines)
    assert sum("95 % bootstrap interval" in line for line in lines) == 1
    assert "bootstrap" not in printed(SCORES)
    write_metrics(tmp_path / "metrics.json", scores, {}, {})
    assert read_metrics(tmp_path / "metrics.json", {})[1] == scores


@pytest.mark.parametrize(
    "found",
    ["", "[]", '{"run": {}, "settings": {}, "scores": {"degraded": {"psnr": {"value": "24", "num_images": 8}}}}'],
)
def test_what_holds_no_scores_is_refused(tmp_path, found):
    (tmp_path / "metrics.json").write_text(found)
    with pytest.raises(UserError, match=r"metrics\.json: ") as caught:
        read_metrics(tmp_path / "metrics.json", {})
    assert "\n" not in str(caught.value)
