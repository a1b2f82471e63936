"""The published bank of free-form masks, in small."""

import logging

import numpy as np
import pytest

from dataset import freeform
from dataset.freeform import KINDS, bank_path, load_bank
from i2sb.errors import UserError

LOG = logging.getLogger("dataset")
NUM = 70  # more than one chunk


def masks(kind="freeform1020", num=NUM, ratio=None):
    """Bands of whole rows at changing places: ratios are exact."""
    low, high = KINDS[kind][1]
    out = np.zeros((num, 256, 256), np.uint8)
    for number in range(num):
        rows = round(256 * (ratio if ratio is not None else low + (high - low) * (number + 0.5) / num))
        out[number, (np.arange(rows) + 3 * number) % 256] = 1
    return out


def write_packed(data_dir, compressed=False, reshape=None, **replaced):
    arrays = {key: np.packbits(masks(kind)) for kind, (key, _) in KINDS.items()}
    if reshape is not None:
        arrays = {key: array.reshape(reshape) for key, array in arrays.items()}
    arrays.update(replaced)
    (np.savez_compressed if compressed else np.savez)(bank_path(data_dir), **arrays)


def load(data_dir, kind="freeform1020", image_size=256, num_masks=NUM):
    return load_bank(kind, image_size, LOG, data_dir, num_masks)


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("reshape", [None, (NUM, 8192), (NUM, 256, 32)])
def test_each_kind_is_unpacked_once(tmp_path, kind, compressed, reshape):
    write_packed(tmp_path, compressed, reshape)
    bank = load(tmp_path, f"inpaint-{kind}")
    assert bank.dtype == np.uint8
    assert np.array_equal(bank, masks(kind))
    unpacked = tmp_path / f"imagenet_{kind}_masks.npz"
    with np.load(unpacked, allow_pickle=False) as file:
        assert file.files == ["mask"]
        assert np.array_equal(file["mask"], masks(kind))
    bank_path(tmp_path).unlink()
    assert np.array_equal(load(tmp_path, kind), masks(kind))
    assert sorted(path.name for path in tmp_path.iterdir()) == [unpacked.name]


def test_the_bank_is_mapped_and_read_only(tmp_path):
    write_packed(tmp_path)
    bank = load(tmp_path)
    assert isinstance(bank, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        bank[0, 0, 0] = 1


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_the_originals_unpacked_files(tmp_path, save):
    save(tmp_path / "imagenet_freeform1020_masks.npz", mask=masks())
    assert np.array_equal(load(tmp_path), masks())


def test_absent_or_of_another_size(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    assert load(tmp_path) is None
    assert "no published masks" in caplog.text
    write_packed(tmp_path)
    assert load(tmp_path, image_size=64) is None
    assert "not used at 64 px" in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == [bank_path(tmp_path).name]


def test_unknown_kind(tmp_path):
    with pytest.raises(UserError, match=r"freeform5060: no such kind .* freeform1020, freeform2030"):
        load(tmp_path, "freeform5060")


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (masks().astype(np.float32), r"masks are float32 \[70, 256, 256\], not uint8"),
        (masks()[:, :128], r"masks are uint8 \[70, 128, 256\]"),
        (masks(num=69), r"\[69, 256, 256\], not uint8 \[70, 256, 256\]"),
        (np.asfortranarray(masks()), r"masks are"),
        (masks() * 255, r"other values than 0 and 1"),
        (1 - masks(), r"should cover 10% to 20% of the image, but mask 0 has 9\d%"),
        (masks(ratio=0.22), r"but 21\.9% on average"),
        (np.concatenate([masks(num=69), masks(num=1, ratio=0.4)]), r"but mask 69 has 40%"),
        (np.array([{}], dtype=object), r"refused"),
    ],
)
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_other_masks_are_refused(tmp_path, array, text, save):
    save(tmp_path / "imagenet_freeform1020_masks.npz", mask=array)
    with pytest.raises(UserError, match=text) as caught:
        load(tmp_path)
    assert "imagenet_freeform1020_masks.npz: refused: " in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("replaced", "text"),
    [
        (
            {"10-20% freeform": np.zeros(100, np.uint8)},
            r"uint8 \[100\], not the packed bits of \[70, 256, 256\]",
        ),
        ({"10-20% freeform": np.zeros(NUM * 8192, np.int64)}, r"int64"),
        ({"10-20% freeform": np.zeros((NUM * 32, 256), np.uint8)}, r"not the packed bits"),
    ],
)
def test_other_packed_files_are_refused(tmp_path, replaced, text):
    write_packed(tmp_path, **replaced)
    with pytest.raises(UserError, match=text):
        load(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [bank_path(tmp_path).name]


@pytest.mark.parametrize("content", [b"", b"<html>", b"PK\x03\x04"])
@pytest.mark.parametrize("name", [bank_path(".").name, "imagenet_freeform1020_masks.npz"])
def test_damaged_files_are_refused_in_one_line(tmp_path, content, name):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=name) as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [bank_path(".").name, "imagenet_freeform1020_masks.npz"])
def test_files_cut_short_are_refused(tmp_path, name):
    write_packed(tmp_path)
    np.savez(tmp_path / "imagenet_freeform1020_masks.npz", mask=masks())
    for path in tmp_path.iterdir():
        if path.name != name:
            path.unlink()
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=name):
        load(tmp_path)


def test_a_bank_without_a_kind(tmp_path):
    np.savez(bank_path(tmp_path), **{"20-30% freeform": np.packbits(masks("freeform2030"))})
    assert load(tmp_path, "freeform2030") is not None
    with pytest.raises(UserError, match="it holds no '10-20% freeform'"):
        load(tmp_path)


def test_fetching_is_a_step_of_its_own(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("i2sb.fetch.fetch", lambda remote, folder, log: asked.append((remote, folder)))
    assert load(tmp_path) is None
    assert not asked
    freeform.fetch_bank(LOG, tmp_path)
    assert asked[0][0].drive_id == "1-5YRGsekjiRKQWqo0BV5RVQu0bagc12w"
    assert asked[0][1] == tmp_path
