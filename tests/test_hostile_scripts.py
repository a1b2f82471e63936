"""Hostile and damaged files met by the three scripts: refused in one line with the file's name, nothing executed."""

import contextlib
import io
import json
import logging
import pickle
import shutil
import tracemalloc
import zipfile
from argparse import Namespace

import hostile
import lmdb
import numpy as np
import pytest
import torch
from small_runs import metrics_argv, photos, sample_argv, train_argv
from small_runs import script as own_process

import compute_metrices
import sample
import train
from guided_diffusion import presets
from i2sb.ckpt_util import build_ckpt_option
from i2sb.errors import UserError
from i2sb.export import export
from i2sb.runner import Runner
from i2sb.runtime.safe_npz import load_npz
from scripts import build_lmdb

LOG = logging.getLogger("test")
NETWORK = "data/256x256_diffusion_uncond_fixedsigma.pkl"
FIRST_WEIGHTS = "data/256x256_diffusion_uncond_fixedsigma.pt"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("place")
    photos(folder / "photos")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert train.main(train_argv(folder / "photos", "--name", "a", "--num-itr", "1")) == 0
        assert sample.main(sample_argv(folder / "photos", "a")) == 0
        runner = Runner(build_ckpt_option(Namespace(device="cpu"), None, folder / "results/a"), LOG, save_opt=False)
        export(runner, folder / "results/e")
    # a network and its first weights, as the original finds them
    (folder / "data").mkdir(exist_ok=True)
    (folder / NETWORK).write_bytes(pickle.dumps(presets.resolve("tiny", channel_mult="1,1")))
    state = torch.load(folder / "results/a/latest.pt", weights_only=True)["net"]
    bare = {key.removeprefix("diffusion_model."): value for key, value in state.items()}
    torch.save(bare, folder / FIRST_WEIGHTS)
    return folder


@pytest.fixture
def here(place, tmp_path, monkeypatch):
    shutil.copytree(place, tmp_path / "run")
    monkeypatch.chdir(tmp_path / "run")
    return tmp_path / "run"


SAMPLE = (sample, lambda h: sample_argv(h / "photos", "a", "--overwrite"))
JUDGE = (compute_metrices, lambda h: metrics_argv(h / "photos", "a", "samples_nfe2"))
RESUME = (train, lambda h: train_argv(h / "photos", "--ckpt", "a", "--num-itr", "2"))
SAMPLE_ON = (sample, lambda h: sample_argv(h / "photos", "a"))
SAMPLE_EXPORTED = (sample, lambda h: sample_argv(h / "photos", "e", "--overwrite"))
NAMED = ("--net", "tiny", "--channel-mult", "1,1")
ANEW = ("--name", "b", "--num-itr", "1", "--overwrite")
RETRAIN = (train, lambda h: [word for word in train_argv(h / "photos", *ANEW) if word not in NAMED])
FILES = {  # file -> the script that opens it
    "results/a/latest.pt": [SAMPLE, RESUME],
    "results/a/options.pkl": [SAMPLE, RESUME, JUDGE],
    "results/a/samples_nfe2/recon.pt": [JUDGE],
    "photos/val_faster_imagefolder.lmdb.pt": [SAMPLE],
    "photos/train_faster_imagefolder.lmdb.pt": [RESUME],
    NETWORK: [RETRAIN],
    FIRST_WEIGHTS: [RETRAIN],
    "results/a/samples_nfe2/recon.json": [JUDGE, SAMPLE_ON],
    "results/e/ema.safetensors": [SAMPLE_EXPORTED],
    "results/e/ema.json": [SAMPLE_EXPORTED],
}
CASES = [(path, script) for path, scripts in FILES.items() for script in scripts]
IDS = [f"{path.rpartition('/')[2]}-{script[0].__name__}" for path, script in CASES]


def run(script, here, capsys) -> tuple[int, str]:
    module, argv = script
    code = module.main(argv(here))
    lines = capsys.readouterr().err.strip().splitlines()
    return code, lines[-1] if lines else ""


def assert_refused(code: int, last: str, script, path: str) -> None:
    assert code == 2, last
    assert last.startswith(f"{script[0].__name__}.py: error: "), last
    assert path.rpartition("/")[2] in last, last
    assert len(last) < 900


@pytest.mark.parametrize(("path", "script"), CASES, ids=IDS)
def test_no_hostile_file_is_executed(here, capsys, path, script):
    trap = here / "trap"
    trap.mkdir()
    target = here / path
    target.parent.mkdir(exist_ok=True)
    good = target.read_bytes() if target.exists() else b""
    some = dict(list(hostile.attacks(trap).items())[::6])  # all of them meet the readers in tests/i2sb
    bad = {**some, **hostile.bombs(), "nothing": b"", "half": good[: len(good) // 2]}
    for name, data in bad.items():
        target.write_bytes(data)
        code, last = run(script, here, capsys)
        assert_refused(code, last, script, path)
        assert not list(trap.iterdir()), name


PIPES = [
    *(case for case in CASES if case[0].startswith("results/") and not case[0].endswith("recon.json")),
    ("results/a/samples_nfe2/recon.json", SAMPLE_ON),
    ("results/a/samples_nfe2/log.txt", SAMPLE),
    ("results/e/samples_nfe2/log.txt", SAMPLE_EXPORTED),
]


@pytest.mark.parametrize(("path", "script"), PIPES)
def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(here, capsys, path, script):
    with hostile.pipe(here / path):
        code, last = run(script, here, capsys)
    assert code == 2
    assert last.startswith(f"{script[0].__name__}.py: error: ")


def test_a_pipe_in_the_place_of_an_array_is_not_waited_for(tmp_path):
    with hostile.pipe(tmp_path / "pipe.npz"), pytest.raises(ValueError, match="it is no regular file"):
        load_npz(tmp_path / "pipe.npz", ["arr"])


@pytest.mark.parametrize(
    ("arr", "labels", "message"),
    [
        (torch.zeros(12, 3, 32), torch.zeros(12), "it holds no restored images"),
        (torch.zeros(12, 1, 32, 32), torch.zeros(12), "it holds no restored images"),
        (torch.zeros(12, 3, 32, 32), torch.zeros(11), "it holds no restored images"),
        (torch.zeros(12, 3, 32, 32, dtype=torch.int64), torch.zeros(12), "its images are torch.int64"),
        (torch.zeros(1).expand(2**34, 3, 64, 64), torch.zeros(1).expand(2**34), "recon.pt: refused: it calls"),
        (torch.zeros(12, 3, 16, 16), torch.zeros(12), "its images have 16x16 pixels; give --image-size 16"),
        (torch.zeros(12, 3, 32, 32), torch.zeros(12), "labels are not the data set's"),
    ],
)
def test_samples_of_another_shape(here, capsys, arr, labels, message):
    torch.save({"arr": arr, "label_arr": labels}, here / "results/a/samples_nfe2/recon.pt")
    code, last = run(JUDGE, here, capsys)
    assert code == 2
    assert message in last


def test_statistics_that_are_none(tmp_path):
    from evaluation.fid import load_statistics

    good = []
    for save in (np.savez, np.savez_compressed):
        buffer = io.BytesIO()
        save(buffer, mu=np.zeros(4), sigma=np.eye(4), num_images=np.int64(9))
        good.append(buffer.getvalue())
    path = tmp_path / "fid.npz"
    refused = 0
    for data in hostile.damaged(good, 300, seed=0):
        path.write_bytes(data)
        try:
            load_statistics(path)
        except UserError as error:
            refused += "\n" not in str(error)
    print(f"{refused} of 300 damaged statistics refused")
    assert refused > 100


def test_a_small_archive_of_huge_arrays(tmp_path):
    np.savez_compressed(tmp_path / "bomb.npz", mu=np.zeros(2**17))
    assert (tmp_path / "bomb.npz").stat().st_size < 2**14
    with pytest.raises(ValueError, match="has 1048704 bytes, more than the 1048576 that are accepted"):
        load_npz(tmp_path / "bomb.npz", ["mu"], limit=2**20)


def npy_header(shape: tuple[int, ...], kind: str = "<f8") -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": kind, "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def peak_of(action) -> int:
    """Bytes that `action`, which is to be refused, takes at most."""
    tracemalloc.start()
    with pytest.raises((ValueError, UserError)) as refusal:
        action()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "\n" not in str(refusal.value)
    return peak


def npz(path, array: bytes, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("arr.npy", array)
    return path


@pytest.mark.parametrize(
    ("start", "compression"),
    [
        (b"", zipfile.ZIP_DEFLATED),
        (npy_header((3,)), zipfile.ZIP_DEFLATED),  # the header promises 24 bytes
        (b"\x93NUMPY\x02\x00\xff\xff\xff\x03", zipfile.ZIP_DEFLATED),  # a header of 64 MiB
        (npy_header((2**23,)), zipfile.ZIP_LZMA),
    ],
    ids=["no header", "a small array", "a large header", "another compression"],
)
def test_an_array_is_not_unpacked_before_its_header_is_read(tmp_path, start, compression):
    path = npz(tmp_path / "bomb.npz", start + bytes(2**26), compression)
    assert path.stat().st_size < 2**17
    assert peak_of(lambda: load_npz(path, ["arr"])) < 2**21


@pytest.mark.parametrize("change", [{"seed": "'; rm -rf"}, {"nfe": [2]}], ids=str)
def test_notes_beside_the_images_are_checked(here, capsys, change):
    path = here / "results/a/samples_nfe2/recon.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    code, last = run(JUDGE, here, capsys)
    assert code == 2
    assert "recon.json: not the settings of a run of sample.py" in last


@pytest.mark.parametrize("content", ["[" * 100_000, "{", "[]", ""], ids=["deep", "cut", "list", "empty"])
def test_notes_that_are_none(here, capsys, content):
    (here / "results/a/samples_nfe2/recon.json").write_text(content)
    for script in (JUDGE, SAMPLE_ON):
        code, last = run(script, here, capsys)
        assert_refused(code, last, script, "recon.json")


def damage_images(dataset, split):
    """Cut the second image of each class in an LMDB that is built already."""
    path = str(dataset / f"{split}_faster_imagefolder.lmdb")
    with lmdb.open(path, lock=False) as environment, environment.begin(write=True) as transaction:
        for key, content in list(transaction.cursor()):
            if key.endswith(b"_0001.png"):
                transaction.put(key, content[:200])


@pytest.mark.parametrize("workers", ["0", "2"])
def test_an_unreadable_image_names_its_key(tmp_path, monkeypatch, capsys, workers):
    monkeypatch.chdir(tmp_path)
    dataset = photos(tmp_path / "photos")
    assert train.main(train_argv(dataset, "--num-itr", "1", "--name", "a")) == 0
    for split in ("train", "val"):
        damage_images(dataset, split)
    flags = ["--num-itr", "30", "--num-workers", workers, "--name", "b"]
    assert train.main(train_argv(dataset, *flags)) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert "train_faster_imagefolder.lmdb: cannot decode the image" in last
    assert "_0001.png: " in last
    assert sample.main(sample_argv(dataset, "a", "--num-workers", workers)) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert "val_faster_imagefolder.lmdb: cannot decode the image" in last


@pytest.mark.parametrize(("ranks", "workers"), [(1, "1"), (1, "2"), (2, "2")])
def test_the_process_ends_after_an_unreadable_image(tmp_path, workers, ranks):
    """In processes of their own: a worker that is left over must not keep them from ending."""
    dataset = photos(tmp_path / "photos")
    for split in ("train", "val"):
        build_lmdb.main([str(dataset / split), str(dataset / f"{split}_faster_imagefolder.lmdb")])
        damage_images(dataset, split)
    flags = ["--num-itr", "30", "--num-workers", workers]
    if ranks == 2:
        flags += ["--n-gpu-per-node", "2", "--microbatch", "1"]
    done = own_process("train", train_argv(dataset, *flags), tmp_path)  # raises if it takes minutes
    assert done.returncode == 2, done.stderr
    assert "cannot decode the image" in done.stderr.strip().splitlines()[-1]


def test_sampling_ends_after_an_unreadable_image(here):
    damage_images(here / "photos", "val")
    done = own_process("sample", sample_argv(here / "photos", "a", "--num-workers", "2", "--overwrite"), here)
    assert done.returncode == 2, done.stderr
    assert "cannot decode the image" in done.stderr.strip().splitlines()[-1]


def test_a_list_of_ones_own_chooses_the_images(here, capsys):
    (here / "list.txt").write_text("photos/val/coffee/coffee_0002.png\nC:\\any\\china\\china_0000.png\n")
    argv = [*SAMPLE[1](here), "--val-list", str(here / "list.txt")]
    assert sample.main(argv) == 0
    recon = torch.load(here / "results/a/samples_nfe2/recon.pt", weights_only=True)
    assert recon["label_arr"].tolist() == [2, 1]
    (here / "list.txt").write_text("coffee/coffee_0002.png\ncoffee/tea.png\n")
    assert sample.main(argv) == 2
    assert "1 of the 2 listed images are not in" in capsys.readouterr().err


def mutate(here, capsys, count: int, seed: int) -> tuple[int, int]:
    """`count` damaged copies of each file through each script that opens it: (refused, taken as harmless)."""
    originals = {path: (here / path).read_bytes() for path in FILES if (here / path).exists()}
    refused = taken = 0
    for path, script in CASES:
        if path not in originals:
            continue
        for data in hostile.damaged([originals[path]], count, seed=seed):
            (here / path).write_bytes(data)
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(here / "results/a/samples_nfe2/.recon.parts")
            code, last = run(script, here, capsys)
            if code == 0:
                taken += 1  # the damage met a byte that means nothing, or an option of no weight
            else:
                refused += 1
                assert code == 2, last
                assert last.startswith(f"{script[0].__name__}.py: error: "), last
            for other, content in originals.items():
                (here / other).write_bytes(content)
    return refused, taken


def test_names_that_steer_the_terminal_or_are_no_text_are_shown_harmlessly(tmp_path, capsys):
    names = [b"/a/c/\x1b[2J.png", b"/a/c/\xff\xfe.png", b"/a/c/two\nlines.png"]
    with lmdb.open(str(tmp_path / "x.lmdb")) as environment, environment.begin(write=True) as writing:
        for name in names:
            writing.put(name, b"no image")
    assert build_lmdb.main(["--verify", str(tmp_path / "x.lmdb")]) == 1
    shown = capsys.readouterr().out
    for text in ("/a/c/?[2J.png: ", "/a/c/??.png: ", "/a/c/two?lines.png: "):
        assert text in shown
    assert "\x1b" not in shown


def test_damaged_files_through_the_scripts(here, capsys):
    logging.disable(logging.CRITICAL)
    try:
        refused, taken = mutate(here, capsys, count=8, seed=3)
    finally:
        logging.disable(logging.NOTSET)
    print(f"{refused} refused, {taken} harmless")
    assert refused > 20


@pytest.mark.slow
def test_thousands_of_damaged_files_through_the_scripts(here, capsys):
    refused, taken = mutate(here, capsys, count=400, seed=4)
    with capsys.disabled():
        print(f"{refused} refused, {taken} harmless")
    assert refused > 1000
