"""The commands of README.md and docs/your-data.md, as they stand there, at a tiny scale; README's promises."""

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
from i2sb import Bridge
from scripts import build_lmdb, draw_method, make_photo_dataset, sweep_nfe

SCRIPTS = {
    "train.py": train,
    "sample.py": sample,
    "compute_metrices.py": compute_metrices,
    "scripts/build_lmdb.py": build_lmdb,
    "scripts/make_photo_dataset.py": make_photo_dataset,
    "scripts/sweep_nfe.py": sweep_nfe,
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
    "scripts/sweep_nfe.py": [*QUICK, "--image-size", "32"],
}


def commands(page: Path) -> list[list[str]]:
    blocks = re.findall(r"```bash\n(.*?)```", page.read_text().replace("\\\n", ""), re.DOTALL)
    return [shlex.split(line) for block in blocks for line in block.splitlines() if line]


README = (ROOT / "README.md").read_text()
COMMANDS = commands(ROOT / "docs/your-data.md")
NOT_RUN = {  # command of README -> why no test runs it
    "bash scripts/quickstart.sh": "takes minutes",
    "bash scripts/download_checkpoint.sh jpeg-10": "fetches 8.8 GB; tests/i2sb/test_download.py fetches small ones",
    "bash scripts/train.sh TASK": "trains for days",
    "bash scripts/test.sh": "runs this",
    "python3 -m venv .venv": "scripts/setup_env.sh does it where there is no environment",
    'pip install -e ".[perceptual]"': "scripts/setup_env.sh does",
    "pip install .": "tests/test_packaging.py installs the wheel",
    "source .venv/bin/activate": "belongs to the user's shell",
    "conda env create --file requirements.yaml": "needs conda",
    "conda activate i2sb": "needs conda",
    "docker run --shm-size=8g": "needs docker",
    "python scripts/demo.py": "tests/restoring/test_demo.py serves it",
}


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
        *("bundled.json", "train", "train_faster_imagefolder.lmdb", "train_faster_imagefolder.lmdb.pt", "val")
    ]
    assert (place / "results/pairs/samples_nfe2/report.html").is_file()
    scores = json.loads((place / "results/pairs/samples_nfe2/metrics.json").read_text())["scores"]
    assert scores["degraded"]["psnr"]["num_images"] == 24
    assert scores["degraded"]["psnr"]["value"] == pytest.approx(20 * np.log10(255 / 8), abs=0.01)
    held_out = len(torch.load("results/folders/samples_nfe2/recon.pt", weights_only=True)["arr"])
    assert 0 < held_out < 24
    assert Image.open(place / "colours/trainA/astronaut/astronaut_0000.png").mode == "RGB"


def test_readme_is_short_and_every_command_is_run_or_named():
    inline = re.findall(r"`((?:bash|python3?|pip|conda|source|docker) [^`]+)`", README)
    blocks = [shlex.join(command) for command in commands(ROOT / "README.md") if command[0] != "python"]
    assert {*inline, *blocks} == {*NOT_RUN}
    assert len(README.splitlines()) <= 200
    links = re.findall(r"\]\((?!http)([^)#]+)", README)
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_commands_of_readme_run_in_their_order(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(place / "photos", "photos")
    shutil.copytree(place / "pairs", "pairs")
    for name, task in {"demo-jpeg-10": "jpeg-10", "demo-sr4x-bicubic": "sr4x-bicubic", "jpeg-10": "jpeg-10"}.items():
        fields = {"task": task, "image_size": 32, "network": "tiny", "interval": 10}
        Bridge.create(fields, device="cpu").save_pretrained(f"results/{name}")
    Image.open(next(Path("photos").rglob("*.png"))).save("photo.jpg")
    Image.open("photo.jpg").save("small.png")
    for program, script, *argv in commands(ROOT / "README.md"):
        if program != "python":
            continue
        more = QUICK if "--input" in argv else SMALLER[script]
        more = [*more, "--num-itr", "2"] if "2000000" in argv else more
        argv = [part.replace("nfe10", "nfe2") for part in argv]
        assert SCRIPTS[script].main([*argv, *more]) == 0, shlex.join(argv)
    (program,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(program, {})
    assert Image.open("restored.png").size == (128, 128)
    assert Image.open("restored/photo.jpg").size == (32, 32)
    assert Path("results/mine/samples_nfe2/report.html").is_file()
    assert torch.load("results/mine/latest.pt", weights_only=True)["resume"]["iteration"] == 2


def test_the_messages_of_readme_are_the_programs():
    rows = re.findall(r"^\| `(.+?)` \|", README.partition("## Troubleshooting")[2], re.MULTILINE)
    files = [path for folder in ("i2sb", "dataset") for path in (ROOT / folder).rglob("*.py")]
    code = re.sub(r'"\s*\n\s*f?"', "", "\n".join(path.read_text() for path in files))
    code = re.sub(r"\{[^{}]*\}", "…", code)  # what a message fills in
    assert len(rows) > 10
    assert [message for message in rows if message not in code] == ["No module named 'torch'"]


def test_the_figures_of_the_method_are_drawn(tmp_path):
    assert draw_method.main(["--out", str(tmp_path)]) == 0
    for path in tmp_path.iterdir():
        assert 0.8 < path.stat().st_size / (ROOT / "docs/figures" / path.name).stat().st_size < 1.25
    assert len([*tmp_path.iterdir()]) == 2
