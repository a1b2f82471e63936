"""The one scanner for folders of images, and reading them where they lie: data sets and references of FID alike."""

from __future__ import annotations

import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

from dataset.decode import image_suffixes
from dataset.names import is_imagenet
from i2sb.errors import UserError, one_line

Samples = list[tuple[str, int]]
_OF_THE_SYSTEM = {"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"}


def scan(
    folder: str | os.PathLike, *, classes: bool | None = None, log: Any = None, suffixes: tuple[str, ...] | None = None
) -> tuple[Samples, list[str]]:
    """All images below `folder`, in the order of torchvision's ImageFolder.

    Images are regular files with one of the `suffixes` (default: those that Pillow reads), and links to such files.
    Hidden files and folders and those of file managers (__MACOSX) are left out.  Links to folders are followed; each
    folder is visited once per class, and none above `folder`.

    Args:
        classes: images lie in `folder`/CLASS/ (at any depth); otherwise anywhere below `folder`.  None: in classes
            unless images lie in `folder` itself (ImageNet's always do).
        log: gets one line with the numbers of files that were left out.

    Returns:
        samples [(path, class index)] (index 0 without classes), and the names of the classes, sorted; without classes
        the folder's own name, as if it were the one class.  A class without images keeps its number.

    Raises:
        UserError: no such folder, no images in it, a folder that cannot be read, or a broken link.
    """
    root, skipped, suffixes = Path(folder), Counter(), suffixes or image_suffixes()
    if not root.is_dir():
        raise UserError(f"{one_line(root, 400)}: there is no such folder of images")
    real = Path(os.path.realpath(root))
    above = {*real.parents}  # a link to one of these would lead round and round
    names, loose, tops = [Path(os.path.abspath(root)).name], [], [root]  # noqa: PTH100  (links stay links)
    if classes is None:
        classes = not _holds_images(root, suffixes) or is_imagenet(path.name for path in root.iterdir())
    if classes:
        above.add(real)
        loose, listed = _listing(root, skipped, suffixes)
        names = [name for name in listed if Path(os.path.realpath(root / name)) not in above]
        skipped["outside class folders"] = len(loose)
        skipped["folders that were visited already"] = len(listed) - len(names)
        tops = [root / name for name in names]
    samples = [
        (path, number) for number, top in enumerate(tops) for path in _images_below(top, above, skipped, suffixes)
    ]
    if not samples:
        why = f"no images in its {len(names)} class folders ({root.name}/CLASS/), and {len(loose)} outside of them"
        why = why if classes and (names or loose) else "no images"
        raise UserError(f"{one_line(root, 400)}: {why} ({' '.join(suffixes)})")
    if log is not None and +skipped:
        counts = ", ".join(f"{count} {what}" for what, count in sorted((+skipped).items()))
        log.info(f"[Dataset] {one_line(root, 400)}: {skipped.total()} files left out: {one_line(counts, 300)}")
    return samples, names


def _holds_images(folder: Path, suffixes: tuple[str, ...]) -> bool:
    """Whether images lie in `folder` itself."""
    with os.scandir(folder) as entries:
        return any(e.name.lower().endswith(suffixes) and not e.name.startswith(".") and e.is_file() for e in entries)


def _listing(
    folder: str | os.PathLike, skipped: Counter[str], suffixes: tuple[str, ...]
) -> tuple[list[str], list[str]]:
    """Names of the images and of the folders in a folder, sorted; all other entries are counted in `skipped`."""
    images, folders = [], []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                suffix = os.path.splitext(entry.name)[1].lower()  # noqa: PTH122  (pathlib is slow by the million)
                if entry.name.startswith(".") or entry.name in _OF_THE_SYSTEM:
                    skipped["hidden"] += 1
                elif entry.is_dir():
                    folders.append(entry.name)
                elif entry.is_file() and suffix in suffixes:
                    images.append(entry.name)
                elif entry.is_file():
                    skipped[suffix or "without suffix"] += 1
                elif not Path(entry.path).exists() and suffix in ("", *suffixes):
                    raise UserError(f"{one_line(entry.path, 400)}: a broken link: remove or repair it")
                else:
                    skipped["neither file nor folder"] += 1
    except OSError as error:
        raise UserError(f"{one_line(folder, 400)}: the folder cannot be read: {error.strerror}") from error
    return sorted(images), sorted(folders)


def _images_below(top: Path, seen: set[Path], skipped: Counter[str], suffixes: tuple[str, ...]) -> list[str]:
    """Sorted paths of the images in `top` and below, without folders that were seen."""
    seen, waiting, found = {*seen}, [os.fspath(top)], []
    while waiting:
        here = waiting.pop()
        real = Path(os.path.realpath(here))
        if real in seen:
            skipped["folders that were visited already"] += 1
            continue
        seen.add(real)
        images, folders = _listing(here, skipped, suffixes)
        found += [(here, name) for name in images]
        waiting += [f"{here}{os.sep}{name}" for name in reversed(folders)]
    return [f"{here}{os.sep}{name}" for here, name in sorted(found)]


class FolderImages:
    """Image files that are read where they lie; the counterpart of `store.LmdbImages`."""

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)

    def get(self, path: str) -> bytes:
        """The bytes of the image file `path`.  Raises UserError where it cannot be read."""
        try:
            with open(path, "rb") as file:  # noqa: PTH123  (pathlib is slow by the million)
                return file.read()
        except OSError as error:
            raise UserError(f"{one_line(path, 600)}: the image cannot be read: {error.strerror}") from error

    def open(self, path: str) -> BinaryIO:
        """The image file, to read from."""
        return open(path, "rb")  # noqa: PTH123

    def sizes(self, paths: list[str]) -> list[int]:
        """Of the image files [bytes]; -1 where one is missing."""
        chunks = [paths[start : start + 1000] for start in range(0, len(paths), 1000)]
        with ThreadPoolExecutor(16) as pool:  # each answer of a network disk takes a while
            return [size for chunk in pool.map(lambda chunk: list(map(_size, chunk)), chunks) for size in chunk]

    def how_to_replace(self, root: str) -> str:
        """What to do about a damaged image."""
        return "replace or remove it"


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size  # noqa: PTH116
    except OSError:
        return -1
