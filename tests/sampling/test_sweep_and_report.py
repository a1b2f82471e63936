"""Sweeps over NFE and reports, made by their scripts from real runs."""

import csv
import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from small_runs import NAME, metrics_argv, refusal, sample_argv

import compute_metrices
import sample
from evaluation.sweep import read_curve
from evaluation.table import run_key
from i2sb.recon import SECONDS, made_with, run_identity
from scripts import report, sweep_nfe


def restore(here, nfe, *flags):
    assert sample.main(sample_argv(here / "photos", NAME, "--nfe", str(nfe), *flags)) == 0


def judge(here, *names_and_flags):
    assert compute_metrices.main(metrics_argv(here / "photos", NAME, *names_and_flags)) == 0


def of(here, *names):
    return ["--ckpt", NAME, "--dataset-dir", str(here / "photos"), "--sample-dir", *names]


def sweep_argv(here, *more):
    return sample_argv(here / "photos", NAME, "--nfe", "1", "2", "5", "--metrics", "psnr", "ssim", *more)


def gain(row):
    return float(row["psnr_restored"]) - float(row["psnr_baseline"])


def rows(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def test_a_sweep_restores_judges_and_resumes(here, capsys):
    assert sweep_nfe.main(sweep_argv(here, "--save-images", "png")) == 0
    folder = here / "results" / NAME
    assert "NFE" in capsys.readouterr().out
    table = rows(folder / "sweep.csv")
    assert [row["nfe"] for row in table] == ["1", "2", "5"]
    for row in table:
        place = folder / f"samples_nfe{row['nfe']}"
        scores = json.loads((place / "metrics.json").read_text())["scores"]["restored"]
        assert float(row["psnr"]) == scores["psnr"]["value"]
        assert float(row["ssim"]) == scores["ssim"]["value"]
        assert float(row["seconds_per_image"]) == made_with(place / "recon.pt")[SECONDS] > 0
        assert len(list((place / "images").rglob("*.png"))) == 24  # passed on
    with Image.open(folder / "sweep.png") as plot:
        assert len(np.unique(np.asarray(plot.convert("L")))) > 50
    shutil.rmtree(folder / "samples_nfe2")
    kept = [folder / f"samples_nfe{n}" / f for n in (1, 5) for f in ("recon.pt", "metrics.json")]
    times = [path.stat().st_mtime_ns for path in kept]
    assert sweep_nfe.main(sweep_argv(here)) == 0
    assert [path.stat().st_mtime_ns for path in kept] == times
    assert [row["psnr"] for row in rows(folder / "sweep.csv")] == [row["psnr"] for row in table]
    assert sweep_nfe.main(sweep_argv(here, "--judge-again")) == 0
    assert kept[1].stat().st_mtime_ns > times[1]

    # what is derived from samples that are gone goes with them
    runs = [run_key(run_identity(folder / f"samples_nfe{nfe}")) for nfe in (1, 2, 5)]
    assert [row["run"] for row in rows(folder / "sweep.csv")] == runs
    assert sample.main([*sample_argv(here / "photos", NAME), "--overwrite", "--seed", "1"]) == 0
    assert not list(folder.glob("sweep*"))


def test_wrong_flags_of_a_sweep_are_refused_before_it_begins(here, capsys):
    for flags, said in (
        (["--precision", "fp8"], "sample.py: error: argument --precision"),
        (["--partition", "0_2"], "sweep_nfe.py: error: --partition"),
        (["--metrics", "beauty"], "sweep_nfe.py: error: argument --metrics"),
    ):
        assert said in refusal(capsys, sweep_nfe, sweep_argv(here, *flags))
    assert not list((here / "results" / NAME).glob("samples*"))


def test_a_report_from_flag_and_from_script(here):
    names = ["samples_nfe1", "samples_nfe5"]
    for nfe in (1, 5):
        restore(here, nfe, "--save-trajectory", "2")
    judge(here, *names, "--report")
    folder = here / "results" / NAME
    pages = {name: (folder / name / "report.html").read_text() for name in names}
    for name, page in pages.items():
        assert re.findall(r"<h2>([^<]+)</h2>", page) == [
            *(
                "Settings",
                "Scores",
                "NFE curves",
                "Gallery",
                "Worst images by gain in PSNR",
                "Best images by gain in PSNR",
            ),
            "Trajectories",
        ]
        assert f"NFE {name[-1]}" in page
        assert not re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', page)
        assert page.count('class="card trajectory') == 2
    page, table = pages[names[0]], rows(folder / names[0] / "metrics_per_image.csv")
    ranked = [row["image"] for row in sorted(table, key=gain)]
    cards = re.findall(r"<h3><bdi>(\S+)</bdi>", page)
    assert [name.split("/")[0] for name in cards[:6]] == ["chelsea", "china", "coffee"] * 2  # spread over the classes
    assert cards[12:24] == ranked[:6] + ranked[:-7:-1]

    for name in names:
        (folder / name / "report.html").unlink()
    assert report.main(of(here, *names)) == 0
    assert {name: (folder / name / "report.html").read_text() for name in names} == pages


def test_a_full_standard_output_costs_the_files_nothing(restored, capsys, monkeypatch):
    folder = restored / "results" / NAME
    samples = folder / "samples_nfe2"
    for script, argv, made in (
        (compute_metrices, metrics_argv(restored / "photos", NAME, samples.name), samples / "metrics.json"),
        (report, of(restored, samples.name), samples / "report.html"),
        (sweep_nfe, [*sweep_argv(restored), "--nfe", "2"], folder / "sweep.png"),
    ):
        with Path("/dev/full").open("w") as full, monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", full)
            assert "error: standard output: No space left" in refusal(capsys, script, argv)
        assert made.exists()


def test_what_a_report_lacks_is_one_line(here, capsys):
    argv = of(here, "samples_nfe2")
    restore(here, 2)
    assert "metrics.json: there is no such file; compute_metrices.py makes it" in refusal(capsys, report, argv)
    judge(here, "samples_nfe2")
    folder = here / "results" / NAME / "samples_nfe2"
    content = (folder / "metrics_per_image.csv").read_text()
    for damaged in (content.replace("chelsea", "gravel", 1), ""):
        (folder / "metrics_per_image.csv").write_text(damaged)
        assert "run compute_metrices.py again" in refusal(capsys, report, argv)


def test_scores_of_another_run_are_never_shown(here, capsys):
    restore(here, 2, "--seed", "1")
    judge(here, "samples_nfe2")
    folder = here / "results" / NAME / "samples_nfe2"
    derived = [folder / name for name in ("metrics.json", "metrics_per_image.csv")]
    old = {path: path.read_bytes() for path in derived}
    restore(here, 2, "--overwrite")
    assert not any(path.exists() for path in derived)
    restore(here, 1)
    judge(here, "samples_nfe1", "samples_nfe2")
    assert [point.nfe for point in read_curve(folder)] == [1, 2]
    for path in derived:  # each in turn replaced by the one of another run
        new = path.read_bytes()
        path.write_bytes(old[path])
        assert f"{path.name}: is of other samples" in refusal(capsys, report, of(here, "samples_nfe2"))
        assert len(read_curve(folder.with_name("samples_nfe1"))) == (0 if path == derived[0] else 2)
        path.write_bytes(new)


def test_trajectories_of_another_run_are_left_out(here, capsys):
    restore(here, 2, "--save-trajectory", "2")
    folder = here / "results" / NAME / "samples_nfe2"
    shutil.copytree(folder / "trajectories", here / "old")
    restore(here, 2, "--save-trajectory", "2", "--overwrite", "--seed", "1")
    judge(here, "samples_nfe2")
    shutil.copy(here / "old/00001.webp", folder / "trajectories/00001.webp")
    assert report.main(of(here, "samples_nfe2")) == 0
    assert "trajectories/00001.webp: is left out" in capsys.readouterr().err
    assert (folder / "report.html").read_text().count('class="card trajectory') == 1


def test_curves_hold_only_what_was_made_and_judged_alike(here):
    for nfe, flags in ((1, []), (2, ["--seed", "1"]), (3, []), (4, ["--clip-denoise"])):
        restore(here, nfe, *flags)
        judge(here, f"samples_nfe{nfe}" + ("_clip" if nfe == 4 else ""))
    folder = here / "results" / NAME
    points = read_curve(folder / "samples_nfe1")
    assert [point.nfe for point in points] == [1, 3]
    assert set(points[0].scores) == {"psnr", "ssim"}
    assert read_curve(folder / "samples_nfe2") == []
    assert read_curve(folder / "samples_nfe4_clip") == []
