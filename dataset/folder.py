"""The one scanner for folders of images: data sets and references of FID alike."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dataset.decode import image_suffixes
from i2sb.errors import UserError, one_line

Samples = list[tuple[str, int]]


def scan(folder: str | os.PathLike, *, classes: bool, log: Any = None) -> tuple[Samples, list[str]]:
    """All images below `folder`, in the order of torchvision's ImageFolder.

    Images are regular files with a suffix that Pillow reads, and links to such files.  Hidden files and folders and
    __MACOSX are left out.  Links to folders are followed, each folder is visited once per class, and none above
    `folder`.

    Args:
        classes: images lie in `folder`/CLASS/ (at any depth); otherwise anywhere below `folder`.
        log: gets one line with the numbers of files that were left out.

    Returns:
        samples [(path, class index)] (index 0 without classes), and the names of the classes, sorted.  A class without
        images keeps its number.

    Raises:
        UserError: no such folder, no images in it, a folder that cannot be read, or a broken link.
    """
    root = Path(folder)
    if not root.is_dir():
        raise UserError(f"{one_line(root, 400)}: there is no such folder of images")
    skipped: Counter[str] = Counter()
    found = _Folder(root, skipped)
    names = sorted(found.folders) if classes else []
    if classes and not names:
        held = f"holds {len(found.images)} images directly" if found.images else "holds no folders"
        raise UserError(f"{root}: {held}; images belong into {root.name}/CLASS/, one folder per class")
    if classes:
        skipped["outside class folders"] += len(found.images)
    tops = [root / name for name in names] if classes else [root]
    samples = [(path, number) for number, top in enumerate(tops) for path in _images_below(top, root, skipped)]
    skipped = +skipped
    if log is not None and skipped:
        counts = ", ".join(f"{count} {what}" for what, count in sorted(skipped.items()))
        log.info(f"[Dataset] {one_line(root, 400)}: {sum(skipped.values())} files left out: {one_line(counts, 300)}")
    if not samples:
        where = f"its {len(names)} class folders hold" if classes else "it holds"
        raise UserError(f"{root}: {where} no images ({' '.join(image_suffixes())})")
    return samples, names


class _Folder:
    """What one folder holds: names of images and of folders; all other files are counted in `skipped`."""

    def __init__(self, path: str | os.PathLike, skipped: Counter[str]) -> None:
        self.images: list[str] = []
        self.folders: list[str] = []
        try:
            with os.scandir(path) as entries:
                for entry in entries:
                    self._sort(entry, skipped)
        except OSError as error:
            raise UserError(f"{one_line(path, 400)}: the folder cannot be read: {error.strerror}") from error

    def _sort(self, entry: os.DirEntry, skipped: Counter[str]) -> None:
        suffix = os.path.splitext(entry.name)[1].lower()  # noqa: PTH122  (pathlib is slow by the million)
        if entry.name.startswith(".") or entry.name == "__MACOSX":
            skipped["hidden"] += 1
        elif entry.is_dir():
            self.folders.append(entry.name)
        elif entry.is_file():
            if suffix in image_suffixes():
                self.images.append(entry.name)
            else:
                skipped[suffix or "without suffix"] += 1
        elif entry.is_symlink() and not os.path.exists(entry.path) and suffix in ("", *image_suffixes()):  # noqa: PTH110
            target = os.readlink(entry.path)  # noqa: PTH115
            raise UserError(f"{one_line(entry.path, 400)}: broken link to {one_line(target, 400)}: remove or repair it")
        else:
            skipped["neither file nor folder"] += 1


def _images_below(top: Path, root: Path, skipped: Counter[str]) -> Iterator[str]:
    """Paths of the images in `top` and below."""
    home = Path(os.path.realpath(root))
    seen = {home, *home.parents}  # a link to one of these would lead round and round
    waiting, images = [os.fspath(top)], {}
    if top == root:
        seen.discard(home)
    while waiting:
        here = waiting.pop()
        real = Path(os.path.realpath(here))
        if real in seen:
            skipped["folders that were visited already"] += 1
            continue
        seen.add(real)
        found = _Folder(here, skipped)
        images[here] = found.images
        waiting += [f"{here}{os.sep}{name}" for name in sorted(found.folders, reverse=True)]
    for here in sorted(images):
        yield from (f"{here}{os.sep}{name}" for name in sorted(images[here]))
