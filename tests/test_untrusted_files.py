"""Untrusted and damaged files met by the scripts: one line that names the file, nothing runs, nothing wrong is used."""

import logging
import pickle
from argparse import Namespace

import bad_files
import lmdb
import pytest
import torch
from small_runs import metrics_argv, photos, refusal, sample_argv, train_argv
from small_runs import script as own_process

import compute_metrices
import sample
import train
from dataset.build import build_lmdb
from guided_diffusion import presets
from i2sb.ckpt_util import build_ckpt_option
from i2sb.export import export
from i2sb.runner import Runner

LOG = logging.getLogger("test")
NETWORK = "data/256x256_diffusion_uncond_fixedsigma.pkl"
FIRST_WEIGHTS = "data/256x256_diffusion_uncond_fixedsigma.pt"
LATEST, RECON = "results/a/latest.pt", "results/a/samples_nfe2/recon.pt"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("place")
    photos(folder / "photos", train=11, val=1)
    for split in ("train", "val"):
        build_lmdb(folder / "photos" / split, folder / f"photos/{split}_faster_imagefolder.lmdb", log=LOG)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert train.main(train_argv(folder / "photos", "--name", "a", "--num-itr", "1")) == 0
        assert sample.main(sample_argv(folder / "photos", "a")) == 0
        runner = Runner(build_ckpt_option(Namespace(device="cpu"), None, folder / "results/a"), LOG, save_opt=False)
        export(runner, folder / "results/e")
    # a network and its first weights, as the original finds them
    (folder / "data").mkdir(exist_ok=True)
    (folder / NETWORK).write_bytes(pickle.dumps(presets.resolve("tiny", channel_mult="1,1")))
    state = torch.load(folder / LATEST, weights_only=True)["net"]
    bare = {key.removeprefix("diffusion_model."): value for key, value in state.items()}
    torch.save(bare, folder / FIRST_WEIGHTS)
    return folder


SAMPLE = (sample, lambda h: sample_argv(h / "photos", "a", "--overwrite"))
JUDGE = (compute_metrices, lambda h: metrics_argv(h / "photos", "a", "samples_nfe2"))
RESUME = (train, lambda h: train_argv(h / "photos", "--ckpt", "a", "--num-itr", "2"))
SAMPLE_ON = (sample, lambda h: sample_argv(h / "photos", "a"))
SAMPLE_EXPORTED = (sample, lambda h: sample_argv(h / "photos", "e", "--overwrite"))
NAMED = ("--net", "tiny", "--channel-mult", "1,1")
NEW = ("--name", "b", "--num-itr", "1", "--overwrite")
RETRAIN = (train, lambda h: [word for word in train_argv(h / "photos", *NEW) if word not in NAMED])
FILES = {  # file -> the scripts that open it
    LATEST: [SAMPLE, RESUME],
    "results/a/options.pkl": [SAMPLE, RESUME, JUDGE],
    RECON: [JUDGE],
    "photos/val_faster_imagefolder.lmdb.pt": [SAMPLE],
    "photos/train_faster_imagefolder.lmdb.pt": [RESUME],
    NETWORK: [RETRAIN],
    FIRST_WEIGHTS: [RETRAIN],
    "results/a/samples_nfe2/recon.json": [JUDGE, SAMPLE_ON],
    "results/e/ema.safetensors": [SAMPLE_EXPORTED],
}
CASES = [(path, script) for path, scripts in FILES.items() for script in scripts]
IDS = [f"{path.rpartition('/')[2]}-{script[0].__name__}" for path, script in CASES]


def refused(script, here, capsys) -> str:
    module, argv = script
    last = refusal(capsys, module, argv(here))
    assert last.startswith(f"{module.__name__}.py: error: "), last
    assert len(last) < 900
    return last


@pytest.mark.parametrize(("path", "script"), CASES, ids=IDS)
def test_no_untrusted_file_is_executed(here, capsys, path, script):
    trap = here / "trap"
    trap.mkdir()
    good = (here / path).read_bytes()
    attack = bad_files.attacks(trap)["os.system in a dict, protocol 4"]  # all of them meet the readers in tests/i2sb
    for data in (attack, good[: len(good) // 2], b"<!DOCTYPE html><html>"):
        (here / path).write_bytes(data)
        assert path.rpartition("/")[2] in refused(script, here, capsys)
        assert not list(trap.iterdir())


@pytest.mark.parametrize(("path", "script"), [(LATEST, SAMPLE), (LATEST, RESUME)])
def test_one_flipped_bit_in_a_tensor_is_found(here, capsys, path, script):
    average = torch.load(here / path, weights_only=True)["ema"]["shadow_params"][0]
    numbers = average.numpy().tobytes()
    data = bytearray((here / path).read_bytes())
    data[data.rindex(numbers) + len(numbers) // 2] ^= 4  # the network's may be the same, and lie before
    (here / path).write_bytes(data)
    damaged = f"{path}: damaged (its bytes do not match their checksum): copy it again"
    assert damaged in refused(script, here, capsys)


@pytest.mark.parametrize(
    ("at", "odd"),
    [
        (("ema", "decay"), "x"),
        (("ema", "shadow_params", 0), torch.zeros(3)),
        (("ema", "shadow_params"), [1]),
        (("net",), {"a": torch.zeros(1)}),
        (("optimizer",), {}),
        (("resume", "random_states"), [{"cpu": torch.zeros(9, dtype=torch.uint8)}]),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_odd_parts_of_a_checkpoint(here, capsys, at, odd):
    content = torch.load(here / LATEST, weights_only=True)
    inner = content
    for key in at[:-1]:
        inner = inner[key]
    inner[at[-1]] = odd
    torch.save(content, here / LATEST)
    assert "latest.pt: " in refused(RESUME, here, capsys)


# --- images and names


def damage_images(dataset):
    """Cut one image of each class in the LMDBs."""
    for path in dataset.glob("*_faster_imagefolder.lmdb"):
        with lmdb.open(str(path), lock=False) as environment, environment.begin(write=True) as transaction:
            for key, content in list(transaction.cursor()):
                if key.endswith(b"_0000.png"):
                    transaction.put(key, content[:200])


def test_the_process_ends_after_an_unreadable_image(here, capsys):
    """In a process of its own: a worker that is left over must not keep it from ending."""
    damage_images(here / "photos")
    assert "cannot decode the image" in refused(SAMPLE, here, capsys)
    done = own_process("train", [*RESUME[1](here), "--num-itr", "30", "--num-workers", "2"], here)  # minutes: raises
    assert done.returncode == 2, done.stderr
    assert "cannot decode the image" in done.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize("name", ["x" * 255, "x" * 256, "b\udcff"], ids=["255 bytes", "256 bytes", "not UTF-8"])
def test_names_of_folders(here, capsys, name):
    (here / "photos").rename(here / "f\udcfcr")  # the data set's too
    argv = train_argv(here / "f\udcfcr", "--name", name, "--num-itr", "1")
    if len(name) == 256:
        line = refusal(capsys, train, argv)
        assert "is invalid: expected the name of a folder in results/" in line
    else:
        assert train.main(argv) == 0
        assert train.main([*argv, "--ckpt", name, "--num-itr", "2"]) == 0
        assert sample.main(sample_argv(here / "f\udcfcr", name)) == 0
        assert compute_metrices.main(metrics_argv(here / "f\udcfcr", name, "samples_nfe2")) == 0
