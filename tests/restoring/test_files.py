"""sample.py --input: picture files of every kind, as users call it."""

import re
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from bridges import argv, photograph
from PIL import Image
from processes import until
from small_runs import refusal
from warm import both_end_well, two_ranks

import sample


def restored(name, *more, code=0):
    """Run sample.py in this process."""
    assert sample.main(argv(name, *more)) == code


def contents(folder):
    """Name -> bytes of all files below a folder, but the record."""
    files = (path for path in Path(folder).rglob("*") if path.is_file() and path.name != "restored.json")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def last_line(capsys):
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_a_folder_of_all_kinds(here, capsys):
    (here / "pictures/cut.png").write_bytes((here / "pictures/palette.png").read_bytes()[:300])
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(here / "pictures/moving.gif", save_all=True, append_images=frames[1:])
    (here / "pictures/notes.txt").write_text("no picture")
    restored("jpeg-10", "--input", "pictures", "--output", "out", code=1)
    said = capsys.readouterr().err
    assert "6 restored, 2 failed" in said
    assert "sample.py: error: 2 of 8 pictures could not be restored: pictures/cut.png (" in said
    assert "pictures/moving.gif (it holds 2 frames" in said
    found = contents("out")
    kinds = {}
    for name in found:
        with Image.open(here / "out" / name) as image:
            kinds[name] = image.format, image.mode, image.size
    assert kinds == {
        "a.jpg": ("JPEG", "RGB", (70, 50)),
        "palette.gif.png": ("PNG", "RGB", (70, 50)),
        "palette.png": ("PNG", "RGB", (17, 30)),
        "deep.tif": ("TIFF", "I;16", (70, 50)),
        "sub/grey.png": ("PNG", "L", (70, 50)),
        "sub/alpha.webp": ("WEBP", "RGBA", (70, 50)),
    }
    alphas = [np.asarray(Image.open(here / folder / "sub/alpha.webp"))[..., 3] for folder in ("pictures", "out")]
    assert (alphas[0] == alphas[1]).all()
    # again: all is there; under other settings: refused; forced: replaced
    restored("jpeg-10", "--input", "pictures", "--output", "out", code=1)
    assert "0 restored, 6 were there already, 2 failed" in capsys.readouterr().err
    assert contents("out") == found
    restored("jpeg-10", "--input", "pictures", "--output", "out", "--seed", "1", code=2)
    assert "holds pictures of other settings (seed was 0, now 1)" in last_line(capsys)
    restored("jpeg-10", "--input", "pictures/a.jpg", "--output", "out", "--seed", "1", "--overwrite")
    assert contents("out")["a.jpg"] != found["a.jpg"]


def test_pictures_of_any_size_pass_in_windows(here):
    sizes = [(1, 1), (5, 3), (300, 17), (33, 70)]
    for width, height in sizes:
        photograph(width, height).save(here / f"{width}.png")
    restored("jpeg-10", "--input", "[0-9]*.png", "--output", "out", "--tile", "24")
    assert sorted(Image.open(path).size for path in (here / "out").glob("*.png")) == sorted(sizes)


def test_small_pictures_are_enlarged_by_super_resolution(here):
    restored("sr4x-pool", "--input", "pictures/sub", "--output", "out")
    assert Image.open("out/grey.png").size == Image.open("out/alpha.webp").size == (280, 200)
    # what the task itself shows at full size keeps its size
    restored("sr4x-pool", "--input", "pictures/sub/grey.png", "--output", "both", "--degrade")
    restored("sr4x-pool", "--input", "both/degraded", "--output", "again")
    assert Image.open("again/grey.png").size == (70, 50)


def test_clean_pictures_are_degraded_first_and_scored(here, capsys):
    Image.open("pictures/a.jpg").save("pictures/b.png")
    restored("jpeg-10", "--input", "pictures/b.png", "pictures/a.jpg", "--output", "out", "--degrade")
    scores = [line.partition("[PSNR] ")[2] for line in capsys.readouterr().err.splitlines() if "[PSNR]" in line]
    assert len(scores) == 3
    assert scores[-1].startswith("mean of 2: degraded ")
    clean, degraded = (np.asarray(Image.open(f"out/{kind}/b.png"), np.float64) for kind in ("clean", "degraded"))
    expected = 10 * np.log10(255**2 / np.square(clean - degraded).mean())
    assert f"b.png: degraded {expected:.2f} dB" in scores[0]
    assert set(contents("out")) == {f"{kind}/{n}.png" for kind in ("clean", "degraded", "restored") for n in "ab"}
    restored("jpeg-10", "--input", "pictures/b.png", "pictures/a.jpg", "--output", "out", "--degrade")
    assert scores == [line.partition("[PSNR] ")[2] for line in capsys.readouterr().err.splitlines() if "[PSNR]" in line]


def test_holes_are_where_the_mask_is_white(here, capsys):
    mask = Image.new("L", (70, 50))
    mask.paste(255, (10, 20, 40, 45))
    mask.save("mask.png")
    restored(
        "inpaint-center", "--input", "pictures/sub/grey.png", "--mask", "mask.png", "--output", "out", "--tile", "32"
    )
    before, after = (np.asarray(Image.open(name)) for name in ("pictures/sub/grey.png", "out/grey.png"))
    assert ((before != after) <= (np.asarray(mask) > 0)).all()
    assert (before != after).sum() > 500
    # a folder of masks with the same names
    for name in ("masks/sub/grey.png", "masks/sub/alpha.png", "masks/a.png"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        mask.resize((9, 9) if name == "masks/a.png" else mask.size).save(name)
    restored("inpaint-center", "--input", "pictures", "--mask", "masks", "--output", "many", code=1)
    said = capsys.readouterr().err
    assert set(contents("many")) == {"sub/grey.png", "sub/alpha.webp"}
    assert "the mask has 9x9 pixels, the picture 70x50" in said
    assert "masks/deep.tif: there is no such mask" in said


def test_a_network_for_grey_restores_colour_channel_by_channel(here):
    restored("grey", "--input", "pictures/a.jpg", "--output", "out")
    channels = Image.open("pictures/a.jpg").convert("RGB").split()
    channels[1].save("green.png")
    restored("grey", "--input", "green.png", "--output", "one")
    colours, green = (
        np.asarray(Image.open("out/a.jpg")).astype(int),
        np.asarray(Image.open("one/green.png")).astype(int),
    )
    assert np.abs(colours[..., 1] - green).mean() < 3  # but for JPEG's own loss


def test_inputs_are_never_replaced(here, capsys):
    before = contents("pictures")
    restored("jpeg-10", "--input", "pictures", "--output", "pictures", "--overwrite", code=2)
    assert "a.jpg would replace an input" in last_line(capsys)
    restored("jpeg-10", "--input", "pictures/sub", "pictures/sub/grey.png", "--output", "pictures/out")
    restored("jpeg-10", "--input", "pictures", "--output", "pictures/out")  # its own outputs are no inputs
    assert set(contents("pictures/out")) == {
        *(set(before) - {"palette.gif"}),
        "palette.gif.png",
        "grey.png",
        "alpha.webp",
    }
    restored("jpeg-10", "--input", "pictures", "--output", "pictures/more", "--seed", "1")  # nor are earlier outputs
    assert not (here / "pictures/more/out").exists()
    assert before.items() <= contents("pictures").items()
    for kind in ("clean", "degraded"):  # also not by what --degrade writes besides
        shutil.copytree("pictures/sub", f"pairs/{kind}")
        held = contents("pairs")
        restored("jpeg-10", "--input", f"pairs/{kind}", "--output", "pairs", "--degrade", code=2)
        assert "would replace an input" in last_line(capsys)
        restored("jpeg-10", "--input", "pictures/sub", "--output", "pairs", "--degrade", code=2)
        assert "is there already" in last_line(capsys)
        assert contents("pairs").items() >= held.items()
    shutil.copytree("pictures/sub", "mine")
    restored("jpeg-10", "--input", "pictures/sub", "--output", "mine", code=2)
    assert "mine/alpha.webp: is there already; choose another --output" in last_line(capsys)
    restored("jpeg-10", "--input", "pictures/sub/grey.png", "mine/grey.png", "--output", "two", code=2)
    assert "would both be written to two/grey.png" in last_line(capsys)


def test_another_picture_of_the_same_name_is_not_taken_for_the_one_that_is_there(here, capsys):
    shutil.copy("pictures/a.jpg", "one.jpg")
    restored("jpeg-10", "--input", "one.jpg", "--output", "out")
    (here / "later").mkdir()
    photograph(30, 20).save("later/one.jpg")
    restored("jpeg-10", "--input", "later", "--output", "out", code=2)
    assert "out/one.jpg: was restored from another picture than later/one.jpg is now" in last_line(capsys)
    restored("jpeg-10", "--input", "one.jpg", "--output", "out")
    restored("jpeg-10", "--input", "later", "--output", "out", "--overwrite")
    assert Image.open("out/one.jpg").size == (30, 20)
    (here / "out/restored.json").write_text("[1]")
    restored("jpeg-10", "--input", "later", "--output", "out", code=2)
    assert "restored.json: is no record of this program" in last_line(capsys)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--output", "x"], "--output: does not go without --input"),
        (["--input", "x"], "say by --output DIR"),
        (["--input", "x", "--output", "y", "--partition", "0_2"], "--partition: does not go with --input"),
        (["--input", "pictures", "--output", "y", "--tile", "3"], "--tile 3: this network needs at least 4 pixels"),
        (["--input", "pictures", "--output", "y", "--mask", "pictures"], "--mask: jpeg-10 has no holes"),
        (["--ckpt", "inpaint-center", "--input", "pictures", "--output", "y"], "inpaint-center: say by --mask FILE"),
        (["--ckpt", "pairs", "--input", "pictures", "--output", "y", "--degrade"], "--degrade: this bridge was"),
        (["--input", "", "--output", "y"], "--input: is empty"),
        (["--input", "nothing", "--output", "y"], "--input nothing: neither a picture, nor a folder"),
        (["--input", "no/*.png", "--output", "y"], "--input no/.*: neither a picture"),
    ],
)
def test_wrong_commands_are_one_line(here, capsys, flags, message):
    assert re.search(message, refusal(capsys, sample, argv("jpeg-10", *flags)))
    assert not (here / "y").exists()


def test_killed_it_resumes_and_two_ranks_share_the_list(here, warm):
    files = ["--input", "pictures", "--output"]
    run = warm("sample", argv("jpeg-10", *files, "killed"))
    until(lambda: list((here / "killed").glob("*.*")))
    assert run.kill(signal.SIGKILL)
    run.wait()
    assert len(contents("killed")) < 7
    restored("jpeg-10", *files, "killed")
    ranks = two_ranks(warm, "sample", argv("jpeg-10", *files, "two"))
    both_end_well(*ranks)
    assert "6 restored, 0 failed" in ranks[0].said()
    restored("jpeg-10", *files, "whole")
    assert contents("whole") == contents("killed") == contents("two")
