"""The index beside an LMDB (`NAME.lmdb.pt`): which images there are, in which order, and of which class.

On disk it is the `torch.save` of a torchvision ImageFolder, as the original writes and reads it.
"""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path

from dataset.decode import image_suffixes
from i2sb.errors import UserError
from i2sb.runtime.files import atomic_write
from i2sb.runtime.reading import load_image_folder


@dataclass
class ImageIndex:
    """The images of one split: `samples[i]` = (path, class index), in the order of the data set."""

    root: str
    classes: list[str]
    samples: list[tuple[str, int]]

    @property
    def class_to_idx(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.classes)}


def index_path(lmdb_path: str | os.PathLike) -> Path:
    """`NAME.lmdb` -> `NAME.lmdb.pt`."""
    return Path(f"{os.fspath(lmdb_path)}.pt")


def how_to_rebuild(images: str | os.PathLike, lmdb_path: str | os.PathLike) -> str:
    """The command that replaces an LMDB by one of the images in a folder."""
    folder, lmdb, index = (shlex.quote(os.fspath(path)) for path in (images, lmdb_path, index_path(lmdb_path)))
    return f"rm -r {lmdb} {index}; python scripts/build_lmdb.py {folder} {lmdb}"


def write_index(index: ImageIndex, path: str | os.PathLike) -> None:
    """Write `index` as the torchvision ImageFolder that the original's loaders read, whole or not at all."""
    import torch
    from torchvision.datasets import ImageFolder

    folder = ImageFolder.__new__(ImageFolder)  # its constructor would read the whole folder again
    folder.__dict__.update(
        root=index.root,
        transform=None,
        target_transform=None,
        transforms=None,
        loader=None,
        extensions=image_suffixes(),
        classes=index.classes,
        class_to_idx=index.class_to_idx,
        samples=index.samples,
        targets=[label for _, label in index.samples],
        imgs=index.samples,
    )
    with atomic_write(path) as file:
        torch.save(folder, file)


def read_index(path: str | os.PathLike) -> ImageIndex:
    """The index in a `.lmdb.pt` file, ours or the original's; nothing in the file is executed.

    Raises:
        UserError: no such file, or not an ImageFolder whose classes and samples fit together.
    """
    found = load_image_folder(path)
    index = ImageIndex(found.root, found.classes if isinstance(found.classes, list) else [], found.samples)
    labels = {label for _, label in index.samples}
    if found.class_to_idx != index.class_to_idx or not labels or not labels <= set(range(len(index.classes))):
        raise UserError(f"{path}: refused: its classes, class_to_idx and samples are empty or do not fit together")
    return index
