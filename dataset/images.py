"""The data set that training and sampling iterate over: the images of an LMDB, or of a folder where they lie."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from dataset.decode import decode
from dataset.folder import FolderImages
from dataset.index import ImageIndex
from dataset.names import class_and_file
from dataset.store import LmdbImages
from i2sb.errors import UserError, one_line
from i2sb.photographs import is_deep, parse


class UnreadableImage(UserError):
    """An image file that cannot be decoded; the text names it and its data set."""

    def __init__(self, text: str) -> None:
        # A DataLoader passes on an error of its worker as `type(error)(traceback)`, of which the last line matters.
        super().__init__(text.rstrip().rpartition("\n")[2].rpartition(f"{type(self).__name__}: ")[2])


class ImageDataset(Dataset):
    """Items (x0, class index): x0 is what `transform` makes of the decoded image (None: the decoded image).

    Attributes and methods that training, sampling and evaluation use, so that another layout of data needs no more:
        samples: [(path, class index)], also called imgs; classes: their names.
        has_labels: whether the classes tell anything.
        is_paired: items are (x0, x1, class index), with the degraded image x1.
        name, short_name(path): for messages and files.
        read(index) -> bytes, item(index, bytes) -> item, fingerprint().
        is_deep: whether values have more than 8 bits.

    Args:
        store: the files, by path.
        exif_rotate, channels, value_range: see `decode`.
    """

    is_paired = False

    def __init__(
        self,
        store: LmdbImages | FolderImages,
        index: ImageIndex,
        transform: Callable | None,
        **decoding: Any,
    ) -> None:
        self.store, self.transform, self.decoding = store, transform, decoding
        self.root, self.classes, self.class_to_idx = index.root, index.classes, index.class_to_idx
        self.samples = self.imgs = index.samples

    @property
    def targets(self) -> list[int]:
        return [label for _, label in self.samples]

    @property
    def has_labels(self) -> bool:
        return len(self.classes) > 1

    @property
    def is_deep(self) -> bool:
        """Whether the first clean image has other values than 8 bits per channel: scores then do not round to them."""
        if self.decoding.get("value_range") is not None:
            return True
        content = self._read(self.samples[0][0])
        try:
            return is_deep(content) and parse(content, self.decoding.get("channels", 3)).levels.dtype != np.uint8
        except ValueError:  # whoever needs this image reports it
            return False

    @property
    def name(self) -> str:
        """Where the data set lies, for messages."""
        return os.fspath(self.store.path)

    def short_name(self, path: str) -> str:
        """The part of an image's path that is the same on every machine: CLASS/FILE."""
        return class_and_file(path)

    def keep(self, numbers: list[int]) -> None:
        """From now on only the images of these numbers, in this order."""
        self.samples = self.imgs = [self.samples[number] for number in numbers]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple:
        """Raises UnreadableImage where the image is missing or cannot be decoded."""
        return self.item(index, self.read(index))

    def read(self, index: int) -> bytes:
        """The bytes of the image file of sample `index`.  Raises UnreadableImage where it is missing or damaged."""
        return self._read(self.samples[index][0])

    def item(self, index: int, content: bytes) -> tuple:
        """Item `index`, made of the bytes `content` of its image file."""
        path, label = self.samples[index]
        image = self._decode(path, content)
        return (image if self.transform is None else self.transform(image)), label

    def _read(self, path: str) -> bytes:
        try:
            return self.store.get(path)
        except UserError as error:
            raise UnreadableImage(str(error)) from error

    def _decode(self, path: str, content: bytes) -> Any:
        try:
            return decode(content, **self.decoding)
        except ValueError as error:
            raise UnreadableImage(
                f"{self.name}: cannot decode the image {one_line(path, 600)}: {error}; "
                f"{self.store.how_to_replace(self.root)}"
            ) from error

    def fingerprint(self) -> str:
        """Identity of the data set: the count, and a hash of CLASS/FILE names, labels and byte sizes in order."""
        sizes = self.store.sizes([path for path, _ in self.samples])
        return self._hash(
            f"{self.short_name(path)}\0{label}\0{size}" for (path, label), size in zip(self.samples, sizes)
        )

    def _hash(self, lines: Any) -> str:
        digest = hashlib.sha256()
        for line in lines:
            digest.update(f"{line}\n".encode("utf-8", "surrogateescape"))
        return f"{len(self.samples)}-{digest.hexdigest()[:16]}"


class WithChecksum(Dataset):
    """Items (item, CRC-32 of the bytes that it was made of: int) of another data set; all else is that data set's."""

    def __init__(self, dataset: ImageDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[tuple, int]:
        content = self.dataset.read(index)
        return self.dataset.item(index, content), zlib.crc32(content)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # pickle asks for such before there is a data set
            raise AttributeError(name)
        return getattr(self.dataset, name)
