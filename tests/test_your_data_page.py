"""The commands of docs/your-data.md, as they stand there, at a tiny scale."""

import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_runs import ROOT, photos

import compute_metrices
import sample
import train
from scripts import build_lmdb, make_photo_dataset

SCRIPTS = {
    "train.py": train,
    "sample.py": sample,
    "compute_metrices.py": compute_metrices,
    "scripts/build_lmdb.py": build_lmdb,
    "scripts/make_photo_dataset.py": make_photo_dataset,
}
QUICK = ["--device", "cpu", "--num-workers", "0"]
SMALLER = {
    "train.py": shlex.split(
        "--image-size 32 --interval 10 --T 1 --batch-size 2 --microbatch 2 --num-itr 1 --eval-nfe 1 --net tiny "
        "--channel-mult 1,1 --device cpu --num-workers 0"
    ),
    "sample.py": [*QUICK, "--image-size", "32", "--nfe", "2"],
    "compute_metrices.py": [*QUICK, "--image-size", "32", "--metrics", "psnr"],
    "scripts/build_lmdb.py": [],
    "scripts/make_photo_dataset.py": ["--val-size", "32", "--num-train", "20", "--num-val", "2"],
}


def commands(page: Path) -> list[list[str]]:
    blocks = re.findall(r"```bash\n(.*?)```", page.read_text().replace("\\\n", ""), re.DOTALL)
    return [shlex.split(line) for block in blocks for line in block.splitlines() if line]


COMMANDS = commands(ROOT / "docs/your-data.md")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the data that the page speaks of."""
    here = tmp_path_factory.mktemp("place")
    photos(here / "photos", train=24, val=1)
    files = sorted((here / "photos/train").glob("*/*.png"))
    for folder in ("unsorted/train", "noisy", "quiet", "facades/train", "facades/val"):
        (here / folder).mkdir(parents=True)
    for path in files:
        shutil.copy(path, here / "unsorted/train")
        shutil.copy(path, here / "quiet")
        with Image.open(path) as image:
            Image.fromarray(np.asarray(image) ^ 8).save(here / "noisy" / path.name)
    for split in ("train", "val"):
        shutil.copytree(here / "noisy", here / f"pairs/{split}A")
        shutil.copytree(here / "quiet", here / f"pairs/{split}B")
        for path in files[:4]:
            with Image.open(path) as image:
                image.resize((64, 32)).save(here / "facades" / split / path.name)
    (here / "pairs.csv").write_text("".join(f"noisy/{path.name},quiet/{path.name}\n" for path in files))
    return here


def test_the_commands_run_in_their_order(place, monkeypatch):
    monkeypatch.chdir(place)
    assert len(COMMANDS) > 12
    for python, script, *argv in COMMANDS:
        assert python == "python"
        more = [part.replace("nfe999", "nfe2").replace("nfe1_", "nfe2_") for part in argv]
        verify = "--verify" in argv
        try:
            assert SCRIPTS[script].main(more if verify else [*more, *SMALLER[script]]) == 0, shlex.join(argv)
        except SystemExit as refused:
            pytest.fail(f"{shlex.join(argv)}: {refused}")
    assert sorted(path.name for path in Path("photos").iterdir()) == [
        *("bundled.json", "train", "train_faster_imagefolder.lmdb", "train_faster_imagefolder.lmdb.pt", "val"),
    ]
    assert (place / "results/pairs/samples_nfe2/report.html").is_file()
    scores = json.loads((place / "results/pairs/samples_nfe2/metrics.json").read_text())["scores"]
    assert scores["degraded"]["psnr"]["num_images"] == 24
    assert scores["degraded"]["psnr"]["value"] == pytest.approx(20 * np.log10(255 / 8), abs=0.01)
    held_out = len(torch.load("results/folders/samples_nfe2/recon.pt", weights_only=True)["arr"])
    assert 0 < held_out < 24
    assert Image.open(place / "colours/trainA/astronaut/astronaut_0000.png").mode == "RGB"
