"""--sampler, --eta and --spacing through sample.py, the evaluation, the sweep and the report."""

import csv
import json
from pathlib import Path

import pytest
import torch
from small_runs import NAME, images, metrics_argv, refusal, sample_argv

import compute_metrices
import sample
from i2sb.options import parse_sample_options
from i2sb.recon import made_with, run_identity, sample_folder
from scripts import report, sweep_nfe


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        ("", "samples_nfe5"),
        ("--sampler ddpm --spacing uniform --clip-denoise", "samples_nfe5_clip"),
        ("--sampler dbim2", "samples_nfe5_dbim2"),
        ("--sampler dbim --eta 0", "samples_nfe5_dbim"),
        ("--sampler dbim --eta 0.5 --spacing logsnr --clip-denoise", "samples_nfe5_dbim_eta0.5_logsnr_clip"),
        ("--spacing quadratic", "samples_nfe5_quadratic"),
    ],
)
def test_the_folder_says_what_is_not_as_published(flags, name):
    opt = parse_sample_options(["--ckpt", "x", *flags.split()])
    assert sample_folder("x", 5, opt) == Path("results/x") / name


def test_each_sampler_has_its_images_its_settings_and_its_page(here):
    """All that comes out is equal for eta 1 and the published sampler, and for nothing else."""
    folder, found = here / "results" / NAME, {}
    for key, flags in {
        "": [],
        "_dbim_eta1": ["--sampler", "dbim", "--eta", "1"],
        "_dbim2": ["--sampler", "dbim2"],
        "_quadratic": ["--spacing", "quadratic"],
    }.items():
        assert sample.main(sample_argv(here / "photos", NAME, "--nfe", "4", *flags)) == 0
        found[key] = images(folder / f"samples_nfe4{key}")
    for key, arr in found.items():
        assert torch.allclose(arr, found[""], atol=1e-4) == (key in ("", "_dbim_eta1")), key
    kept = made_with(folder / "samples_nfe4_dbim_eta1/recon.pt")
    assert (kept["sampler"], kept["eta"], kept["spacing"]) == ("dbim", 1.0, "uniform")
    assert "sampler" not in run_identity(folder / "samples_nfe4")  # as before there were others
    name = "samples_nfe4_dbim2"
    assert compute_metrices.main(metrics_argv(here / "photos", NAME, name)) == 0
    assert report.main(["--ckpt", NAME, "--dataset-dir", str(here / "photos"), "--sample-dir", name]) == 0
    assert "NFE 4, dbim2" in (folder / name / "report.html").read_text()


def test_a_sweep_has_a_curve_per_sampler(here, capsys):
    flags = ["--nfe", "1", "3", "--sampler", "ddpm", "dbim", "--eta", "0.5", "--metrics", "psnr"]
    assert sweep_nfe.main(sample_argv(here / "photos", NAME, *flags)) == 0
    table = list(csv.DictReader((here / "results" / NAME / "sweep.csv").read_text().splitlines()))
    expected = [(sampler, nfe) for sampler in ("ddpm", "dbim_eta0.5") for nfe in ("1", "3")]
    assert [(row["sampler"], row["nfe"]) for row in table] == expected
    scores = json.loads((here / "results" / NAME / "samples_nfe3_dbim_eta0.5/metrics.json").read_text())["scores"]
    assert float(table[3]["psnr"]) == scores["restored"]["psnr"]["value"]
    assert "dbim_eta0.5, NFE 3" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("flags", [["--sampler", "dbim2", "--eta", "0.5"], ["--eta", "0.5"]])
def test_an_eta_that_does_not_suit_is_one_line(here, capsys, flags):
    line = refusal(capsys, sample, sample_argv(here / "photos", NAME, *flags))
    assert line.endswith("has no eta, dbim has")


def test_spatial_and_perceptual_distances_are_in_the_table(restored, capsys):
    pytest.importorskip("efficientnet_lite_pytorch", reason="the extra `perceptual` brings it")
    argv = metrics_argv(restored / "photos", NAME, "samples_nfe2", "--metrics", "fd_spatial", "perceptual")
    assert compute_metrices.main(argv) == 0
    scores = json.loads((restored / "results" / NAME / "samples_nfe2/metrics.json").read_text())["scores"]
    for row in ("degraded", "restored"):
        found = scores[row]["fd_spatial"]
        assert 0 < found["interval"][0] < found["value"] < found["interval"][1]
        assert scores[row]["perceptual"]["value"] > 0
    assert "FD spatial" in capsys.readouterr().out
