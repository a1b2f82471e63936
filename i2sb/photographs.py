"""Users' pictures: read with bit depth, transparency and colour profile, and written as they came.

Pillow reads and writes what has 8 bits per channel.  Deeper colour, which it cannot hold, is read by OpenCV (PNG, and
TIFF in all its compressions) and written here (PNG) and by tifffile, which also reads TIFF of other numbers.
"""

from __future__ import annotations

import dataclasses
import io
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    "PNG": {"compress_level": 3},  # half the time of 6, for files 3 % larger
    "JPEG": {"quality": 95, "subsampling": 0},
    "TIFF": {"compression": "tiff_lzw"},
    "WEBP": {"lossless": True, "exact": True},  # exact: colours under full transparency, too
    "BMP": {},
}
_LOSSLESS = {".png", ".tif", ".tiff", ".webp", ".bmp", ".dib", ".npy"}
_JPEG = {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"}
_DEEP = {"PNG", "TIFF", "NPY"}  # formats that hold 16 bits per channel
_NPY, _TIFF = b"\x93NUMPY", (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # how these files begin
# Tags of TIFF and EXIF
_BITS_PER_SAMPLE, _PHOTOMETRIC, _ORIENTATION, _ICC = 258, 262, 274, 34675
_SEVERAL = "it holds {} frames or pages: only single images are restored"
_OVERSHOOT = 0.25  # resizing with sharp kernels leaves [0,1] by that much; beyond, white is another number

ValueRange = tuple[float, float] | None
"""The values of black and white; None: the type's, see `Photograph.of`."""


@dataclass(frozen=True)
class Photograph:
    """A picture in memory.

    Attributes:
        levels: [H,W,C] as in the file; 1 (grey), 3 (RGB) or more channels.
        value_range: the levels of black and of white; what lies outside is clipped.
        alpha: [H,W] of the same dtype, or None.
        icc: the colour profile, or None.
        format: what it is written as: a key of `_WRITTEN`, or "NPY".
    """

    levels: np.ndarray
    value_range: tuple[float, float]
    alpha: np.ndarray | None = None
    icc: bytes | None = None
    format: str = "PNG"

    @classmethod
    def of(cls, array: np.ndarray, channels: int, value_range: ValueRange = None, **others) -> Photograph:
        """From [H,W] or [H,W,C]; a second or fourth channel that a network of `channels` does not take is alpha.

        value_range: None: all that uint8 and uint16 hold, 0 to 1 for floating point; other types have none.

        Raises:
            ValueError: another shape or dtype, NaN or inf, or values whose black and white are unknown.
        """
        array = array[:, :, None] if array.ndim == 2 else array
        if array.ndim != 3 or not array.size or array.dtype.kind not in "uif":
            wanted = "[H,W] or [H,W,C], of whole numbers or floating point"
            raise ValueError(f"a picture is an array {wanted}; got {array.dtype} {list(array.shape)}")
        if array.dtype.kind == "f" and (count := array.size - np.count_nonzero(np.isfinite(array))):
            raise ValueError(f"{count} of its {array.size} values are NaN or inf")
        others["value_range"] = value_range or _type_range(array)
        if array.shape[2] in (2, 4) and array.shape[2] != channels:
            return cls(array[..., :-1], alpha=array[..., -1], **others)
        return cls(array, **others)

    def outside(self) -> int:
        """How many levels lie outside `value_range`."""
        low, high = self.value_range
        return int(np.count_nonzero((self.levels < low) | (self.levels > high)))

    def lossless(self) -> Photograph:
        """The same, to be written without loss."""
        return dataclasses.replace(self, format="PNG") if self.format == "JPEG" else self

    def array(self) -> np.ndarray:
        """[H,W,C] with alpha as the last channel, if there is one."""
        return self.levels if self.alpha is None else np.dstack([self.levels, self.alpha])

    def unit(self) -> np.ndarray:
        """The colours as float32 [H,W,C] in [0,1]."""
        low, high = self.value_range
        values = self.levels.astype(np.result_type(self.levels.dtype, np.float32))
        values -= low
        values /= high - low
        return values.clip(0, 1, out=values).astype(np.float32, copy=False)

    def tensor(self) -> Tensor:
        """The colours as float32 [C,H,W] in [-1,1]."""
        values = np.ascontiguousarray(self.unit().transpose(2, 0, 1))
        values *= 2
        values -= 1
        return torch.from_numpy(values)

    def with_colours(self, x: Tensor) -> Photograph:
        """The same picture with the colours [C,H,W], about in [-1,1]; where it has grown, so has its alpha."""
        (low, high), dtype = self.value_range, self.levels.dtype
        values = (x.double() if dtype.itemsize > 2 else x).add(1).mul_((high - low) / 2).add_(low).clamp_(low, high)
        if dtype.kind != "f":
            values = values.round_().clamp_(np.iinfo(dtype).min, np.iinfo(dtype).max)
        levels = values.numpy().astype(dtype).transpose(1, 2, 0)
        alpha = self.alpha
        if alpha is not None and alpha.shape != levels.shape[:2]:
            grown = torch.from_numpy(alpha.astype(np.float32))[None, None]
            grown = F.interpolate(grown, size=levels.shape[:2], mode="bilinear")[0, 0].numpy()
            alpha = (grown if dtype.kind == "f" else grown.round()).astype(dtype)
        return dataclasses.replace(self, levels=levels, alpha=alpha)


def clipped(count: int, total: int, value_range: tuple[float, float]) -> str:
    """The warning about values outside the range."""
    low, high = value_range
    return f"{count} of {total} values lie outside {low:g} to {high:g} and are clipped (train.py --value-range)"


def _type_range(array: np.ndarray) -> tuple[float, float]:
    if array.dtype.kind == "u" and array.dtype.itemsize <= 2:
        return 0.0, float(np.iinfo(array.dtype).max)
    if array.dtype.kind != "f":
        raise ValueError(
            f"its pixels are {array.dtype}, whose black and white only train.py --value-range LO HI says; save it with "
            "8 or 16 bits otherwise"
        )
    low, high = array.min(), array.max()
    if low < -_OVERSHOOT or high > 1 + _OVERSHOOT:
        raise ValueError(
            f"floating-point pictures lie in [0,1], this one in [{low:g},{high:g}]: train.py --value-range LO HI "
            "says others"
        )
    return 0.0, 1.0


# Reading


def read(path: Path, channels: int, value_range: ValueRange = None) -> Photograph:
    """Read a picture file; see `parse`."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(one_line(error, 300)) from error
    return parse(content, channels, value_range)


def parse(content: bytes, channels: int, value_range: ValueRange = None, *, turn: bool = True) -> Photograph:
    """A picture file for a network of `channels`: as `from_pil`, with the numbers that it holds.

    Raises:
        ValueError: it cannot be read, is no single image, or see `Photograph.of`; one line.
    """
    try:
        if content.startswith(_NPY):
            return Photograph.of(np.load(io.BytesIO(content), allow_pickle=False), channels, value_range, format="NPY")
        if content.startswith(_TIFF) and (found := _read_tiff(content, channels, turn)):
            array, others = found
            return Photograph.of(array, channels, value_range, **others)
        with Image.open(io.BytesIO(content), formats=readable_formats()) as image:
            if image.format == "PNG" and content[24] == 16 and content[25]:  # of bits and the kind, 0 for grey
                array = _by_opencv(content)
                array = array[..., [0, 3]] if content[25] == 4 else array  # grey with alpha
                array = _turned(array, image.getexif().get(_ORIENTATION)) if turn else array
                return Photograph.of(array, channels, value_range, icc=image.info.get("icc_profile"), format="PNG")
            return from_pil(image, channels, value_range, turn=turn)
    except UnidentifiedImageError:
        raise ValueError("it is no picture that Pillow reads, or damaged from the beginning") from None
    except Exception as error:  # Pillow's plug-ins raise errors of many types
        raise ValueError(one_line(error, 300) or type(error).__name__) from error


def is_deep(content: bytes) -> bool:
    """Whether an image file holds other numbers than 8 bits per channel, or is an array, as far as its header tells."""
    if content.startswith(b"\x89PNG"):
        return content[24:25] == b"\x10"
    if content.startswith((b"\xff\xd8", _NPY)):  # JPEG
        return content.startswith(_NPY)
    try:
        with Image.open(io.BytesIO(content), formats=readable_formats()) as image:
            bits = image.tag_v2.get(_BITS_PER_SAMPLE, (1,)) if image.format == "TIFF" else (1,)
            return image.mode[0] in "IF" or max(bits) > 8
    except Exception:  # of many types: a TIFF of numbers that Pillow does not know, or damage, which reading reports
        return content.startswith(_TIFF)


def from_pil(image: Image.Image, channels: int, value_range: ValueRange = None, *, turn: bool = True) -> Photograph:
    """A Pillow image, turned as its EXIF orientation says.

    Palettes, CMYK (by its colour profile, else by Pillow's formula) and the like become RGB, 1 bit becomes grey.
    """
    count = getattr(image, "n_frames", 1)
    if count > 1 and image.format != "MPO":  # which is a JPEG with further views of the same
        raise ValueError(_SEVERAL.format(count))
    image.load()
    icc = image.info.get("icc_profile")
    format = {"MPO": "JPEG"}.get(image.format, image.format)
    if image.mode == "I" and image.format in ("PNG", "PPM"):  # how older versions of Pillow give 16-bit grey
        array = np.asarray(image).astype(np.uint16)
    elif image.mode.startswith("I;16"):
        array = _grey16(image, scaled=value_range is None)
    elif image.mode in ("I", "F"):
        array = np.asarray(image)
    elif image.mode == "CMYK":
        array, icc = np.asarray(_from_cmyk(image, icc)), None
    else:
        see_through = "transparency" in image.info or image.mode in ("LA", "La", "PA", "RGBA", "RGBa")
        grey = image.mode in ("1", "L", "LA", "La")
        array = np.asarray(image.convert(("LA" if grey else "RGBA") if see_through else "L" if grey else "RGB"))
    if format not in (_WRITTEN if array.dtype == np.uint8 else _DEEP):
        format = "PNG"
    array = _turned(array, image.getexif().get(_ORIENTATION)) if turn else array
    return Photograph.of(array, channels, value_range, icc=icc, format=format)


def _grey16(image: Image.Image, scaled: bool) -> np.ndarray:
    """12-bit TIFF has this mode, too, `scaled` to 16 bits; and in some TIFF white is zero."""
    levels, tags = np.asarray(image).astype(np.uint16), image.tag_v2 if image.format == "TIFF" else {}
    bits = tags.get(_BITS_PER_SAMPLE, (16,))[0]
    if scaled and bits < 16:
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


def _read_tiff(content: bytes, channels: int, turn: bool) -> tuple[np.ndarray, dict[str, Any]] | None:
    """(pixels, others of `Photograph`) of a TIFF; None where it has up to 8 bits or 16-bit grey, which Pillow reads."""
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        page, count, of_pillow = file.pages[0], len(file.pages), channels in (1, 3, 4)
        if of_pillow and (page.bitspersample <= 8 or (page.samplesperpixel == 1 and page.dtype == np.uint16)):
            return None
        if of_pillow and count > 1:
            raise ValueError(_SEVERAL.format(count))
        if of_pillow and 1 in page.extrasamples:
            raise ValueError("its deep colours are multiplied by its transparency: save it with straight alpha")
        others = {"icc": page.tags.valueof(_ICC), "format": "TIFF"}
        orientation = page.tags.valueof(_ORIENTATION) if turn else None
        if of_pillow and page.dtype == np.uint16 and page.planarconfig == 1:
            return _by_opencv(content), others  # which turns it itself
        try:
            array = file.asarray()
        except ValueError:  # a compression that tifffile lacks
            return _by_opencv(content), others
    if array.ndim == 3 and (page.planarconfig == 2 or array.shape[2] != channels == array.shape[0]):
        array = np.moveaxis(array, 0, 2)
    return _turned(array, orientation), others


def _by_opencv(content: bytes) -> np.ndarray:
    """[H,W] or [H,W,C] as RGB with all its bits."""
    import cv2

    array = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if array is None or array.dtype == np.uint8:
        raise ValueError("damaged, or a kind of deep colour that OpenCV does not read")
    return array if array.ndim == 2 else array[..., [2, 1, 0, *range(3, array.shape[2])]]


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
    elif format == "TIFF" and (array.dtype != np.uint8 or photograph.levels.shape[2] > 4):
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
