"""Curves and pictures: metrics.jsonl always, and what TensorBoard and W&B themselves keep, read back."""

import argparse
import io
import json
import logging
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from processes import ROOT, largest_file, names
from webserver import closed_address

from i2sb.errors import UserError
from i2sb.options import parse_train_options
from i2sb.runtime.writers import Writer, build_writer

KEY = "0123456789abcdef0123456789abcdef01234567"


def writer_of(folder: Path, kind: str | None = None, start: int = 0, **options: object) -> Writer:
    """The writer of the run `folder`/a."""
    given = {"log_writer": kind, "log_dir": folder, "name": "a", "global_rank": 0, "ckpt": None}
    wandb = {"wandb_user": "me", "wandb_api_key": KEY}
    return build_writer(argparse.Namespace(**given | wandb | options), network={"channels": 8}, start=start)


def metrics(folder: Path) -> list[dict]:
    def refuse(text):
        raise AssertionError(f"{text} is no JSON")

    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line, parse_constant=refuse) for line in lines]


def picture() -> torch.Tensor:
    """[3,4,6] with the values k/255 exactly, and one out of range."""
    image = torch.arange(72).reshape(3, 4, 6) / 255
    image[0, 0, 0] = 1.5
    return image


def holders_of(secret: str, folder: Path) -> list[str]:
    """The files below `folder` in which the secret stands."""
    return [str(path) for path in folder.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]


# --- metrics.jsonl


def test_one_strict_json_line_per_call_at_once(tmp_path):
    with writer_of(tmp_path) as writer:
        writer.add_scalars(0, {"loss": torch.tensor(0.5)})
        writer.add_scalars(7, {"loss": float("nan"), "lr": np.float32(0.25), "skipped": 3, "psnr": -math.inf})
        writer.add_image(7, "recon", picture())
        found = metrics(tmp_path / "a")  # before the end
    times = [entry.pop("time") for entry in found]
    assert found == [{"step": 0, "loss": 0.5}, {"step": 7, "loss": None, "lr": 0.25, "skipped": 3, "psnr": None}]
    assert times == sorted(times)
    assert names(tmp_path / "a") == ["metrics.jsonl"]


@pytest.mark.parametrize("torn", [b'{"step": 1, "ti', b"\0" * 5000])
def test_a_torn_last_line_is_cut_off_at_the_next_start(tmp_path, torn):
    for step in (0, 1):
        with writer_of(tmp_path) as writer:
            writer.add_scalars(step, {"loss": 1})
        with (tmp_path / "a" / "metrics.jsonl").open("ab") as file:
            file.write(torn)
    writer_of(tmp_path).close()
    assert [entry["step"] for entry in metrics(tmp_path / "a")] == [0, 1]


@pytest.fixture
def messages(caplog, monkeypatch):
    """What is logged, and nowhere else: files of earlier tests may be larger than what a test allows."""
    monkeypatch.setattr(logging.getLogger("i2sb"), "handlers", [caplog.handler])
    monkeypatch.setattr(logging.getLogger("i2sb"), "propagate", False)
    return lambda: caplog.messages


def test_a_full_disk_is_logged_once_and_the_run_continues(tmp_path, messages):
    with writer_of(tmp_path) as writer, largest_file(2500):
        for step in range(90):
            writer.add_scalars(step, {"loss": 1})
    path = tmp_path / "a" / "metrics.jsonl"
    assert messages() == [f"{path}: cannot be written: File too large; the run continues without"]
    writer_of(tmp_path).close()
    steps = [entry["step"] for entry in metrics(tmp_path / "a")]
    assert steps == list(range(len(steps)))
    assert 10 < len(steps) < 90


def test_an_unknown_kind_is_refused_and_other_ranks_write_nothing(tmp_path):
    with writer_of(tmp_path, "wandb", global_rank=1) as writer:
        writer.add_scalars(0, {"loss": 1})
        writer.add_image(0, "recon", picture())
    with pytest.raises(UserError, match=r"^--log-writer csv: unknown, choose tensorboard or wandb$"):
        writer_of(tmp_path, "csv")
    assert names(tmp_path) == []


# --- TensorBoard


def read_events(folder: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0, "tensors": 0})
    events.Reload()
    return events


def test_tensorboard_reads_back_scalars_images_and_options(tmp_path):
    with writer_of(tmp_path, "tensorboard", ckpt=Path("results/\udcff")) as writer:
        writer.add_scalars(0, {"loss": 0.5, "lr": 0.25})
        writer.add_scalars(3, {"loss": float("nan")})
        writer.add_image(3, "eval/recon", picture())
        assert writer.where == f"tensorboard --logdir {tmp_path}/a"
    events = read_events(tmp_path / "a")
    assert [(event.step, event.value) for event in events.Scalars("lr")] == [(0, 0.25)]
    (first, second) = events.Scalars("loss")
    assert (first.step, first.value, second.step) == (0, 0.5, 3)
    assert math.isnan(second.value)
    (image,) = events.Images("eval/recon")
    assert image.step == 3
    expected = np.arange(72, dtype=np.uint8).reshape(3, 4, 6).transpose(1, 2, 0).copy()
    expected[0, 0, 0] = 255
    pixels = np.asarray(Image.open(io.BytesIO(image.encoded_image_string)).convert("RGB"))
    np.testing.assert_array_equal(pixels, expected)
    (text,) = events.Tensors("options/text_summary")
    options = dict(line.split(None, 1) for line in text.tensor_proto.string_val[0].decode().splitlines())
    assert (options["name:"], options["ckpt:"], options["network:"]) == ("a", "results/\\udcff", "{'channels': 8}")
    assert holders_of(KEY, tmp_path) == []


def test_tensorboard_on_a_full_disk_is_dropped(tmp_path, messages, capfd):
    with writer_of(tmp_path, "tensorboard") as writer, largest_file(3000):
        for step in range(20):
            writer.add_image(step, "recon", picture().repeat(1, 20, 20))
            time.sleep(0.02)  # another thread writes
    text = f"tensorboard --logdir {tmp_path}/a: cannot be written: File too large; the run continues without"
    assert messages() == [text]
    assert "Traceback" not in capfd.readouterr().err


def test_tensorboard_hides_what_a_resumed_run_draws_again(tmp_path):
    with writer_of(tmp_path, "tensorboard") as writer:
        for step in range(6):
            writer.add_scalars(step, {"loss": 1.0})
    with writer_of(tmp_path, "tensorboard", ckpt="a", start=3) as writer:
        writer.add_scalars(4, {"loss": 2.0})  # the checkpoint was saved after iteration 3, which was logged
    found = [(event.step, event.value) for event in read_events(tmp_path / "a").Scalars("loss")]
    assert found == [(0, 1.0), (1, 1.0), (2, 1.0), (3, 1.0), (4, 2.0)]


# --- W&B


@pytest.mark.parametrize("form", [["--wandb-api", KEY], [f"--wandb-api-key={KEY}"]])
def test_parsing_moves_the_key_to_the_environment(monkeypatch, form):
    monkeypatch.setenv("WANDB_API_KEY", "")
    monkeypatch.setattr(sys, "argv", ["train.py", "--corrupt", "jpeg-5", *form])
    opt = parse_train_options()
    assert os.environ["WANDB_API_KEY"] == KEY
    assert KEY not in str(vars(opt)) + str(sys.argv)
    assert sys.argv[:3] == ["train.py", "--corrupt", "jpeg-5"]


@pytest.fixture
def closed(monkeypatch, tmp_path_factory):
    """W&B has a home without its files and can reach nothing: an address where nobody is."""
    home = tmp_path_factory.mktemp("home")
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_IDENTITY_TOKEN_FILE", "NETRC", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "WANDB_CONFIG_DIR", "WANDB_CACHE_DIR"):
        monkeypatch.setenv(name, str(home))
    for name in ("WANDB_BASE_URL", "HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, closed_address())
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "2")
    return home


RUN = """
import sys
from argparse import Namespace
from i2sb.errors import UserError
from i2sb.runtime.writers import build_writer
opt = Namespace(log_writer="wandb", log_dir=sys.argv[1], name="a", global_rank=0, wandb_user="me",
                wandb_api_key=sys.argv.pop())
try:
    build_writer(opt)
except UserError as error:
    print(error)
"""


@pytest.mark.parametrize(("key", "reason"), [("", "No API key configured"), (KEY, "connection refused")])
def test_no_key_and_no_connection_are_one_line_each(tmp_path, closed, key, reason):
    command = [sys.executable, "-c", RUN, str(tmp_path), key]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=90, check=True)
    assert done.stdout.startswith("--log-writer wandb: ")
    assert reason in done.stdout
    assert done.stdout.endswith(
        "; check the connection and the key (--wandb-api-key, the variable WANDB_API_KEY or ~/.netrc (written by "
        "`wandb login`)), or set WANDB_MODE=offline\n"
    )
    assert done.stdout.count("\n") == 1
    assert "Traceback" not in done.stderr
    assert not (closed / ".netrc").exists()
    assert holders_of(KEY, tmp_path) == []
    assert KEY not in done.stdout + done.stderr
