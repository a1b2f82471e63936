"""A bridge for others: the averaged weights as safetensors, with a description inside.

    ema.safetensors     tensors `diffusion_model.*`, float32 or float16; metadata "bridge": the record of
                        `BridgeConfig`, and "sha256" of both: the format itself has no checksums
    ema.json            the same record, for people
    README.md           a model card, as the Hugging Face hub shows it; one that is there stays

Neither pickle nor optimizer state; sample.py and train.py take a folder with these in place of a latest.pt.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import inspect
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from corruption.registry import lookup
from i2sb.config import BridgeConfig
from i2sb.errors import UserError, one_line
from i2sb.runtime.files import atomic_write
from i2sb.runtime.reading import read_json

WEIGHTS, DESCRIPTION, CARD = "ema.safetensors", "ema.json", "README.md"
DEMOS = Path(__file__).with_name("pretrained")


def demos() -> dict[str, Path]:
    """The trained models that come with the package: name -> weights.  Beside each lies its model card, NAME.md."""
    return {path.stem: path for path in sorted(DEMOS.glob("*.safetensors"))}


def export(runner: Any, folder: Path, dtype: torch.dtype = torch.float32) -> list[Path]:
    """Write the averaged weights of a `Runner`, their description and a model card into `folder`; returns the files.

    dtype: of the tensors in the file; float16 halves it and costs about 3 digits.
    """
    from safetensors.torch import save

    tensors = {
        name: average.detach().to("cpu", dtype).contiguous()
        for (name, _), average in zip(runner.net.named_parameters(), runner.ema.shadow_params)
    }
    record = runner.config.to_dict()
    metadata = {"format": "pt", "bridge": json.dumps(record)}
    files = {
        WEIGHTS: save(tensors, metadata={**metadata, "sha256": _digest(tensors, metadata)}),
        DESCRIPTION: (json.dumps({"bridge": record}, indent=2) + "\n").encode(),
    }
    if not (folder / CARD).exists():
        files[CARD] = model_card(runner.config).encode()
    for name, content in files.items():
        with atomic_write(folder / name) as file:
            file.write(content)
    return [folder / name for name in files]


def model_card(bridge: BridgeConfig) -> str:
    """Markdown for people who are handed the weights: what they undo, how to use them, the record."""
    task, record = lookup(bridge.task), bridge.to_dict()
    about = one_line(inspect.getdoc(task) or "").partition(". ")[0].rstrip(".")
    use = 'bridge.restore(Image.open("degraded.png"), nfe=10'
    use += ', mask=Image.open("hole.png"))' if task.has_mask else ")"
    rows = {**record, "network": ", ".join(f"{name} {value}" for name, value in record["network"].items())}
    lines = [
        *("---", "pipeline_tag: image-to-image", "tags: [i2sb, image-restoration, schrodinger-bridge]", "---"),
        f"# Image-to-image Schrödinger bridge: {bridge.task}\n",
        "Restores images by a bridge from the degraded to the clean ones (I2SB, arXiv 2302.05872), with the average of "
        f"the trained weights.\n\nTask `{bridge.task}`: {about}.\n",
        "```python\nfrom PIL import Image\nfrom i2sb import Bridge\n",
        'bridge = Bridge.from_pretrained(".")  # the folder of this file, or ORG/NAME on the Hugging Face hub',
        f'{use}.save("restored.png")\n```\n',
        *("| | |", "| --- | --- |"),
        *(f"| {name} | {value} |" for name, value in rows.items()),
    ]
    return "\n".join(lines) + "\n"


def is_export(folder: Path) -> bool:
    """Whether `folder` holds an exported bridge and no latest.pt."""
    return (folder / WEIGHTS).is_file() and not (folder / "latest.pt").exists()


def load_options(weights: Path) -> argparse.Namespace:
    """The options of an exported bridge: the fields of its record, under the names of the command line."""
    bridge, beside = _record(weights), weights.with_suffix(".json")
    if beside.is_file():
        bridge.check_description(beside, weights.name, lambda: BridgeConfig.from_dict(read_json(beside)["bridge"]))
    values = bridge.to_dict()
    return argparse.Namespace(corrupt=values.pop("task"), **values)


def load_weights(path: Path, log: Any = None) -> dict[str, Any]:
    """A safetensors file as `ckpt_util.load_checkpoint` returns it.

    A file that was written without a checksum is logged.
    """
    from safetensors.torch import load_file

    with _opened(path) as file:
        state, metadata = load_file(path), file.metadata() or {}
    if not all(tensor.is_floating_point() for tensor in state.values()):
        raise UserError(f"{path}: refused: its tensors hold integers, so they are not weights")
    digest = _digest(state, metadata)
    if "sha256" not in metadata and log is not None:
        log.warning(f"{path}: was written without a checksum, so damage to it goes unnoticed")
    if metadata.get("sha256", digest) != digest:
        raise UserError(f"{path}: damaged (its bytes do not match their checksum): copy it again")
    state = {name: tensor.to(torch.float32) for name, tensor in state.items()}
    return {"net": state, "ema": None, "identity": digest[:16]}


def _digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    digest = hashlib.sha256(metadata.get("bridge", "").encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _record(path: Path) -> BridgeConfig:
    with _opened(path) as file:
        metadata = file.metadata() or {}
    try:
        return BridgeConfig.from_dict(json.loads(metadata["bridge"]))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: its metadata describe no bridge ({one_line(error)})") from error


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            yield file
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (SafetensorError, ValueError) as error:
        raise UserError(f"{path}: refused: {one_line(error, 200)}") from None
