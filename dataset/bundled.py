"""A small data set from photographs that come with scikit-image and scikit-learn: nothing is fetched.

Whole photographs are held out for validation.  From every photograph square crops are cut at several scales
and reduced (Lanczos) to one size, so that a small network sees sharp pictures of small things and of large.

Sources and licences, as their packages state them:
    scikit-image  astronaut (NASA), hubble_deep_field (NASA): public domain
                  rocket (SpaceX), camera (L. Varshney), chelsea (S. van der Walt), coffee (R. Michetti),
                  retina, brick, grass, gravel: CC0
                  ihc (CMMI), coins (Brooklyn Museum): no known copyright restrictions
    scikit-learn  china (danielbuechele), flower (vultilion): CC BY 2.0; name the photographer
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from i2sb.errors import UserError
from i2sb.runtime.reading import read_json

SKIMAGE, SKLEARN = ("skimage", "data"), ("sklearn", "datasets/images")
# photograph -> (package, file, share of the crops); grey textures and smooth pictures count less
TRAIN = {
    "astronaut": (SKIMAGE, "astronaut.png", 4),
    "flower": (SKLEARN, "flower.jpg", 3),
    "ihc": (SKIMAGE, "ihc.png", 2),
    "hubble": (SKIMAGE, "hubble_deep_field.jpg", 1),
    "retina": (SKIMAGE, "retina.jpg", 1),
    "rocket": (SKIMAGE, "rocket.jpg", 2),
    "camera": (SKIMAGE, "camera.png", 2),
    "coins": (SKIMAGE, "coins.png", 1),
    "brick": (SKIMAGE, "brick.png", 1),
    "grass": (SKIMAGE, "grass.png", 1),
    "gravel": (SKIMAGE, "gravel.png", 1),
}
VAL = {
    "coffee": (SKIMAGE, "coffee.png", 1),
    "china": (SKLEARN, "china.jpg", 1),
    "chelsea": (SKIMAGE, "chelsea.png", 1),
}
GREY = {"camera", "coins", "brick", "grass", "gravel"}  # no colours to learn from
SCALES = (1.0, 1.5, 2.0, 3.0, 4.0)  # side of the cut square over side of the crop
MANIFEST = "bundled.json"


def build_bundled_photos(
    out: str | os.PathLike,
    log: Any,
    *,
    size: int = 64,
    val_size: int | None = None,
    num_train: int = 3000,
    num_val: int = 12,
    pairs: str | None = None,
) -> Path:
    """Write crops to `out`/{train,val}/PHOTOGRAPH/*.png, unless they are there already.

    pairs: "grey" writes colour crops to `out`/{train,val}B/ and the same in grey to `out`/{train,val}A/ instead.

    The same arguments give the same pixels on every machine.  The folder appears whole or not at all.  `size` and
    `val_size` (default: the same) are the sides of crops in pixels; `num_train` counts all training crops, `num_val`
    the validation crops of one photograph.

    Raises:
        UserError: a size or number out of range; `out` holds something else; a full disk.
    """
    out, val_size = Path(out).absolute(), val_size or size
    settings = {"version": 2, "size": size, "val_size": val_size, "num_train": num_train, "num_val": num_val}
    train = TRAIN
    if pairs:
        settings["pairs"] = pairs
        train = {name: source for name, source in TRAIN.items() if name not in GREY}
    for side in (size, val_size):
        if not 16 <= side <= 256:
            raise UserError(f"size {side}: crops of the bundled photographs can have 16 to 256 pixels a side")
    if num_train < len(TRAIN) or num_val < 1:
        raise UserError(f"{num_train} and {num_val} crops: at least {len(TRAIN)} for training and 1 for validation")
    if _is_there(out, settings):
        log.info(f"[Photographs] {out}: there already")
        return out
    draft = out.with_name(f".{out.name}.partial")
    shutil.rmtree(draft, ignore_errors=True)  # left by a build that was interrupted
    try:
        _write_split(train, draft / "train", size, _shares(train, num_train), pairs)
        _write_split(VAL, draft / "val", val_size, dict.fromkeys(VAL, num_val), pairs)
        (draft / MANIFEST).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        draft.rename(out)
    except OSError as error:
        raise UserError(f"{out}: the photographs cannot be cut: {error}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    counts = f"{num_train} training crops of {size} px, {num_val * len(VAL)} validation crops of {val_size} px"
    log.info(f"[Photographs] {out}: {counts}")
    return out


def _is_there(out: Path, settings: dict[str, int]) -> bool:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    try:
        found = read_json(out / MANIFEST)
    except UserError:
        raise UserError(f"{out}: exists and is not a folder of bundled photographs; choose another") from None
    if found != settings:
        raise UserError(f"{out}: was cut with other settings ({found}); delete it or choose another folder")
    return True


def _shares(photographs: dict, num_train: int) -> dict[str, int]:
    """Distribute the training crops over the photographs by their shares; the first takes the remainder."""
    total = sum(share for _, _, share in photographs.values())
    counts = {name: max(1, num_train * share // total) for name, (_, _, share) in photographs.items()}
    counts[next(iter(counts))] += num_train - sum(counts.values())
    return counts


def _write_split(photographs: dict, folder: Path, size: int, counts: dict[str, int], pairs: str | None) -> None:
    clean = folder.with_name(f"{folder.name}B") if pairs else folder
    degraded = folder.with_name(f"{folder.name}A")
    for name, (package, file, _) in photographs.items():
        installed = importlib.util.find_spec(package[0])  # not imported: its functions might fetch
        with Image.open(Path(installed.submodule_search_locations[0]) / package[1] / file) as opened:
            photograph = opened.convert("RGB")
        for number, crop in enumerate(_crops(photograph, name, size, counts[name])):
            sides = [(clean, crop)]
            if pairs:
                sides.append((degraded, crop.convert("L").convert("RGB")))
            for side, image in sides:
                (side / name).mkdir(parents=True, exist_ok=True)
                image.save(side / name / f"{name}_{number:04d}.png", compress_level=1)


def _crops(photograph: Image.Image, name: str, size: int, count: int) -> Iterator[Image.Image]:
    """`count` squares at random places, the scales taking turns; a photograph's own name is the seed."""
    generator = random.Random(f"{name} {size}")
    width, height = photograph.size
    sides = [round(size * scale) for scale in SCALES if size * scale <= min(width, height)]
    for side in itertools.islice(itertools.cycle(sides), count):
        left, top = generator.randint(0, width - side), generator.randint(0, height - side)
        box = (left, top, left + side, top + side)
        yield photograph.resize((size, size), Image.Resampling.LANCZOS, box=box)
