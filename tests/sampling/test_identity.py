"""Samples and what is derived from them carry the identity of their run, of their weights, and of their data."""

import re
import shutil
import zlib

import numpy as np
import pytest
import torch
from small_runs import FOLDER, NAME, images, interrupt, metrics_argv, refusal, restore, sample_argv, train_argv
from warm import two_ranks

import compute_metrices
import sample
import train
from i2sb.recon import PICTURES, SCORES, Recon, find_recon, made_with, run_identity

DERIVED = PICTURES + SCORES


def argv(here, *flags):
    return sample_argv(here / "photos", NAME, *flags)


def judge_argv(here):
    return metrics_argv(here / "photos", NAME, "samples_nfe2")


def derive(here, *flags):
    """Samples with all that is derived from them."""
    folder = restore(here, "--save-images", "png", "--save-trajectory", "2", *flags)
    assert compute_metrices.main(judge_argv(here)) == 0
    (folder / "report.html").write_text("of seed 0")
    assert all((folder / name).exists() for name in DERIVED)
    return folder


# --- runs


def test_overwriting_removes_what_was_derived_and_the_same_run_keeps_it(here, capsys):
    folder = derive(here)
    restore(here)
    assert "is finished already" in capsys.readouterr().err
    assert all((folder / name).exists() for name in DERIVED)
    restore(here, "--overwrite", "--seed", "1")
    assert [name for name in DERIVED if (folder / name).exists()] == []
    assert made_with(folder / "recon.pt")["seed"] == 1


def test_what_has_no_identity_is_set_aside(here):
    folder = derive(here)
    (folder / "recon.json").unlink()
    before = (folder / "recon.pt").read_bytes()
    restore(here, "--seed", "1")
    assert (folder / "recon.previous.pt").read_bytes() == before
    assert [name for name in DERIVED if (folder / name).exists()] == []
    assert len(list((folder / "images.previous").rglob("*.png"))) == 24
    (folder / "recon.json").unlink()
    restore(here, "--partition", "0_2")  # is not hidden by the whole
    assert sorted(path.name for path in folder.glob("*.pt")) == [
        "recon.previous.pt",
        "recon.previous2.pt",
        "recon_0_2.pt",
    ]


def test_parts_of_other_settings_stop_a_run_or_are_overwritten(here, capsys):
    for part in range(2):
        restore(here, "--partition", f"{part}_2", "--save-images", "png")
    for flags in (["--image-size", "64"], ["--exif-rotate"], ["--seed", "1", "--partition", "0_4"]):
        line = refusal(capsys, sample, argv(here, *flags))
        assert "recon_0_2.pt is of other settings" in line
    assert "seed was 0, now 1" in line
    folder = restore(here, "--partition", "1_2", "--overwrite")  # the same run: its other part stays
    assert len(find_recon(folder)) == 2
    assert len(list((folder / "images").rglob("*.png"))) == 24
    restore(here, "--image-size", "64", "--overwrite")
    assert sorted(path.name for path in folder.glob("recon*")) == ["recon.json", "recon.pt"]
    assert not (folder / "images").exists()


def test_parts_of_several_runs_are_never_one(here, capsys):
    folder = restore(here, "--partition", "0_2")
    shutil.move(folder, here / "first")
    restore(here, "--partition", "1_2", "--seed", "1")
    for path in (here / "first").glob("recon*"):
        shutil.move(path, folder)
    line = refusal(capsys, compute_metrices, judge_argv(here))
    assert "recon_0_2.pt and recon_1_2.pt are not of one run (seed was 0, now 1)" in line
    (folder / "recon_0_2.json").unlink()  # the images themselves say of which run they are
    assert "are not of one run" in refusal(capsys, compute_metrices, judge_argv(here))


def test_samples_of_a_retrained_checkpoint_are_refused(restored, capsys):
    here = restored
    retrain = train_argv(here / "photos", "--name", NAME, "--overwrite", "--num-itr", "1", corrupt="jpeg-10")
    assert train.main(retrain) == 0
    line = refusal(capsys, sample, argv(here))
    assert "recon.pt is of other settings (checkpoint was " in line
    assert "task was sr4x-pool, now jpeg-10" in line
    restore(here, "--overwrite")
    assert run_identity(here / FOLDER)["task"] == "jpeg-10"


REPLACED = """
import i2sb.runner as runner
load = runner.load_checkpoint
if os.environ["RANK"] == "1":  # as if latest.pt were replaced between the two
    runner.load_checkpoint = lambda path, *more: load(str(path).replace("latest", "newer"), *more)
"""


@pytest.mark.parametrize("script", ["sample", "train"])
def test_ranks_with_different_weights_stop(here, warm, script):
    path = here / "results" / NAME / "latest.pt"
    state = torch.load(path, weights_only=False)
    state["ema"]["shadow_params"][0][0] += 1
    torch.save(state, path.with_name("newer.pt"))
    resume = train_argv(here / "photos", "--ckpt", NAME, "--name", "b", "--num-itr", "9")
    for rank in two_ranks(warm, script, argv(here) if script == "sample" else resume, REPLACED):
        code, last = rank.wait()
        assert code == 2
        assert re.match(rf"{script}.py: error: .*sr4x-pool.* is not rank 0's \(replaced meanwhile", last)
    assert not (here / FOLDER / "recon.json").exists()
    assert not (here / "results/b/latest.pt").exists()


def test_other_masks_are_other_settings(here, capsys):
    assert train.main(train_argv(here / "photos", "--num-itr", "1", corrupt="inpaint-freeform2030")) == 0
    flags = sample_argv(here / "photos", "inpaint-freeform2030")
    assert sample.main(flags) == 0  # with masks of the brush
    masks = np.zeros((24, 32, 32), np.uint8)
    masks[:, :8] = 1
    (here / "data").mkdir(exist_ok=True)
    np.savez(here / "data/imagenet_freeform2030_masks.npz", mask=masks)
    assert "of other settings (holes was " in refusal(capsys, sample, flags)
    judged = metrics_argv(here / "photos", "inpaint-freeform2030", "samples_nfe2")
    assert "samples_nfe2: was restored with other masks" in refusal(capsys, compute_metrices, judged)
    np.savez(here / "data/imagenet_freeform2030_masks.npz", mask=masks[:20])
    assert "none for image 23" in refusal(capsys, sample, flags)


# --- data


def replace_pictures(here, change):
    """Change the validation pictures in place, under their names and sizes, and have the LMDB built again."""
    paths = sorted((here / "photos/val").glob("*/*.png"))
    contents = [path.read_bytes() for path in paths]
    size = max(map(len, contents))
    contents = [content + bytes(size - len(content)) for content in contents]  # PNG ends before
    for path, content in zip(paths, change(contents)):
        path.write_bytes(content)
    for path in (here / "photos").glob("val_faster_imagefolder.lmdb*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return [path.relative_to(here / "photos/val") for path in paths]


def swap(contents):
    return [*contents[:7], contents[8], contents[7], *contents[9:]]


@pytest.mark.parametrize("finished", [True, False])
def test_pictures_that_were_replaced_are_found(here, capsys, finished):
    replace_pictures(here, lambda contents: contents)
    if finished:
        restore(here)
        assert compute_metrices.main(judge_argv(here)) == 0
    else:
        interrupt(here, "--batch-size", "4", lost=[0, 4])
    names = replace_pictures(here, swap)
    assert f"{names[7]}: has changed since it was restored" in refusal(capsys, sample, argv(here))
    if finished:
        assert f"{names[7]}: has changed since it was restored" in refusal(capsys, compute_metrices, judge_argv(here))
    replace_pictures(here, swap)
    restore(here)
    replace_pictures(here, lambda contents: [contents[0] + b"\0", *contents[1:]])  # another size tells at once
    assert "other settings (data was " in refusal(capsys, sample, argv(here))
    content = torch.load(here / FOLDER / "recon.pt", weights_only=True)
    content.pop("crc32")
    torch.save(content, here / FOLDER / "recon.pt")
    assert "was restored from other images" in refusal(capsys, compute_metrices, judge_argv(here))


def test_the_checksum_of_each_image_is_kept(here):
    folder = restore(here, "--batch-size", "5")
    expected = [zlib.crc32(path.read_bytes()) for path in sorted((here / "photos/val").glob("*/*.png"))]
    assert Recon([folder / "recon.pt"]).checksums == expected
    shutil.rmtree(folder)
    for part in range(2):
        restore(here, "--partition", f"{part}_2")
    assert Recon(find_recon(folder)).checksums == expected


# --- bytes of recon.pt


@pytest.mark.parametrize("damage", ["empty", "one byte less", "arr", "label_arr", "the pickle"])
def test_a_damaged_recon_is_refused_and_a_cut_one_restored_again(restored, capsys, damage):
    path = restored / FOLDER / "recon.pt"
    content = path.read_bytes()
    arr = images(path.parent).numpy().tobytes()
    if where := {"arr": arr, "label_arr": bytes(8 * 8), "the pickle": b"label_arr"}.get(damage):
        at = content.rfind(where) + 8
        path.write_bytes(content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :])
    else:
        path.write_bytes(content[: 0 if damage == "empty" else -1])
    assert "recon.pt: " in refusal(capsys, compute_metrices, judge_argv(restored))
    assert not (path.parent / "metrics.json").exists()
    if where is None:
        restore(restored)
        assert "is finished already" not in capsys.readouterr().err
        assert path.read_bytes() == content


def test_images_swapped_without_their_settings_are_noticed(restored):
    here, folder = restored, restored / FOLDER
    shutil.copy(folder / "recon.pt", here / "other.pt")
    restore(here, "--seed", "1", "--overwrite")
    shutil.copy(here / "other.pt", folder / "recon.pt")
    assert made_with(folder / "recon.pt")["seed"] == 0  # whatever lies beside it
    restore(here, "--seed", "1")
    assert (folder / "recon.previous.pt").read_bytes() == (here / "other.pt").read_bytes()
    assert made_with(folder / "recon.pt")["seed"] == 1
