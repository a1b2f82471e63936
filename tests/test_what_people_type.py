"""Names, paths and numbers as people type them, and what is said where they are wrong."""

import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
from small_runs import NAME, ROOT, metrics_argv, photos, refusal, sample_argv, train_argv

sys.path.insert(0, str(ROOT / "scripts"))

import build_lmdb

import compute_metrices
import sample
import train
from guided_diffusion import presets
from i2sb.errors import UserError
from i2sb.export import demos
from i2sb.fetch import fetch_checkpoint
from i2sb.options import metrics, parse_metrics_options, parse_sample_options, parse_train_options, sampling
from i2sb.runtime.download import download


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a data set, one trained checkpoint, results/sr4x-pool, and its samples."""
    folder = tmp_path_factory.mktemp("place")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        dataset = photos(folder / "photos")
        assert train.main(train_argv(dataset, "--precision", "bf16", "--grad-checkpoint", "all")) == 0
        assert sample.main(sample_argv(dataset, NAME)) == 0
    return folder


# --- options alone


@pytest.mark.parametrize("typed", ["x", "x/", "./results/x/", "results/x/latest.pt", "x/latest.pt", "{cwd}/results/x"])
def test_a_checkpoint_may_be_given_by_its_path(typed):
    typed = typed.format(cwd=Path.cwd())
    assert parse_sample_options(["--ckpt", typed]).ckpt == "x"
    assert parse_train_options(["--corrupt", "jpeg-5", "--ckpt", typed]).ckpt == "x"
    typed = ["--ckpt", typed, "--sample-dir", "results/x/samples_nfe5/", "b", "results/x/samples_nfe2/recon.pt"]
    assert parse_metrics_options(typed).sample_dir == ["samples_nfe5", "b", "samples_nfe2"]


def test_samples_of_another_checkpoint(capsys):
    Path("results/y/samples_nfe5").mkdir(parents=True)
    line = refusal(capsys, compute_metrices, ["--ckpt", "x", "--sample-dir", "results/y/samples_nfe5"])
    assert "--sample-dir results/y/samples_nfe5: lies not in results/x" in line


def test_a_batch_that_cannot_be_shared_is_seen_first(capsys, monkeypatch):
    argv = ["--corrupt", "jpeg-5", "--batch-size", "6", "--n-gpu-per-node", "3"]
    parse_train_options(argv)
    line = refusal(capsys, train, [*argv, "--num-proc-node", "2"])
    assert "--batch-size 6: must be a multiple of processes x --microbatch = 6 x 2 = 12" in line
    monkeypatch.setenv("WORLD_SIZE", "4")  # torchrun's: each rank knows better
    parse_train_options(["--corrupt", "jpeg-5", "--batch-size", "6", "--microbatch", "4"])


@pytest.mark.parametrize(
    ("network", "name"),
    [
        (presets.resolve("small"), "small"),
        ({**presets.resolve("adm-64"), "in_channels": 6, "dropout": 0.3}, "adm-64"),
        (presets.resolve("tiny", channel_mult="1,2"), "tiny (channel_mult 1,2)"),
    ],
)
def test_a_network_is_called_by_its_preset(network, name):
    assert presets.name_of(network) == name


@pytest.mark.parametrize(
    ("parser", "seed"),
    [(sampling.build_parser(), "draws (default: 0)"), (metrics.build_parser(), "(default: the samples' own")],
)
def test_help_says_what_the_checkpoint_decides(parser, seed):
    for flag in ("--image-size", "--val-split", "--source", "--target", "--pair-layout", "--skip-unreadable"):
        assert parser._option_string_actions[flag].help.endswith("(default: the checkpoint's)")
    shown = " ".join(parser.format_help().split())
    assert "(default: 256)" not in shown
    assert seed in shown


# --- runs


def test_unknown_names_say_what_there_is(here, capsys):
    meant = f"did you mean sr4x-pool? There are {', '.join(sorted([*demos(), NAME]))};"
    assert meant in refusal(capsys, sample, sample_argv(here / "photos", "sr4x-bool"))
    assert meant in refusal(capsys, train, train_argv(here / "photos", "--ckpt", "sr4xpool"))
    judged = metrics_argv(here / "photos", NAME, "samples_nfe20")
    assert "did you mean samples_nfe2? There are samples_nfe2" in refusal(capsys, compute_metrices, judged)
    shutil.copy(f"results/{NAME}/latest.pt", f"results/{NAME}/iteration_0000004.pt")
    for script, argv in ((sample, sample_argv), (train, lambda data, name: train_argv(data, "--ckpt", name))):
        kept = argv(here / "photos", f"results/{NAME}/iteration_0000004.pt")
        assert "is a file; to use it, make it the latest.pt of a folder" in refusal(capsys, script, kept)
    with pytest.raises(UserError, match=r"did you mean jpeg-5\? There are blur-gauss, "):
        fetch_checkpoint("jpeg5")


def test_sampling_says_what_it_will_take(here, capsys):
    argv = ["--ckpt", NAME, "--dataset-dir", str(here / "photos"), "--device", "cpu", "--num-workers", "0"]
    assert sample.main([*argv, "--batch-size", "4"]) == 0
    shown = capsys.readouterr().err
    assert "12 images, NFE 9, one less than the training's --interval; a lower --nfe takes as much less time" in shown
    assert re.search(r"\[Sample\] about 0:00:\d\d \(h:mm:ss\) to the end", shown)
    picture = next((here / "photos/val").rglob("*.png"))
    assert sample.main([*argv[:2], "--device", "cpu", "--input", str(picture), "--output", "out"]) == 0
    assert "[Restore] 1 pictures, NFE 9, one less than" in capsys.readouterr().err


def test_a_resumed_batch_is_seen_before_the_data(here, capsys):
    argv = train_argv(here / "nowhere", "--ckpt", NAME, "--batch-size", "5")
    assert "--batch-size 5: must be a multiple" in refusal(capsys, train, argv)


def test_the_start_says_what_counts(here, capsys):
    flags = ["--name", "new", "--num-itr", "21", "--log-every", "100", "--eval-every", "100", "--eval-nfe", "3"]
    assert train.main(train_argv(here / "photos", "--channels-last", *flags)) == 0
    shown, kept = capsys.readouterr().err, Path(".log/new/log.txt").read_text()
    assert "[Train] tiny (channel_mult 1,1), 0.306 M parameters, 5.83 MiB with gradients" in shown
    assert "per micro-batch of 2, computed from shapes | 40 images per epoch, 10 iterations" in shown
    assert "cpu, fp32, channels last" in shown
    assert re.search(r"about 0:00:\d\d \(h:mm:ss\) to the end", shown)
    assert "[Eval] iteration 0: 2 images, NFE 3" in shown
    assert "[Eval] psnr/baseline" in shown
    assert "lr_gamma" in kept
    assert "lr_gamma" not in shown


def test_resuming_takes_what_is_not_given(here, capsys):
    argv = ["--ckpt", NAME, "--corrupt", NAME, "--device", "cpu", "--num-workers", "0", "--num-itr", "5"]
    assert train.main(argv) == 0
    shown = capsys.readouterr().err
    for taken in ("--precision bf16", "--grad-checkpoint all", "--eval-every 0", "--dataset-dir "):
        assert f"[Resume] {taken}" in shown
    options = torch.load(f"results/{NAME}/latest.pt", weights_only=True)["options"]
    assert (options["precision"], options["grad_checkpoint"]) == ("bf16", "all")
    assert train.main([*argv, "--num-itr", "6", "--precision", "fp32", "--dataset-dir", "photos"]) == 0
    assert f"--precision is now fp32; {NAME} was trained with bf16" in capsys.readouterr().err
    assert torch.load(f"results/{NAME}/latest.pt", weights_only=True)["options"]["dataset_dir"] == "photos"


def rewritten(name, change):
    """results/NAME: the checkpoint, with its weights in another form and without its average."""
    shutil.copytree(f"results/{NAME}", f"results/{name}", ignore=lambda *_: ["samples_nfe2"])
    state = torch.load(f"results/{NAME}/latest.pt", weights_only=True)
    torch.save(change(state), f"results/{name}/latest.pt")


def test_weights_of_other_forms(here, capsys):
    rewritten("wrapped", lambda s: {"net": {f"module._orig_mod.{k}": v for k, v in s["net"].items()}})
    rewritten("plain", lambda s: s["net"])
    rewritten("bare", lambda s: {k.removeprefix("diffusion_model."): v for k, v in s["net"].items()})
    arrays = []
    for name in ("wrapped", "plain", "bare"):
        assert sample.main(sample_argv(here / "photos", name)) == 0
        arrays.append(torch.load(f"results/{name}/samples_nfe2/recon.pt", weights_only=True)["arr"])
        shown = capsys.readouterr().err
        assert "it holds no average (EMA), the weights themselves serve as that" in shown
        assert ("its weights are called " in shown) == (name != "plain")
    assert torch.equal(arrays[0], arrays[1])
    assert torch.equal(arrays[0], arrays[2])
    torch.save({"arr": torch.zeros(1)}, "results/plain/latest.pt")
    assert "refused: it has no net and no ema" in refusal(capsys, sample, sample_argv(here / "photos", "plain"))


def test_a_size_that_does_not_divide_is_seen_before_the_data(here, capsys):
    argv = sample_argv(here / "nowhere", NAME, "--image-size", "33")
    assert "--image-size 33: this network halves images 1 times" in refusal(capsys, sample, argv)


def test_runs_that_fail_at_once_leave_nothing(here, monkeypatch, capsys):
    monkeypatch.chdir(here.parent)
    shutil.rmtree(here / "results" / NAME / "samples_nfe2")
    before = sorted(here.parent.rglob("*"))
    nowhere = here / "nowhere"
    assert "no such folder" in refusal(capsys, train, train_argv(nowhere))
    assert "no such folder" in refusal(capsys, build_lmdb, [str(nowhere), "out/x.lmdb"])
    with pytest.raises(UserError, match="could not fetch"):
        download("http://127.0.0.1:9/x", "data/x", retries=0)
    monkeypatch.chdir(here)
    assert "no such folder" in refusal(capsys, sample, sample_argv(nowhere, NAME))
    assert sorted(here.parent.rglob("*")) == before
