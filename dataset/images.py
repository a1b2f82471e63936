"""Images of an LMDB as tensors: the transforms, and the data set that training and sampling iterate over."""

from __future__ import annotations

import functools
import hashlib
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.utils.data import Dataset
from torchvision import transforms
from torchvision.transforms import functional

from dataset.decode import decode
from dataset.index import ImageIndex, how_to_rebuild
from dataset.names import class_and_file
from dataset.store import LmdbImages, as_key, entries
from i2sb.errors import UserError, one_line

MAX_ASPECT = 8  # longer strips are cropped before they are resized


class UnreadableImage(UserError):
    """An image file that cannot be decoded; the text names it and its data set."""

    def __init__(self, text: str) -> None:
        # A DataLoader passes on an error of its worker as `type(error)(traceback)`, of which the last line matters.
        super().__init__(text.rstrip().rpartition("\n")[2].rpartition(f"{type(self).__name__}: ")[2])


def fit(image: Image.Image, image_size: int) -> Image.Image:
    """S x S image: shorter side to S (bilinear, by Pillow), centre.

    Of strips beyond 8:1 the middle 8:1 are taken first: resized whole, one of 30000 x 1 would take gigabytes.
    """
    width, height = image.size
    longest = MAX_ASPECT * min(width, height)
    if max(width, height) > longest:
        image = functional.center_crop(image, [min(height, longest), min(width, longest)])
    return functional.center_crop(functional.resize(image, image_size), image_size)


def build_train_transform(image_size: int) -> Callable[[Image.Image], torch.Tensor]:
    """PIL image -> [3,S,S] in [-1,1]: as `fit`, flipped at random (by torch's seed)."""
    return transforms.Compose([build_test_transform(image_size), transforms.RandomHorizontalFlip()])


def build_test_transform(image_size: int) -> Callable[[Image.Image], torch.Tensor]:
    """PIL image -> [3,S,S] in [-1,1]: as `fit`."""
    return functools.partial(_to_tensor, image_size=image_size)  # can be pickled into workers


def _to_tensor(image: Image.Image, image_size: int) -> torch.Tensor:
    return functional.to_tensor(fit(image, image_size)) * 2 - 1


class LmdbDataset(Dataset):
    """Items (image, class index), in the order of `samples`; the attributes are those of torchvision's ImageFolder.

    samples: list of (path when the LMDB was built, class index).
    exif_rotate: turn images as their EXIF orientation says.
    """

    def __init__(
        self, store: LmdbImages, index: ImageIndex, transform: Callable | None, exif_rotate: bool = False
    ) -> None:
        self.store = store
        self.transform = transform
        self.exif_rotate = exif_rotate
        self.root = index.root
        self.classes = index.classes
        self.class_to_idx = index.class_to_idx
        self.samples = self.imgs = index.samples

    @property
    def targets(self) -> list[int]:
        return [label for _, label in self.samples]

    @property
    def name(self) -> str:
        """Where the data set lies, for messages."""
        return os.fspath(self.store.path)

    @staticmethod
    def short_name(path: str) -> str:
        """The part of an image's path that is the same on every machine: CLASS/FILE."""
        return class_and_file(path)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        """Raises UnreadableImage where the image is missing or cannot be decoded."""
        return self.item(index, self.read(index))

    def read(self, index: int) -> bytes:
        """The bytes of the image file of sample `index`.  Raises UnreadableImage where it is missing or damaged."""
        try:
            return self.store.get(self.samples[index][0])
        except UserError as error:
            raise UnreadableImage(str(error)) from error

    def item(self, index: int, content: bytes) -> tuple[Any, int]:
        """Item `index`, made of the bytes `content` of its image file."""
        path, label = self.samples[index]
        try:
            image = decode(content, exif_rotate=self.exif_rotate)
        except ValueError as error:
            images = self.root if self.root and Path(self.root).is_dir() else "IMAGES"
            raise UnreadableImage(
                f"{self.name}: cannot decode the image {one_line(path, 600)}: {error}; replace or remove it and "
                f"rebuild the LMDB: {how_to_rebuild(images, self.name)}"
            ) from error
        return (image if self.transform is None else self.transform(image)), label

    def fingerprint(self) -> str:
        """Identity of the data set: the count, and a hash of CLASS/FILE names, labels and byte sizes in order.

        No image is read for it: 1.3 million of them take about 10 s.
        """
        sizes = {key: size for key, size, _ in entries(self.store.path)}
        digest = hashlib.sha256()
        for path, label in self.samples:
            key = as_key(path)
            size = sizes[key] if key in sizes else sizes.get(as_key(self.store.key_of(path) or ""), -1)
            digest.update(f"{self.short_name(path)}\0{label}\0{size}\n".encode("utf-8", "surrogateescape"))
        return f"{len(self.samples)}-{digest.hexdigest()[:16]}"


class WithChecksum(LmdbDataset):
    """Items (image, class index, CRC-32 of the image file's bytes as they were read: int) of another data set."""

    def __init__(self, dataset: LmdbDataset) -> None:
        self.__dict__.update(vars(dataset))

    def __getitem__(self, index: int) -> tuple[Any, int, int]:
        content = self.read(index)
        return *self.item(index, content), zlib.crc32(content)
