"""Users' pictures come back as they came: depth, transparency, profile, orientation, format."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image, ImageCms

from i2sb.photographs import encode, output_name, read

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
GENERATOR = np.random.default_rng(0)


def noise(*shape, dtype=np.uint8):
    return GENERATOR.integers(0, np.iinfo(dtype).max + 1, shape, dtype=dtype)


def again(path: Path, channels: int = 3):
    """Read a file, write what a network that changes nothing gives, and read that: (first, second, file)."""
    first = read(path, channels)
    out = path.with_name("out") / output_name(Path(path.name))
    out.parent.mkdir(exist_ok=True)
    out.write_bytes(encode(first.with_colours(first.tensor())))
    return first, read(out, channels), out


@pytest.mark.parametrize("suffix", ["png", "tiff", "webp", "bmp"])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P", "1"])
def test_8_bit_pictures_keep_every_level(tmp_path, suffix, mode):
    if (suffix, mode) in [("webp", "P"), ("webp", "1"), ("bmp", "LA"), ("tiff", "LA"), ("webp", "LA")]:
        pytest.skip("Pillow does not write these")
    levels = noise(9, 7, 4)
    levels[:3, :, 3] = 0
    source = Image.fromarray(levels, "RGBA").convert("RGB" if mode == "P" else mode).convert(mode)
    path = tmp_path / f"a.{suffix}"
    icc = {} if mode in ("P", "1") or suffix == "bmp" else {"icc_profile": SRGB}
    source.save(path, **icc, **({"lossless": True, "exact": True} if suffix == "webp" else {}))
    first, second, out = again(path)
    with Image.open(path) as before, Image.open(out) as after:
        assert after.format == before.format
        assert after.size == before.size
        assert after.info.get("icc_profile") == before.info.get("icc_profile")
        assert after.mode == {"P": "RGB", "1": "L"}.get(before.mode, before.mode)
        assert (np.asarray(before.convert("RGBA")) == np.asarray(after.convert("RGBA"))).all()
    assert (first.array() == second.array()).all()


@pytest.mark.parametrize("kind", [0, 2, 4, 6])  # grey, RGB, grey with alpha, RGB with alpha
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_pictures_keep_every_level_and_their_profile(tmp_path, kind, suffix):
    count = {0: 1, 2: 3, 4: 2, 6: 4}[kind]
    levels, path = noise(9, 7, count, dtype=np.uint16), tmp_path / f"a.{suffix}"
    if suffix == "tif":
        if kind == 4:
            pytest.skip("Pillow does not read it")
        extra = ["unassalpha"] if kind == 6 else None
        photometric = "rgb" if kind else "minisblack"
        tifffile.imwrite(path, levels.squeeze(), photometric=photometric, extrasamples=extra, iccprofile=SRGB)
    else:
        path.write_bytes(png16(levels, kind, SRGB))
    first, second, out = again(path)
    for picture in (first, second):
        assert (picture.array() == levels).all()
        assert picture.icc == SRGB
    assert (out.suffix, Image.open(out).format) == (path.suffix, "PNG" if suffix == "png" else "TIFF")


def png16(levels, kind, icc=None):
    """A PNG of 16 bits per channel of any kind, which neither Pillow nor OpenCV writes."""
    import struct
    import zlib

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width, _ = levels.shape
    rows = levels.astype(">u2").view(np.uint8).reshape(height, -1)
    lines = np.concatenate([np.zeros((height, 1), np.uint8), rows], axis=1).tobytes()
    profile = chunk(b"iCCP", b"x\0\0" + zlib.compress(icc)) if icc else b""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + profile + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def test_16_bit_tiff_of_all_compressions(tmp_path):
    levels = noise(20, 30, 3, dtype=np.uint16)
    for number, compression in enumerate((1, 5, 8, 32773)):  # none, LZW, deflate, packbits
        path = tmp_path / f"{number}.tiff"
        assert cv2.imwrite(str(path), levels[..., ::-1], [cv2.IMWRITE_TIFF_COMPRESSION, compression])
        assert (read(path, 3).levels == levels).all()
    tifffile.imwrite(path, levels.transpose(2, 0, 1), photometric="rgb", planarconfig="separate", compression="zlib")
    assert (read(path, 3).levels == levels).all()


def test_16_bit_colours_multiplied_by_transparency_are_refused(tmp_path):
    tifffile.imwrite(
        tmp_path / "a.tif", noise(8, 9, 4, dtype=np.uint16), photometric="rgb", extrasamples=["assocalpha"]
    )
    with pytest.raises(ValueError, match="save it with straight alpha"):
        read(tmp_path / "a.tif", 3)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_pictures_are_turned_as_their_exif_orientation_says(tmp_path, suffix, orientation):
    from PIL import ImageOps

    exif = Image.Exif()
    exif[274] = orientation
    image, path = Image.fromarray(noise(8, 16, 3)).resize((32, 16)), tmp_path / f"a.{suffix}"
    image.save(path, exif=exif, quality=100) if suffix == "jpg" else image.save(path, exif=exif)
    with Image.open(path) as opened:
        expected = np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))
    first, _, out = again(path)
    assert (first.levels == expected).all()
    with Image.open(out) as after:
        assert after.getexif().get(274, 1) == 1
        assert after.size == expected.shape[1::-1]
    if suffix == "tif":  # 16 bits take another way
        deep = tmp_path / "deep.tif"
        levels = noise(4, 6, 3, dtype=np.uint16)
        tifffile.imwrite(deep, levels, extratags=[(274, "H", 1, orientation, True)])
        assert (read(deep, 3).levels == turned(levels, orientation)).all()


def turned(levels, orientation):
    """By Pillow, in one channel of 8 bits after the other."""
    from PIL import ImageOps

    exif = Image.Exif()
    exif[274] = orientation
    planes = np.ascontiguousarray(levels).view(np.uint8).reshape(*levels.shape[:2], -1)
    found = []
    for number in range(planes.shape[2]):
        image = Image.fromarray(planes[..., number].copy())
        image.info["exif"] = exif.tobytes()
        found.append(np.asarray(ImageOps.exif_transpose(image)))
    return np.ascontiguousarray(np.dstack(found)).view(np.uint16)


def test_jpeg_comes_back_with_little_loss(tmp_path):
    smooth = Image.fromarray(noise(4, 4, 3)).resize((64, 48), Image.BICUBIC)
    smooth.save(tmp_path / "a.jpg", quality=95, subsampling=2)
    first, second, out = again(tmp_path / "a.jpg")
    assert np.abs(first.levels.astype(int) - second.levels).mean() < 1.5
    with Image.open(out) as after:
        assert (after.format, after.layer[0][1:3]) == ("JPEG", (1, 1))  # colour at full resolution


def test_cmyk_becomes_rgb_through_its_profile(tmp_path):
    cmyk = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    cmyk.save(tmp_path / "a.jpg", quality=100)
    first, _, out = again(tmp_path / "a.jpg")
    assert first.icc is None
    assert (first.levels.reshape(-1, 3).mean(0).round() == [0, 255, 255]).all()
    cmyk.save(tmp_path / "b.jpg", quality=100, icc_profile=b"not a profile")
    assert (read(tmp_path / "b.jpg", 3).levels == first.levels).all()
    with Image.open(out) as after:
        assert (after.format, after.mode) == ("JPEG", "RGB")


def test_formats_that_are_not_written_become_png(tmp_path):
    Image.fromarray(noise(9, 7)).save(tmp_path / "a.gif")
    _, _, out = again(tmp_path / "a.gif")
    assert out.name == "a.png"
    (tmp_path / "b.pgm").write_bytes(b"P5 2 1 65535\n" + bytes([1, 2, 255, 255]))
    first, second, out = again(tmp_path / "b.pgm")
    assert out.name == "b.png"
    assert first.levels.tolist() == second.levels.tolist() == [[[258], [65535]]]


def test_arrays_of_many_bands(tmp_path):
    np.save(tmp_path / "a.npy", noise(9, 7, 5, dtype=np.uint16))
    first, second, out = again(tmp_path / "a.npy", channels=5)
    assert out.suffix == ".npy"
    assert (first.levels == second.levels).all()
    Image.fromarray(noise(9, 7, 4)).save(tmp_path / "b.png")
    assert read(tmp_path / "b.png", 4).levels.shape == (9, 7, 4)  # a network of four channels takes alpha as one


def bad(name, tmp_path):
    path = tmp_path / name
    frames = [Image.fromarray(noise(8, 8, 3)) for _ in range(3)]
    if name == "cut.png":
        frames[0].resize((300, 300), Image.NEAREST).save(path)
        path.write_bytes(path.read_bytes()[:200])
    elif name == "cut16.png":
        path.write_bytes(png16(noise(64, 64, 3, dtype=np.uint16), 2)[:900])
    elif name == "text.png":
        path.write_text("no picture")
    elif name == "float.tif":
        Image.fromarray(np.full((4, 4), -1000, np.float32)).save(path)
    else:
        frames[0].save(path, save_all=True, append_images=frames[1:])
    return path


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("cut.png", "truncated|broken|damaged|read"),
        ("cut16.png", "damaged|truncated|broken|read"),
        ("text.png", "no picture that Pillow reads"),
        ("float.tif", r"lie in \[0,1\], this one in \[-1000,-1000\]"),
        ("moving.gif", "3 frames or pages"),
        ("moving.webp", "3 frames or pages"),
        ("pages.tif", "3 frames or pages"),
    ],
)
def test_what_cannot_be_restored_says_why_in_a_line(tmp_path, name, reason):
    with pytest.raises(ValueError, match=reason) as caught:
        read(bad(name, tmp_path), 3)
    assert len(str(caught.value).splitlines()) == 1


def test_alpha_grows_with_the_picture(tmp_path):
    rgba = noise(6, 4, 4)
    rgba[..., 3] = 77
    Image.fromarray(rgba).save(tmp_path / "a.png")
    picture = read(tmp_path / "a.png", 3)
    grown = picture.with_colours(torch.zeros(3, 24, 16))
    assert grown.array().shape == (24, 16, 4)
    assert (grown.alpha == 77).all()
