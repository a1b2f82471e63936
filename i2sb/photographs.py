"""Users' pictures: read with bit depth, transparency and colour profile, and written as they came.

Pillow reads and writes what has 8 bits per channel.  Deeper colour, which it cannot hold, is read by OpenCV (PNG, and
TIFF in all its compressions) and written here (PNG) and by tifffile.
"""

from __future__ import annotations

import dataclasses
import io
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
import torch
import torch.nn.functional as F
from PIL import Image, ImageCms, UnidentifiedImageError
from torch import Tensor

from i2sb.errors import one_line
from i2sb.runtime.picture_formats import readable_formats

# What is written, and how; JPEG keeps colour at full resolution.
_WRITTEN = {
    "PNG": {},
    "JPEG": {"quality": 95, "subsampling": 0},
    "TIFF": {"compression": "tiff_lzw"},
    "WEBP": {"lossless": True, "exact": True},  # exact: colours under full transparency, too
    "BMP": {},
}
_LOSSLESS = {".png", ".tif", ".tiff", ".webp", ".bmp", ".dib", ".npy"}
_JPEG = {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"}
_DEEP = {"PNG", "TIFF", "NPY"}  # formats that hold 16 bits per channel
# Tags of TIFF and EXIF
_BITS_PER_SAMPLE, _PHOTOMETRIC, _ORIENTATION, _PLANES, _EXTRA_SAMPLES, _SAMPLE_FORMAT = 258, 262, 274, 284, 338, 339
_OVERSHOOT = 0.25  # resizing with sharp kernels leaves [0,1] by that much; beyond, white is another number


@dataclass(frozen=True)
class Photograph:
    """A picture in memory.

    Attributes:
        levels: [H,W,C], uint8, uint16, or floating point in [0,1]; 1 (grey), 3 (RGB) or more channels.
        alpha: [H,W] of the same dtype, or None.
        icc: the colour profile, or None.
        format: what it is written as: a key of `_WRITTEN`, or "NPY".
    """

    levels: np.ndarray
    alpha: np.ndarray | None = None
    icc: bytes | None = None
    format: str = "PNG"

    @classmethod
    def of(cls, array: np.ndarray, channels: int, **others) -> Photograph:
        """From [H,W] or [H,W,C]; a second or fourth channel that a network of `channels` does not take is alpha.

        Raises:
            ValueError: another shape or dtype.
        """
        array = array[:, :, None] if array.ndim == 2 else array
        known = array.dtype in (np.uint8, np.uint16) or np.issubdtype(array.dtype, np.floating)
        if array.ndim != 3 or not array.size or not known:
            wanted = "[H,W] or [H,W,C], uint8, uint16 or floating point in [0,1]"
            raise ValueError(f"a picture is an array {wanted}; got {array.dtype} {list(array.shape)}")
        low, high = array.min(), array.max()
        if array.dtype.kind == "f" and not (low >= -_OVERSHOOT and high <= 1 + _OVERSHOOT):
            raise ValueError(f"floating-point pictures lie in [0,1], this one in [{low:g},{high:g}]")
        if array.shape[2] in (2, 4) and array.shape[2] != channels:
            return cls(array[..., :-1], array[..., -1], **others)
        return cls(array, **others)

    @property
    def white(self) -> float:
        """The level of white."""
        return 1.0 if np.issubdtype(self.levels.dtype, np.floating) else float(np.iinfo(self.levels.dtype).max)

    def lossless(self) -> Photograph:
        """The same, to be written without loss."""
        return dataclasses.replace(self, format="PNG") if self.format == "JPEG" else self

    def array(self) -> np.ndarray:
        """[H,W,C] with alpha as the last channel, if there is one."""
        return self.levels if self.alpha is None else np.dstack([self.levels, self.alpha])

    def tensor(self) -> Tensor:
        """The colours as float32 [C,H,W] in [-1,1]."""
        values = np.ascontiguousarray(self.levels.transpose(2, 0, 1)).astype(np.float32)
        values /= self.white
        values *= 2
        values -= 1
        return torch.from_numpy(values)

    def with_colours(self, x: Tensor) -> Photograph:
        """The same picture with the colours [C,H,W], about in [-1,1]; where it has grown, so has its alpha."""
        values = x.add(1).mul_(self.white / 2).clamp_(0, self.white)
        if self.white > 1:
            values = values.round_()
        levels = values.numpy().astype(self.levels.dtype).transpose(1, 2, 0)
        alpha = self.alpha
        if alpha is not None and alpha.shape != levels.shape[:2]:
            grown = torch.from_numpy(alpha.astype(np.float32))[None, None]
            grown = F.interpolate(grown, size=levels.shape[:2], mode="bilinear")[0, 0].numpy()
            alpha = (grown.round() if self.white > 1 else grown).astype(levels.dtype)
        return dataclasses.replace(self, levels=levels, alpha=alpha)


# Reading


def read(path: Path, channels: int) -> Photograph:
    """Read a picture file for a network of `channels`: as `from_pil`, with 16 bits per channel where it has them.

    Raises:
        ValueError: it cannot be read, is no single image, or has pixels whose white is undefined; one line.
    """
    try:
        content = path.read_bytes()
        if path.suffix.lower() == ".npy":
            return Photograph.of(np.load(io.BytesIO(content), allow_pickle=False), channels, format="NPY")
        if channels > 4 and path.suffix.lower() in (".tif", ".tiff"):
            return Photograph.of(tifffile.imread(io.BytesIO(content)), channels, format="TIFF")
        with Image.open(io.BytesIO(content), formats=readable_formats()) as image:
            if _is_deep_colour(image, content):
                return _read_deep(image, content, channels)
            return from_pil(image, channels)
    except UnidentifiedImageError:
        raise ValueError("it is no picture that Pillow reads, or damaged from the beginning") from None
    except Exception as error:  # Pillow's plug-ins raise errors of many types
        raise ValueError(one_line(error, 300) or type(error).__name__) from error


def from_pil(image: Image.Image, channels: int) -> Photograph:
    """A Pillow image, turned as its EXIF orientation says.

    Palettes, CMYK (by its colour profile, else by Pillow's formula) and the like become RGB, 1 bit becomes grey.
    """
    count = getattr(image, "n_frames", 1)
    if count > 1 and image.format != "MPO":  # which is a JPEG with further views of the same
        raise ValueError(f"it holds {count} frames or pages: only single images are restored")
    image.load()
    icc = image.info.get("icc_profile")
    format = {"MPO": "JPEG"}.get(image.format, image.format)
    if image.mode == "I" and image.format in ("PNG", "PPM"):  # how older versions of Pillow give 16-bit grey
        array = np.asarray(image).astype(np.uint16)
    elif image.mode.startswith("I;16"):
        array = _grey16(image)
    elif image.mode in ("I", "F"):
        kind = "floating-point" if image.mode == "F" else "signed or 32-bit integer"
        raise ValueError(f"it has {kind} pixels, whose white is undefined: save it with 8 or 16 bits")
    elif image.mode == "CMYK":
        array, icc = np.asarray(_from_cmyk(image, icc)), None
    else:
        see_through = "transparency" in image.info or image.mode in ("LA", "La", "PA", "RGBA", "RGBa")
        grey = image.mode in ("1", "L", "LA", "La")
        array = np.asarray(image.convert(("LA" if grey else "RGBA") if see_through else "L" if grey else "RGB"))
    if format not in (_DEEP if array.dtype == np.uint16 else _WRITTEN):
        format = "PNG"
    return Photograph.of(_turned(array, image.getexif().get(_ORIENTATION)), channels, icc=icc, format=format)


def _grey16(image: Image.Image) -> np.ndarray:
    """12-bit TIFF has this mode, too; and in some TIFF white is zero."""
    levels, tags = np.asarray(image).astype(np.uint16), image.tag_v2 if image.format == "TIFF" else {}
    bits = tags.get(_BITS_PER_SAMPLE, (16,))[0]
    if bits < 16:
        levels = (levels.astype(np.uint32) * 65535 // (2**bits - 1)).astype(np.uint16)
    return 65535 - levels if tags.get(_PHOTOMETRIC) == 0 else levels


def _from_cmyk(image: Image.Image, icc: bytes | None) -> Image.Image:
    if icc:
        try:
            return ImageCms.profileToProfile(image, io.BytesIO(icc), ImageCms.createProfile("sRGB"), outputMode="RGB")
        except (ImageCms.PyCMSError, OSError):  # a damaged profile
            pass
    return image.convert("RGB")


def _turned(array: np.ndarray, orientation: int | None) -> np.ndarray:
    """[H,W(,C)] as its EXIF orientation 1..8 says."""
    if orientation in (5, 6, 7, 8):
        array = array.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return array


def _is_deep_colour(image: Image.Image, content: bytes) -> bool:
    """Whether Pillow would cut 16 bits per channel to 8."""
    if image.format == "PNG":
        return content[24] == 16 and content[25] != 0  # in the header: bits per channel; the kind, 0 for grey
    if image.format == "TIFF" and getattr(image, "n_frames", 1) == 1:
        bits, kinds = image.tag_v2.get(_BITS_PER_SAMPLE, (1,)), image.tag_v2.get(_SAMPLE_FORMAT, (1,))
        return len(bits) > 1 and set(bits) == {16} and set(kinds) == {1}
    return False


def _read_deep(image: Image.Image, content: bytes, channels: int) -> Photograph:
    icc = image.info.get("icc_profile")
    if image.format == "TIFF" and 1 in np.atleast_1d(image.tag_v2.get(_EXTRA_SAMPLES, ())):
        raise ValueError("its 16-bit colours are multiplied by its transparency: save it with straight alpha")
    if image.format == "TIFF" and image.tag_v2.get(_PLANES) == 2:  # of which OpenCV mixes up the planes
        array = tifffile.imread(io.BytesIO(content)).transpose(1, 2, 0)
        return Photograph.of(_turned(array, image.tag_v2.get(_ORIENTATION)), channels, icc=icc, format="TIFF")
    import cv2

    array = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if array is None or array.dtype != np.uint16:
        raise ValueError("damaged, or a kind of 16-bit colour that OpenCV does not read")
    if image.format == "PNG" and content[25] == 4:  # grey with alpha
        array = array[..., [0, 3]]
    elif array.ndim == 3:
        array = array[..., [2, 1, 0, *range(3, array.shape[2])]]  # from OpenCV's BGR
    orientation = None if image.format == "TIFF" else image.getexif().get(_ORIENTATION)  # OpenCV turns TIFF itself
    return Photograph.of(_turned(array, orientation), channels, icc=icc, format=image.format)


# Writing


def output_name(name: Path, *, lossless: bool = False) -> Path:
    """The name for the picture of a file: its own, but .png where `encode` gives another format (see `lossless`)."""
    kept = _LOSSLESS if lossless else _LOSSLESS | _JPEG
    return name if name.suffix.lower() in kept else name.with_suffix(".png")


def encode(photograph: Photograph) -> bytes:
    """The bytes of a picture file.

    Raises:
        ValueError: the format has no place for the picture.
    """
    array, format, icc = photograph.array(), photograph.format, photograph.icc
    if array.dtype == np.uint16 and format == "PNG":
        return _png16(array, icc)
    array = np.ascontiguousarray(array[..., 0] if array.shape[2] == 1 else array)
    buffer = io.BytesIO()
    if format == "NPY":
        np.save(buffer, array)
    elif format == "TIFF" and (array.dtype == np.uint16 or photograph.levels.shape[2] > 4):
        kind = "rgb" if photograph.levels.shape[2] == 3 else "minisblack"
        extra = None if photograph.alpha is None else ["unassalpha"]
        layout = {"planarconfig": "contig"} if array.ndim == 3 else {}
        tifffile.imwrite(buffer, array, photometric=kind, extrasamples=extra, iccprofile=icc, metadata=None, **layout)
    else:
        try:
            Image.fromarray(array).save(buffer, format, **_WRITTEN[format], **({"icc_profile": icc} if icc else {}))
        except (OSError, KeyError) as error:  # beyond a format's largest size, or channels that it lacks
            raise ValueError(f"cannot be written as {format}: {one_line(error)}") from error
    return buffer.getvalue()


def _png16(array: np.ndarray, icc: bytes | None) -> bytes:
    """[H,W,C] uint16 as PNG; OpenCV writes neither grey with alpha nor, in its older versions, profiles."""
    height, width, count = array.shape
    rows = array.astype(">u2").reshape(height, -1).view(np.uint8)
    lines = np.full((height, 1 + rows.shape[1]), 2, dtype=np.uint8)  # filter 2: less the line above
    lines[:, 1:] = np.diff(rows, axis=0, prepend=np.zeros_like(rows[:1]))
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[count]
    chunks = {b"IHDR": struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)}
    if icc:
        chunks[b"iCCP"] = b"ICC profile\0\0" + zlib.compress(icc)
    chunks |= {b"IDAT": zlib.compress(lines.tobytes()), b"IEND": b""}
    parts = (struct.pack(">I", len(x)) + n + x + struct.pack(">I", zlib.crc32(n + x)) for n, x in chunks.items())
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)
