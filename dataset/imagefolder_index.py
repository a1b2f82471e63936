"""The index beside an LMDB (`NAME.lmdb.pt`): which images there are, in which order, and of which class.

On disk it is the `torch.save` of a torchvision ImageFolder, as the original writes and reads it.  Such a
file is a pickle, so a stranger's could run code when opened in the usual way; here it is read as data by
`i2sb.runtime.safe_torch.load_object`, which imports and calls nothing, and only the one class is accepted.
(`torch.load(weights_only=True)` does not read the original's files: they are of pickle protocol 4.)
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from i2sb.errors import UserError, one_line
from i2sb.runtime.files import atomic_write
from i2sb.runtime.pickle_machine import Refused
from i2sb.runtime.safe_torch import load_object

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")

_IMAGE_FOLDER = "torchvision.datasets.folder.ImageFolder"
# An ImageFolder as torchvision made it may name its loader, and its root as a path: only names here, too.
_OPAQUE = (
    "torchvision.datasets.folder.default_loader",
    *(f"{module}.{kind}Path" for module in ("pathlib", "pathlib._local") for kind in ("Posix", "Windows")),
)


@dataclass
class ImageIndex:
    """The images of one split: `samples[i]` = (path, class index), in the order of the data set."""

    root: str
    classes: list[str]
    class_to_idx: dict[str, int]
    samples: list[tuple[str, int]]
    extensions: tuple[str, ...] = field(default=EXTENSIONS)


def class_and_file(path: str) -> str:
    """The part of an image's path that means something on every machine: 'CLASS/FILE'.

    Paths written on Windows are understood as well.  A path without a folder gives '/FILE'.
    """
    folder, _, name = path.replace("\\", "/").rpartition("/")
    return f"{folder.rpartition('/')[2]}/{name}"


def scan_image_folder(root: str | os.PathLike) -> ImageIndex:
    """Index of the images in `root`/CLASS/*.ext, ordered as torchvision's ImageFolder does.

    Two differences: hidden folders are no classes, and a class without images keeps its number instead of
    stopping everything.

    Raises:
        UserError: no such folder, no class folders in it, or no images in those.
    """
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"{root}: there is no such folder of images")
    try:
        with os.scandir(root) as entries:
            listed = [entry for entry in entries if not entry.name.startswith(".")]
        classes = sorted(entry.name for entry in listed if entry.is_dir())
    except OSError as error:
        raise UserError(f"{root}: cannot be read: {error.strerror}") from error
    if not classes:
        loose = sum(entry.name.lower().endswith(EXTENSIONS) for entry in listed)
        found = f"holds {loose} images directly" if loose else "holds no folders"
        raise UserError(f"{root}: {found}; images belong into {root.name}/CLASS/, one folder per class")
    class_to_idx = {name: number for number, name in enumerate(classes)}
    samples = [(path, number) for name, number in class_to_idx.items() for path in _images_under(root / name)]
    if not samples:
        raise UserError(f"{root}: its {len(classes)} class folders hold no images ({' '.join(EXTENSIONS)})")
    return ImageIndex(str(root), classes, class_to_idx, samples)


def _images_under(folder: Path) -> list[str]:
    """Paths of the images in `folder` and below, in ImageFolder's order."""
    found = []
    for here, _, names in sorted(os.walk(folder, followlinks=True)):
        images = sorted(name for name in names if name.lower().endswith(EXTENSIONS))
        found += [f"{here}{os.sep}{name}" for name in images]  # pathlib is slow by the million
    return found


def write_index(index: ImageIndex, path: str | os.PathLike) -> None:
    """Write `index` as the torchvision ImageFolder that the original's loaders read, whole or not at all.

    torch's own pickle protocol (2) is used: `torch.load(weights_only=True)` can read it too.

    Raises:
        UserError: the file cannot be written.
    """
    import torch
    from torchvision.datasets import ImageFolder

    folder = ImageFolder.__new__(ImageFolder)  # its constructor would read the whole folder again
    folder.__dict__.update(
        root=index.root,
        transform=None,
        target_transform=None,
        transforms=None,
        loader=None,
        extensions=index.extensions,
        classes=index.classes,
        class_to_idx=index.class_to_idx,
        samples=index.samples,
        targets=[label for _, label in index.samples],
        imgs=index.samples,
    )
    with atomic_write(path) as file:
        torch.save(folder, file)


def read_index(path: str | os.PathLike) -> ImageIndex:
    """The index in a `.lmdb.pt` file, whoever wrote it; nothing in the file is executed.

    Raises:
        UserError: no such file, or not an ImageFolder of sound content (`FILE: refused: REASON`).
    """
    try:
        attributes = load_object(path, _IMAGE_FOLDER, opaque=_OPAQUE)
        return _as_index(attributes)
    except Refused as error:
        raise UserError(f"{path}: refused: {one_line(error, 300)}") from None
    except MemoryError:
        raise UserError(f"{path}: refused: it needs more memory than there is") from None


def _as_index(attributes: dict[str, Any]) -> ImageIndex:
    classes = _list_of_text(attributes, "classes")
    if len(set(classes)) != len(classes):
        raise Refused("it names a class twice")
    samples = attributes.get("samples", attributes.get("imgs"))
    _check_samples(samples, len(classes))
    class_to_idx = attributes.get("class_to_idx")
    if class_to_idx != {name: number for number, name in enumerate(classes)}:
        raise Refused("its class_to_idx does not number its classes")
    root = attributes.get("root") or ""
    if not isinstance(root, str):
        raise Refused("its root is no text")
    extensions = attributes.get("extensions") or EXTENSIONS
    if not (isinstance(extensions, tuple) and all(type(item) is str for item in extensions)):
        raise Refused("its extensions are no names")
    return ImageIndex(root, classes, class_to_idx, samples, extensions)


def _list_of_text(attributes: dict[str, Any], name: str) -> list[str]:
    value = attributes.get(name)
    if not (isinstance(value, list) and value and all(type(item) is str for item in value)):
        raise Refused(f"its {name} is not a list of names")
    return value


def _check_samples(samples: Any, num_classes: int) -> None:
    if not (isinstance(samples, list) and samples):
        raise Refused("its samples are missing or empty")
    for sample in samples:
        if not (type(sample) is tuple and len(sample) == 2):
            raise Refused("its samples are not all pairs")
        path, label = sample
        if not (type(path) is str and type(label) is int):
            raise Refused("its samples are not all of a path and a class number")
        if not path or "\0" in path or not _is_file_name(path):
            raise Refused("one of its paths is empty or holds characters that no file name has")
        if not 0 <= label < num_classes:
            raise Refused(f"a sample is of class number {label}, but there are {num_classes} classes")


def _is_file_name(path: str) -> bool:
    try:
        path.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True
