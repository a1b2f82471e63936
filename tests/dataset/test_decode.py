"""From the bytes of an image file to pixels."""

import io
import struct

import numpy as np
import pytest
import tifffile
from PIL import Image

from dataset.decode import decode
from dataset.transforms import build_test_transform, fit

RAMP = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
RED = Image.fromarray(np.dstack([RAMP, 0 * RAMP, 0 * RAMP]))


def saved(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "CMYK", "LA"])
def test_images_of_all_modes_are_rgb(mode):
    image = Image.effect_noise((20, 30), 80).convert("RGB").convert(mode)
    decoded = decode(saved(image, "TIFF" if mode == "CMYK" else "PNG"))
    assert decoded.mode == "RGB"
    assert np.array_equal(np.asarray(decoded), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG2000", "PPM"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_16_bit_grey_keeps_its_bits(kind, channels):
    levels = np.array([[0, 1, 128, 65406, 65534, 65535]], np.uint16)
    found = decode(saved(Image.fromarray(levels), kind), channels=channels)
    assert (found.shape, found.dtype) == ((1, 6, channels), np.float32)
    assert (found[..., : min(channels, 3)] == np.float32(levels / 65535)[..., None]).all()
    assert (found[..., 3:] == 1).all()
    found = decode(saved(Image.fromarray(levels), kind), channels=channels, value_range=(1, 128))
    assert found[0, :, 0].tolist() == [0, 0, 1, 1, 1, 1]


def test_deep_colour_becomes_grey_as_8_bits_do():
    levels = np.random.default_rng(0).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, levels.astype(np.uint16) * 257, photometric="rgb")
    expected = np.asarray(Image.fromarray(levels).convert("L"))
    assert np.abs(decode(buffer.getvalue(), channels=1)[..., 0] * 255 - expected).max() <= 0.51


@pytest.mark.parametrize(("bits", "zero_is_white"), [(16, True), (12, False)])
def test_tiffs_of_microscopes(bits, zero_is_white):
    values = [0, 2**bits // 2, 2**bits - 1]
    raw = np.array(values, "<u2").tobytes() if bits == 16 else bytes.fromhex("000800fff0")
    photometric = 0 if zero_is_white else 1
    tags = [(256, 3), (257, 1), (258, bits), (259, 1), (262, photometric), (273, 8), (278, 1), (279, len(raw))]
    start = 8 + len(raw) + len(raw) % 2
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    content = struct.pack("<2sHI", b"II", 42, start) + raw.ljust(start - 8, b"\0") + directory + bytes(4)
    found = decode(content)[0, :, 0].tolist()
    assert found == pytest.approx([1, 0.5, 0] if zero_is_white else [0, 0.5, 1], abs=2 / 2**bits)


@pytest.mark.parametrize(
    ("pixels", "text"),
    [
        (RAMP.astype(np.int32), "int32, whose black and white only train.py --value-range LO HI says"),
        (RAMP.astype(np.float32), r"lie in \[0,1\], this one in \[0,252\]: train.py --value-range"),
        (np.where(RAMP == 8, np.float32(np.nan), 0), r"^1 of its 64 values are NaN or inf$"),
    ],
)
def test_numbers_of_other_types_need_a_range_and_nan_has_none(pixels, text):
    content = saved(Image.fromarray(pixels), "TIFF")
    with pytest.raises(ValueError, match=text):
        decode(content)
    if "NaN" in text:
        with pytest.raises(ValueError, match=text):
            decode(content, value_range=(0, 252))
    else:
        assert (decode(content, value_range=(0, 252)) * 252).round().astype(int)[..., 0].tolist() == RAMP.tolist()


def test_a_program_is_no_image():
    """Pillow would hand PostScript to Ghostscript, whatever the file is called."""
    with pytest.raises(ValueError, match="not an image that Pillow reads"):
        decode(saved(RED, "EPS"))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_counts_on_request(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = saved(RED, "PNG", exif=exif)
    turned = [RAMP, RAMP[:, ::-1], RAMP[::-1, ::-1], RAMP[::-1], RAMP.T, np.rot90(RAMP, -1), np.rot90(RAMP, 2).T]
    turned.append(np.rot90(RAMP))
    assert np.array_equal(np.asarray(decode(content))[:, :, 0], RAMP)
    assert np.array_equal(np.asarray(decode(content, exif_rotate=True))[:, :, 0], turned[orientation - 1])


@pytest.mark.parametrize("size", [(30000, 1), (1, 30000), (900, 100), (100, 900)])
def test_strips_are_cropped_before_they_are_resized(size, monkeypatch):
    resize, sizes = Image.Image.resize, []

    def recorded(self, wanted, *args, **kwargs):
        sizes.append(wanted)
        return resize(self, wanted, *args, **kwargs)

    monkeypatch.setattr(Image.Image, "resize", recorded)
    image = Image.new("RGB", size, "red")
    middle = Image.new("RGB", tuple(max(1, min(side, 3 * min(size))) for side in size), "blue")
    image.paste(middle, tuple((a - b) // 2 for a, b in zip(size, middle.size)))
    found = fit(image, (64, 64))
    assert found.size == (64, 64)
    assert found.getpixel((32, 32)) == (0, 0, 255)
    assert max(sizes[0]) == 8 * 64


@pytest.mark.parametrize("size", [(80, 10), (10, 80), (33, 70)])
def test_up_to_8_to_1_the_calls_are_torchvisions(size):
    from torchvision import transforms

    image = Image.effect_noise(size, 80).convert("RGB")
    theirs = transforms.Compose([transforms.Resize(32), transforms.CenterCrop(32), transforms.ToTensor()])
    assert (build_test_transform(32)(image) == theirs(image) * 2 - 1).all()


def test_an_image_that_memory_has_no_room_for_is_not_called_damaged(monkeypatch):
    def no_memory(*args, **options):
        raise MemoryError

    monkeypatch.setattr(Image, "open", no_memory)
    with pytest.raises(MemoryError):
        decode(b"")
