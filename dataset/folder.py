"""The one scanner for folders of images: data sets and references of FID alike."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

from dataset.decode import image_suffixes
from i2sb.errors import UserError, one_line

Samples = list[tuple[str, int]]
_OF_THE_SYSTEM = {"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"}


def scan(folder: str | os.PathLike, *, classes: bool, log: Any = None) -> tuple[Samples, list[str]]:
    """All images below `folder`, in the order of torchvision's ImageFolder.

    Images are regular files with a suffix that Pillow reads, and links to such files.  Hidden files and folders and
    those of file managers (__MACOSX) are left out.  Links to folders are followed; each folder is visited once per
    class, and none above `folder`.

    Args:
        classes: images lie in `folder`/CLASS/ (at any depth); otherwise anywhere below `folder`.
        log: gets one line with the numbers of files that were left out.

    Returns:
        samples [(path, class index)] (index 0 without classes), and the names of the classes, sorted.  A class without
        images keeps its number.

    Raises:
        UserError: no such folder, no images in it, a folder that cannot be read, or a broken link.
    """
    root, skipped = Path(folder), Counter()
    if not root.is_dir():
        raise UserError(f"{one_line(root, 400)}: there is no such folder of images")
    real = Path(os.path.realpath(root))
    above = {*real.parents}  # a link to one of these would lead round and round
    names, loose, tops = [], [], [root]
    if classes:
        above.add(real)
        loose, listed = _listing(root, skipped)
        names = [name for name in listed if Path(os.path.realpath(root / name)) not in above]
        skipped["outside class folders"] = len(loose)
        skipped["folders that were visited already"] = len(listed) - len(names)
        tops = [root / name for name in names]
    samples = [(path, number) for number, top in enumerate(tops) for path in _images_below(top, above, skipped)]
    if not samples:
        why = f"no images in its {len(names)} class folders ({root.name}/CLASS/), and {len(loose)} outside of them"
        raise UserError(f"{one_line(root, 400)}: {why if classes else 'no images'} ({' '.join(image_suffixes())})")
    if log is not None and +skipped:
        counts = ", ".join(f"{count} {what}" for what, count in sorted((+skipped).items()))
        log.info(f"[Dataset] {one_line(root, 400)}: {skipped.total()} files left out: {one_line(counts, 300)}")
    return samples, names


def _listing(folder: str | os.PathLike, skipped: Counter[str]) -> tuple[list[str], list[str]]:
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
                elif entry.is_file() and suffix in image_suffixes():
                    images.append(entry.name)
                elif entry.is_file():
                    skipped[suffix or "without suffix"] += 1
                elif not Path(entry.path).exists() and suffix in ("", *image_suffixes()):
                    raise UserError(f"{one_line(entry.path, 400)}: a broken link: remove or repair it")
                else:
                    skipped["neither file nor folder"] += 1
    except OSError as error:
        raise UserError(f"{one_line(folder, 400)}: the folder cannot be read: {error.strerror}") from error
    return sorted(images), sorted(folders)


def _images_below(top: Path, seen: set[Path], skipped: Counter[str]) -> list[str]:
    """Sorted paths of the images in `top` and below, without folders that were seen."""
    seen, waiting, found = {*seen}, [os.fspath(top)], []
    while waiting:
        here = waiting.pop()
        real = Path(os.path.realpath(here))
        if real in seen:
            skipped["folders that were visited already"] += 1
            continue
        seen.add(real)
        images, folders = _listing(here, skipped)
        found += [(here, name) for name in images]
        waiting += [f"{here}{os.sep}{name}" for name in reversed(folders)]
    return [f"{here}{os.sep}{name}" for here, name in sorted(found)]
