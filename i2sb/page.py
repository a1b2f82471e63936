"""A page in the browser that restores photographs on this machine; scripts/demo.py serves it.

The only module that imports gradio.  What is restored, and how, is that of sample.py --input.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import html
import itertools
import math
import re
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
import numpy as np
from fastapi import FastAPI
from PIL import Image
from torch import Tensor

from corruption.registry import lookup
from i2sb.bridge import Bridge
from i2sb.config import BridgeConfig
from i2sb.errors import one_line
from i2sb.forms import mask_tensor
from i2sb.options.shared import SAMPLERS as ABOUT
from i2sb.photographs import Photograph, encode, output_name, read
from i2sb.restore_files import psnr, restore_photograph
from i2sb.runtime.picture_formats import readable_formats
from i2sb.runtime.script import explained
from i2sb.samplers import SAMPLERS

SHOWN = 1400  # longest side of pictures on the page [pixels]; the download has them all
LARGEST = 2**27  # result [pixels]: hours on a CPU
COPIES = 8  # of a picture in float32, while it is restored
JUDGED = 2**21  # largest picture that is compared with the baseline, which can take long [pixels]
EXAMPLES = Path(__file__).resolve().parents[1] / "examples/photographs"
# What the browser may load: nothing from elsewhere, whatever gradio's page asks for.
POLICY = b"default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:"


# Photographs


def opened(file: str | None, config: BridgeConfig, scale: int = 1) -> Photograph:
    """A photograph for a bridge, whose result has `scale` times its width and height.

    Raises:
        ValueError: none, no picture, or one whose restoration would take too long or not fit into memory.
    """
    if file is None:
        raise ValueError("drop a photograph on the page first, or take one of the examples")
    size = (0, 0)
    with contextlib.suppress(Exception), Image.open(file, formats=readable_formats()) as image:  # `read` says why
        size = image.size
    width, height = (side * scale for side in size)
    if width * height > (limit := min(LARGEST, free_memory() / (COPIES * 4 * config.channels))):
        most = f"more than the {limit / 1e6:.0f} megapixels that are possible here now"
        raise ValueError(f"a result of {width}x{height} pixels is {most}: give a smaller photograph")
    return read(Path(file), config.channels, config.value_range)


def free_memory() -> float:
    """Bytes that programs can still take; inf where the system does not say."""
    try:
        return int(re.search(r"MemAvailable:\s*(\d+) kB", Path("/proc/meminfo").read_text())[1]) * 1024
    except OSError:
        return math.inf


def shown(photograph: Photograph, size: tuple[int, int] | None = None) -> Image.Image:
    """A photograph as a browser shows it: 8 bits, at `size` (width, height), but no side above `SHOWN`."""
    array = photograph.array()
    array = array[..., 0] if array.shape[2] == 1 else array[..., :4]
    if (photograph.value_range, array.dtype) != ((0, 255), np.uint8):
        low, high = photograph.value_range
        array = ((array.astype(np.float32) - low) * (255 / (high - low))).round().clip(0, 255)
    image = Image.fromarray(np.ascontiguousarray(array.astype(np.uint8)))
    width, height = size or image.size
    ratio = min(1, SHOWN / max(width, height))
    return image.resize((max(1, round(width * ratio)), max(1, round(height * ratio))), Image.Resampling.BICUBIC)


def painted_mask(painted: Mapping[str, Any] | None, photograph: Photograph) -> Tensor | None:
    """[1,1,H,W], 1 where an `ImageEditor`'s layers are painted; None where nothing is."""
    layers = [np.asarray(layer)[..., 3] > 0 for layer in (painted or {}).get("layers", ())]
    if not any(layer.any() for layer in layers):
        return None
    mask = Image.fromarray(np.logical_or.reduce(layers).astype(np.uint8) * 255)
    return mask_tensor(mask.resize(photograph.levels.shape[1::-1], Image.Resampling.NEAREST))


# Restoring


class Result(NamedTuple):
    """before, after: to look at; title: what they are; path: the file to download; line: what is said about it."""

    before: Image.Image
    after: Image.Image
    title: str
    path: Path
    line: str


class Desk:
    """The bridges on offer, of which the two used last stay in memory."""

    def __init__(self, offer: Mapping[str, Path], device: str, folder: Path):
        """folder: where results are written for download."""
        self.offer, self.device, self.folder = offer, device, folder
        self._lock = threading.Lock()
        self._load = functools.lru_cache(2)(lambda name: Bridge.from_pretrained(offer[name], device))

    def bridge(self, name: str) -> Bridge:
        """Raises UserError for one that is damaged."""
        with self._lock:
            return self._load(name)

    def restore(
        self, name: str, file: str | None, painted: Mapping[str, Any] | None, degrade: bool, seed: int, **sampling: Any
    ) -> Result:
        """Restore a photograph as sample.py --input does.

        Args:
            name: of a bridge.
            file: of the photograph; None: none was chosen.
            painted: see `painted_mask`.
            degrade: the photograph is clean and is degraded first, as sample.py --degrade does.
            sampling: see `Bridge.restore_tensor`.

        Raises:
            ValueError: a photograph or settings that do not fit.
        """
        bridge = self.bridge(name)
        task = lookup(bridge.config.task)
        degrade = degrade and not task.is_paired
        photograph = opened(file, bridge.config, 1 if degrade else task.scale)
        mask = painted_mask(painted, photograph) if task.has_mask else None
        if task.has_mask and mask is None:
            if not degrade:
                raise ValueError("paint over what is missing first: that is what the network fills")
            _, mask = bridge.degrade_tensor(photograph.tensor()[None], [0], seed)
        made = restore_photograph(bridge, photograph, mask, seed, degrade_as=0 if degrade else None, **sampling)
        path = self.folder / secrets.token_hex(8) / f"restored-{output_name(Path(Path(file).name), lossless=degrade)}"
        path.parent.mkdir()
        path.write_bytes(encode(made[-1]))
        return self._compare(bridge, photograph, mask, made, path)

    def _compare(
        self, bridge: Bridge, photograph: Photograph, mask: Tensor | None, made: list[Photograph], path: Path
    ) -> Result:
        """made: of `restore_photograph`."""
        task, before, after, title = lookup(bridge.config.task), photograph, made[-1], "given"
        height, width = after.levels.shape[:2]
        line = f"{width}x{height} pixels"
        if len(made) > 1:
            before, title = made[1], "degraded"
            if height * width <= JUDGED:
                best = before.with_colours(bridge.baseline_tensor(before.tensor()[None], mask)[0])
                found = [psnr(picture, made[0]) for picture in (best, after)]
                line += f" · PSNR: {task.baseline_name} {found[0]:.2f} dB, restored {found[1]:.2f} dB"
                before, title = (best, task.baseline_name) if task.scale > 1 else (before, title)
        elif mask is not None:
            x = photograph.tensor()[None]
            before = photograph.with_colours((x * (1 - mask) + mask)[0])
        elif task.scale > 1:
            title = "bicubic enlargement"
        return Result(*(shown(each, (width, height)) for each in (before, after)), f"{title} | restored", path, line)


# The page


@contextlib.contextmanager
def in_one_line(device: str) -> Iterator[None]:
    """What a user can put right, as a message on the page."""
    try:
        with explained(argparse.Namespace(device=device), smaller="the tile, or the size of the photograph"):
            yield
    except ValueError as error:
        raise gr.Error(html.escape(one_line(error, 300)), print_exception=False) from error


class Handlers:
    """What happens when the page is used."""

    def __init__(self, desk: Desk):
        self.desk = desk

    def settings(self, name: str, nfe: int, sampler: str) -> tuple[Any, ...]:
        """What suits a checkpoint: (about it, NFE, sampler, whether it degrades, tile)."""
        with in_one_line(self.desk.device):
            bridge = self.desk.bridge(name)
        task, most = lookup(bridge.config.task), min(100, bridge.config.interval - 1)
        what = f"gives {task.scale} times the width and height" if task.scale > 1 else "restores at any size"
        usable = [key for key in ABOUT if SAMPLERS[key].noiseless or not bridge.config.ot_ode]
        choices = [(f"{key}: {ABOUT[key]}", key) for key in usable]
        return (
            f"`{bridge.config.task}` {'fills what you paint over' if task.has_mask else what}",
            gr.update(value=min(nfe, most), maximum=most),
            gr.update(choices=choices, value=sampler if sampler in usable else "ddpm"),
            gr.update(visible=not task.is_paired),
            bridge.tile,
        )

    def views(self, name: str, file: str | None) -> tuple[Any, Any]:
        """The photograph to look at, or to paint on."""
        with in_one_line(self.desk.device):
            config = self.desk.bridge(name).config
            image = None if file is None else shown(opened(file, config))
        paints = lookup(config.task).has_mask
        canvas = image if image is None else {"background": image, "layers": [], "composite": None}
        return gr.update(value=image, visible=not paints), gr.update(value=canvas, visible=paints)

    def restore(self, name, file, painted, degrade, nfe, sampler, tile, seed, progress=gr.Progress()):  # noqa: B008
        """Values of the components with these names -> (slider, line, download)."""
        calls = itertools.count(1)
        progress((0, nfe), desc="restoring", unit="network calls")

        def on_step(*_: Any) -> None:
            progress((next(calls), nfe), desc="restoring", unit="network calls")

        sampling = {"nfe": nfe, "sampler": sampler, "tile": tile, "on_step": on_step}
        with in_one_line(self.desk.device):
            done = self.desk.restore(name, file, painted, degrade, seed or 0, **sampling)
        pair = gr.update(value=(done.before, done.after), label=done.title)
        return pair, f"{done.line} · NFE {nfe}", gr.update(value=done.path, visible=True)


def build(desk: Desk) -> gr.Blocks:
    """The page's components."""
    names, examples, do = list(desk.offer), sorted(EXAMPLES.glob("*.jpg")), Handlers(desk)
    with gr.Blocks(title="I2SB", analytics_enabled=False, delete_cache=(3600, 86400)) as page:
        gr.Markdown("# I2SB: restore a photograph\nIt stays on this machine: this page sends it nowhere else.")
        with gr.Row():
            with gr.Column(min_width=300, scale=2):
                name = gr.Dropdown(names, label="Checkpoint", interactive=True)
                about = gr.Markdown()
                photo = gr.File(label="Photograph", height=120, value=str(examples[0]) if examples else None)
                shelf = gr.Dataset(
                    components=[gr.Image(visible=False)],
                    samples=[[str(path)] for path in examples],
                    label="or an example",
                    type="index",
                    visible=bool(examples),
                )
                preview = gr.Image(interactive=False, height=220, show_label=False, buttons=[], format="png")
                brush = gr.Brush(colors=["#ffffff"], color_mode="fixed")
                tools = {"sources": (), "transforms": (), "layers": False, "brush": brush, "buttons": []}
                editor = gr.ImageEditor(type="pil", show_label=False, visible=False, **tools)
                info = "for a good photograph: it is made worse as in training"
                degrade = gr.Checkbox(bool(examples), label="Degrade it first", info=info)
                nfe = gr.Slider(1, 100, 5, step=1, label="Network calls (NFE)", info="more give more detail")
                with gr.Accordion("More", open=False):
                    sampler = gr.Dropdown(list(ABOUT), value="ddpm", label="Sampler")
                    info = "larger photographs pass in windows of this side; less needs less memory"
                    tile = gr.Number(label="Tile [pixels]", info=info, precision=0, minimum=1)
                    seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=2**32 - 1)
                button = gr.Button("Restore", variant="primary")
            with gr.Column(min_width=300, scale=3):
                look = {"format": "png", "buttons": ["fullscreen"], "max_height": 720}
                slider = gr.ImageSlider(label="given | restored", interactive=False, **look)
                line = gr.Markdown()
                download = gr.DownloadButton("Download", visible=False)

        quick = {"show_progress": "hidden", "concurrency_limit": 4, "api_visibility": "private"}
        for event in (page.load, name.change):
            event(do.settings, [name, nfe, sampler], [about, nfe, sampler, degrade, tile], **quick)
        for event in (page.load, name.change, photo.change):
            event(do.views, [name, photo], [preview, editor], **quick)
        photo.upload(lambda: False, None, degrade, **quick)
        shelf.click(lambda index: (str(examples[index]), True), shelf, [photo, degrade], **quick)
        given = [name, photo, editor, degrade, nfe, sampler, tile, seed]
        # One at a time, in a queue: each uses all of the machine.
        button.click(do.restore, given, [slider, line, download], show_progress_on=slider, api_visibility="private")
    return page


def application(desk: Desk) -> Callable:
    """The page as an ASGI application."""
    off = dict.fromkeys(("run_history", "enable_monitoring", "ssr_mode", "pwa", "mcp_server"), False)
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    look = {"theme": theme, "footer_links": [], "allowed_paths": [str(EXAMPLES)]}
    app = gr.mount_gradio_app(FastAPI(), build(desk), path="/", **off, **look)

    async def closed(scope, receive, send):
        async def with_policy(message):
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], (b"content-security-policy", POLICY)]}
            await send(message)

        await app(scope, receive, with_policy)

    return closed
