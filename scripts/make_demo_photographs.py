"""Make the folder of free photographs that the demo models are trained on and judged by.

They come out of Debian 12's packages (190 MB, by apt-get, or from a folder that holds the .deb files), reduced so that
they are sharp; `examples/photographs/sources.tsv` names package, original file and licence of each.  The same packages
give the same pixels on every machine: OUT/train/full, OUT/train/half (half as large) and OUT/val (held out).
"""

from __future__ import annotations

import argparse
import csv
import io
import logging
import struct
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from i2sb.errors import UserError
from i2sb.runtime.script import run_script

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ROOT / "examples" / "photographs" / "sources.tsv"
DIRECTORY, COMPRESSED = 2, 1  # flags of Qt's resource files


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the new data set")
    debs = "take the packages from this folder (default: apt-get download)"
    parser.add_argument("--packages", type=Path, metavar="DIR", help=debs)
    opt = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    return run_script("make_demo_photographs.py", lambda: make(opt.out, opt.packages))


def make(out: Path, packages: Path | None) -> int:
    """Write the photographs to `out`; those that are there already are left as they are."""
    with SOURCES.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    with tempfile.TemporaryDirectory() as temporary:
        files = unpacked(sorted({row["package (Debian 12)"] for row in rows}), packages, Path(temporary))
        for row in rows:
            write(row, original(row, files), out)
    logging.info(f"[Photographs] {out}: {len(rows)} photographs")
    return 0


def unpacked(names: list[str], packages: Path | None, temporary: Path) -> dict[str, list[bytes | Path]]:
    """File name -> the files of that name in the packages."""
    if packages is None:
        run(["apt-get", "download", *names], "--packages DIR takes the .deb files from a folder", cwd=temporary)
    found: dict[str, list[bytes | Path]] = {}
    for name in names:
        deb = next((packages or temporary).glob(f"{name}_*.deb"), None)
        if deb is None:
            raise UserError(f"--packages {packages}: has no {name}_*.deb")
        run(["dpkg-deb", "-x", str(deb), str(temporary / name)], "it comes with Debian and its relatives")
        for path in sorted((temporary / name).rglob("*")):
            if path.suffix == ".rcc":
                for inside, content in resources(path.read_bytes()):
                    found.setdefault(inside, []).append(content)
            elif path.is_file():
                found.setdefault(path.name, []).append(path)
    return found


def run(command: list[str], hint: str, cwd: Path | None = None) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, cwd=cwd)
    except FileNotFoundError:
        raise UserError(f"{command[0]}: is not installed; {hint}") from None
    except subprocess.CalledProcessError as error:
        raise UserError(f"{' '.join(command[:3])}: {error.stderr.strip()[-200:]}; {hint}") from None


def resources(content: bytes) -> Iterator[tuple[str, bytes]]:
    """(name, content) of the files in one of Qt's binary resource files, version 3."""
    _, tree, data, names = struct.unpack_from(">4i", content, 4)

    def visit(number: int) -> Iterator[tuple[str, bytes]]:
        name, flags, first, second = struct.unpack_from(">IHII", content, tree + 22 * number)
        if flags & DIRECTORY:
            for child in range(second, second + first):
                yield from visit(child)
            return
        (length,) = struct.unpack_from(">H", content, names + name)
        (size,) = struct.unpack_from(">I", content, data + second)
        start = data + second + 4
        body = content[start : start + size]
        text = content[names + name + 6 : names + name + 6 + 2 * length].decode("utf-16-be")
        yield text, zlib.decompress(body[4:]) if flags & COMPRESSED else body

    yield from visit(0)


def original(row: dict[str, str], files: dict[str, list[bytes | Path]]):
    """The original of a photograph; of several files of its name the largest of its aspect ratio."""
    from PIL import Image

    aspect = int(row["width"]) / int(row["height"])
    images = []
    for found in files.get(row["original file"], []):
        with Image.open(io.BytesIO(found) if isinstance(found, bytes) else found) as image:
            images.append((abs(image.width / image.height - aspect) < 0.02, image.width, image.convert("RGB")))
    if not images:
        raise UserError(f"{row['original file']}: is not in {row['package (Debian 12)']} (wanted: {row['version']})")
    return max(images, key=lambda image: image[:2])[2]


def write(row: dict[str, str], photograph, out: Path) -> None:
    """A photograph in its reduced size as JPEG; for training also in half of it."""
    from PIL import Image

    size = int(row["width"]), int(row["height"])
    folder = out / ("val" if row["split"] == "val" else "train/full")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / row["file"]
    photograph.resize(size, Image.Resampling.LANCZOS).save(path, "JPEG", quality=95, subsampling=0)
    if row["split"] == "train":
        half = (out / "train/half" / row["file"]).with_suffix(".png")
        half.parent.mkdir(exist_ok=True)
        with Image.open(path) as image:
            image.resize((size[0] // 2, size[1] // 2), Image.Resampling.LANCZOS).save(half)


if __name__ == "__main__":
    sys.exit(main())
