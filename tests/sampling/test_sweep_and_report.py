"""Sweeps over NFE and report pages, made by their scripts from real runs."""

import csv
import importlib.util
import json
import re
import shutil

import hostile
import numpy as np
import pytest
from PIL import Image
from places import NAME
from processes import ROOT
from small_runs import metrics_argv, sample_argv

import compute_metrices
import sample
from i2sb.recon import SECONDS, made_with


def load_script(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def sweep_argv(here, *more):
    argv = sample_argv(here / "photos", NAME)
    argv = argv[: argv.index("--nfe")]
    return [*argv, "--nfe", "1", "2", "5", "--metrics", "psnr", "ssim", "--batch-size", "6", *more]


def rows(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def test_a_sweep_restores_judges_and_goes_on(here, capsys):
    sweep = load_script("sweep_nfe")
    assert sweep.main(sweep_argv(here, "--save-images", "png")) == 0
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
    assert float(table[2]["seconds_per_image"]) > float(table[0]["seconds_per_image"])
    with Image.open(folder / "sweep.png") as plot:
        assert plot.format == "PNG"
        assert len(np.unique(np.asarray(plot.convert("L")))) > 50

    shutil.rmtree(folder / "samples_nfe2")
    kept = [folder / f"samples_nfe{n}" / f for n in (1, 5) for f in ("recon.pt", "metrics.json")]
    times = [path.stat().st_mtime_ns for path in kept]
    assert sweep.main(sweep_argv(here)) == 0
    assert [path.stat().st_mtime_ns for path in kept] == times
    assert [row["psnr"] for row in rows(folder / "sweep.csv")] == [row["psnr"] for row in table]
    assert sweep.main(sweep_argv(here, "--judge-again")) == 0
    assert kept[1].stat().st_mtime_ns > times[1]


def test_wrong_flags_of_a_sweep_are_told_before_it_begins(here, capsys):
    sweep = load_script("sweep_nfe")
    for flags, said in (
        (["--precision", "fp8"], "sample.py: error: argument --precision"),
        (["--partition", "0_2"], "sweep_nfe.py: error: --partition"),
        (["--metrics", "beauty"], "sweep_nfe.py: error: argument --metrics"),
    ):
        with pytest.raises(SystemExit) as stop:
            sweep.main(sweep_argv(here, *flags))
        assert stop.value.code == 2
        assert said in capsys.readouterr().err
    assert not list((here / "results" / NAME).glob("samples*"))
    assert sweep.main(sweep_argv(here, "--nfe", "3", "10")) == 2
    assert "1 to 9 are possible" in capsys.readouterr().err


def sections(page):
    return re.findall(r"<h2[^>]*>([^<]+)</h2>", page)


def test_a_report_from_flag_and_from_script(here, capsys):
    for nfe in ("1", "5"):
        assert sample.main(sample_argv(here / "photos", NAME, "--nfe", nfe, "--save-trajectory", "2")) == 0
    names = ["samples_nfe1", "samples_nfe5"]
    argv = metrics_argv(here / "photos", NAME, names[0], "--report")
    argv.insert(argv.index(names[0]) + 1, names[1])
    assert compute_metrices.main(argv) == 0
    folder = here / "results" / NAME
    pages = {name: (folder / name / "report.html").read_text() for name in names}
    for name, page in pages.items():
        titles = " ".join(sections(page))
        for section in ("Settings", "Scores", "NFE curves", "Gallery", "Worst", "Best", "Trajectories"):
            assert section in titles
        assert f"NFE {name[-1]}" in page
        assert not re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', page)
    with (folder / names[0] / "metrics_per_image.csv").open() as file:
        table = sorted(csv.DictReader(file), key=lambda row: float(row["psnr_restored"]))
    page = pages[names[0]]
    worst = page[page.index("Worst cases") : page.index("Best cases")]
    assert re.findall(r"\w+/\w+\.png", worst)[0] == table[0]["image"]
    gallery = page[page.index(">Gallery<", page.index("<h2")) : page.index("Worst cases")]
    shown = list(dict.fromkeys(re.findall(r"(\w+)/\w+\.png", gallery)))
    assert shown[:3] == ["chelsea", "china", "coffee"]  # spread over the classes

    (folder / names[0] / "report.html").unlink()
    (folder / names[1] / "report.html").unlink()
    report = load_script("report")
    assert report.main(["--ckpt", NAME, "--dataset-dir", str(here / "photos"), "--sample-dir", *names]) == 0
    assert {name: (folder / name / "report.html").read_text() for name in names} == pages


def test_what_a_report_lacks_is_one_line(here, capsys):
    report = load_script("report")
    argv = ["--ckpt", NAME, "--dataset-dir", str(here / "photos"), "--sample-dir", "samples_nfe2"]
    assert sample.main(sample_argv(here / "photos", NAME)) == 0
    assert report.main(argv) == 2
    assert "metrics.json: there is no such file; compute_metrices.py makes it" in capsys.readouterr().err
    assert compute_metrices.main(metrics_argv(here / "photos", NAME, "samples_nfe2")) == 0
    folder = here / "results" / NAME / "samples_nfe2"
    content = (folder / "metrics_per_image.csv").read_text()
    for damaged, said in (
        (content.replace("chelsea", "gravel", 1), "is of other images; run compute_metrices.py again"),
        ("image,psnr_restored\na,b\n", "holds no scores per image"),
        (content.replace("chelsea", "c" * 200_000, 1), "holds no scores per image"),
        ("", "holds no scores per image"),
    ):
        (folder / "metrics_per_image.csv").write_text(damaged)
        assert report.main(argv) == 2
        assert said in capsys.readouterr().err.strip().splitlines()[-1]
    with hostile.pipe(folder / "metrics_per_image.csv"):
        assert report.main(argv) == 2
    assert "metrics_per_image.csv: cannot be read: it holds no scores per image" in capsys.readouterr().err
    (folder / "metrics.json").write_text('{"scores": 3}')
    assert report.main(argv) == 2
    assert "metrics.json: cannot be read: it holds no scores" in capsys.readouterr().err


def test_curves_hold_only_what_was_made_and_judged_alike(here):
    from wiring.curves import nfe_curves

    for nfe in ("1", "2", "3", "4"):
        flags = ["--nfe", nfe, *(["--seed", "1"] if nfe == "2" else []), *(["--clip-denoise"] if nfe == "4" else [])]
        assert sample.main(sample_argv(here / "photos", NAME, *flags)) == 0
        name = f"samples_nfe{nfe}" + ("_clip" if nfe == "4" else "")
        assert compute_metrices.main(metrics_argv(here / "photos", NAME, name)) == 0
    folder = here / "results" / NAME
    points = nfe_curves(folder / "samples_nfe1")
    assert [point.nfe for point in points] == [1, 3]
    assert set(points[0].metrics) == {"psnr", "ssim"}
    assert nfe_curves(folder / "samples_nfe2") == []
    assert nfe_curves(folder / "samples_nfe4_clip") == []
