"""Operators from a user's file, through the scripts: the example of docs/tasks.md, and what can go wrong."""

import json
import re
import shlex
from pathlib import Path

import pytest
import torch
from PIL import Image
from small_runs import ROOT, metrics_argv, photos, refusal, sample_argv, script, train_argv

import compute_metrices
import sample
import train

DOCS = (ROOT / "docs/tasks.md").read_text()
EXAMPLE = re.search(r"```python\n(.*?)```", DOCS, re.DOTALL)[1]
COMMANDS = re.search(r"```bash\n(.*?)```", DOCS, re.DOTALL)[1].splitlines()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a data set, the example's file, and results/fog, trained with it by two processes."""
    folder = tmp_path_factory.mktemp("place")
    dataset = photos(folder / "DIR")
    (folder / "my_op.py").write_text(EXAMPLE)
    small = train_argv(dataset, "--num-itr", "2", "--n-gpu-per-node", "2")
    done = script("train", [*printed("train.py"), *small[small.index("--image-size") :]], folder)
    assert done.returncode == 0, done.stderr
    return folder


def printed(name: str) -> list[str]:
    """The flags that the docs give this script."""
    return next(shlex.split(line)[2:] for line in COMMANDS if line.startswith(f"python {name} "))


def test_the_example_is_ten_lines():
    assert len([line for line in EXAMPLE.splitlines() if line.strip()]) <= 10


def test_the_example_as_printed(here):
    options = json.loads((here / "results/fog/options.json").read_text())
    assert options["corrupt"] == "fog"
    assert Path(options["corruption_file"]).name == "my_op.py"
    assert sample.main([*printed("sample.py"), "--device", "cpu", "--nfe", "2", "--num-workers", "1"]) == 0
    more = ["--sample-dir", "samples_nfe2", "--metrics", "psnr", "--report", "--device", "cpu", "--num-workers", "0"]
    assert compute_metrices.main([*printed("compute_metrices.py"), *more]) == 0
    assert (here / "results/fog/samples_nfe2/report.html").is_file()
    scores = json.loads((here / "results/fog/samples_nfe2/metrics.json").read_text())["scores"]
    paths = sorted((here / "DIR/val").glob("*/*.png"))
    clean = torch.stack([torch.frombuffer(bytearray(Image.open(p).tobytes()), dtype=torch.uint8) for p in paths])
    clean = clean.reshape(-1, 32, 32, 3).double()
    thickness = torch.linspace(0.2, 0.8, 32)[:, None]
    foggy = (clean * (1 - thickness) + 255 * thickness).round()
    psnr = 20 * torch.log10(torch.tensor(255.0)) - 10 * torch.log10(((foggy - clean) ** 2).mean((1, 2, 3)))
    assert scores["degraded"]["psnr"]["value"] == pytest.approx(psnr.mean().item(), abs=0.02)


def test_a_file_that_is_gone_is_asked_for(here, place, capsys):
    with hidden(place / "my_op.py"):
        wanted = r"the task 'fog' comes from .*my_op\.py, which is not there; give --corruption-file FILE"
        assert re.search(wanted, refusal(capsys, sample, sample_argv(here / "DIR", "fog")))
        assert sample.main(sample_argv(here / "DIR", "fog", "--corruption-file", "my_op.py")) == 0
        judge = metrics_argv(here / "DIR", "fog", "samples_nfe2")
        assert "give --corruption-file FILE" in refusal(capsys, compute_metrices, judge)
        argv = metrics_argv(here / "DIR", "fog", "samples_nfe2", "--corruption-file", "my_op.py")
        assert compute_metrices.main(argv) == 0
    argv = train_argv(here / "DIR", "--ckpt", "fog", "--corruption-file", "my_op.py", "--num-itr", "4", corrupt="fog")
    assert train.main(argv) == 0


def test_a_file_that_has_changed_is_not_run(here, place, capsys):
    with hidden(place / "my_op.py"):
        (place / "my_op.py").write_text(f"open('ran', 'w')\n{EXAMPLE}")
        last = refusal(capsys, sample, sample_argv(here / "DIR", "fog"))
        assert "my_op.py, which has changed since the training; give --corruption-file" in last
        assert not Path("ran").exists()
        argv = sample_argv(here / "DIR", "fog", "--corruption-file", str(place / "my_op.py"))
        assert sample.main(argv) == 0
        assert "my_op.py: is another file than before, or has changed since the training" in capsys.readouterr().err
        assert Path("ran").exists()
        argv = sample_argv(here / "DIR", "fog", "--corruption-file", "my_op.py")  # the samples are of the other file
        assert "operator was" in refusal(capsys, sample, argv)
        (place / "my_op.py").unlink()


def test_a_file_that_comes_with_a_checkpoint_is_not_run(here, capsys, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(here / "another user"))
    last = refusal(capsys, sample, sample_argv(here / "DIR", "fog"))
    assert "my_op.py, which you have not named before; give --corruption-file FILE" in last
    assert sample.main(sample_argv(here / "DIR", "fog", "--corruption-file", "my_op.py")) == 0
    assert sample.main(sample_argv(here / "DIR", "fog")) == 0


class hidden:
    """A file is away for a while."""

    def __init__(self, path: Path):
        self.path, self.away = path, path.with_suffix(".away")

    def __enter__(self):
        self.path.rename(self.away)

    def __exit__(self, *_):
        self.away.rename(self.path)


BODY = "        return x * (1 - thickness) + thickness\n"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (EXAMPLE.replace("def degrade", "def def"), "argument --corruption-file: .*my_op.py, line 9: invalid syntax"),
        (EXAMPLE.replace('"fog"', '"frog"'), "argument --corrupt: unknown task 'fog': did you mean frog"),
        (
            EXAMPLE.replace('corruption("fog")', 'family("fog-percent", "1..9", "fog-3")'),
            r"argument --corruption-file: .*my_op.py, line 5: @family\('fog-percent', .*: wanted: a pattern with",
        ),
        (EXAMPLE.replace("import torch", "import torsch"), "my_op.py, line 1: ModuleNotFoundError: No module named"),
        (EXAMPLE + "\nprint(1 / 0)\n", "my_op.py, line 13: ZeroDivisionError: division by zero"),
        (EXAMPLE.replace("self.width", "3"), "my_op.py, line 11: RuntimeError: The size of tensor"),
        (
            EXAMPLE.replace(BODY, "        return x[:, :1]\n"),
            r"my_op.py, line 9: .*fog turned .* into \[2, 1, 32, 32\]",
        ),
        (EXAMPLE.replace(BODY, "        return None\n"), r"my_op.py, line 9: .*fog turned .* into NoneType"),
        (EXAMPLE.replace(BODY, "        return x / 0\n"), r"my_op.py, line 9: .*fog turned .* into NaN or inf"),
        (EXAMPLE.replace("(Corruption)", ""), "my_op.py, line 5: .*Fog must be a subclass of Corruption"),
        (EXAMPLE.replace("(self, x)", "(self)"), r"my_op.py, class Fog: TypeError: .*degrade\(\) takes 1 positional"),
        (EXAMPLE + '\n@corruption("jpeg-37")\nclass J(Corruption): pass\n', "my_op.py: 'jpeg-37' is a task of this"),
    ],
    ids=["syntax", "name", "family", "import", "run", "degrade", "shape", "none", "inf", "base", "args", "taken"],
)
def test_a_fault_in_the_file_is_one_line_with_its_place(here, capsys, source, message):
    Path("my_op.py").write_text(source)
    argv = train_argv(here / "DIR", "--name", "x", "--corruption-file", "my_op.py", corrupt="fog")
    error = refusal(capsys, train, argv)
    assert error.startswith("train.py: error: ")
    assert re.search(message, error), error


def test_parameters_and_noise_in_a_file_of_ones_own(here):
    Path("grain.py").write_text(
        "from corruption import Corruption, family\n\n"
        '@family("grain-LEVELS", "1..50", example="grain-9")\n'
        "class Grain(Corruption):\n"
        "    draws_noise = True\n\n"
        "    def degrade(self, x, randn):\n"
        "        return x.add_(randn(x) * self.levels / 127.5)\n"
    )
    argv = train_argv(here / "DIR", "--corruption-file", "grain.py", "--num-itr", "1", corrupt="grain-20")
    assert train.main(argv) == 0
    assert sample.main(sample_argv(here / "DIR", "grain-20")) == 0
    assert compute_metrices.main(metrics_argv(here / "DIR", "grain-20", "samples_nfe2")) == 0
    scores = json.loads(Path("results/grain-20/samples_nfe2/metrics.json").read_text())["scores"]
    expected = 20 * torch.log10(torch.tensor(255 / 20)).item()
    assert scores["degraded"]["psnr"]["value"] == pytest.approx(expected, abs=0.4)


def test_a_task_that_is_not_defined_for_these_images_is_one_line(here, capsys):
    for task, why in (
        ("inpaint-center-33", "the hole does not fit into images of 32x32"),
        ("inpaint-masks=nowhere", "there is no such folder"),
    ):
        argv = train_argv(here / "DIR", "--name", "x", corrupt=task)
        assert f"{task}: {why}" in refusal(capsys, train, argv)
