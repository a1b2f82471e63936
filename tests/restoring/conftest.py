"""Bridges and pictures of many kinds, made once; each test works in a copy."""

import numpy as np
import pytest
from bridges import make_bridge, photograph
from PIL import Image


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    """A folder with results/ and pictures/."""
    folder = tmp_path_factory.mktemp("place")
    make_bridge(folder, "jpeg-10")
    make_bridge(folder, "sr4x-pool")
    make_bridge(folder, "inpaint-center")
    make_bridge(folder, "jpeg-10", "grey", channels=1)
    make_bridge(folder, "paired", "pairs")
    pictures = folder / "pictures"
    (pictures / "sub").mkdir(parents=True)
    rgb = photograph(70, 50)
    rgb.save(pictures / "a.jpg", quality=30)
    rgb.convert("L").save(pictures / "sub/grey.png")
    rgba = rgb.copy()
    rgba.putalpha(rgb.convert("L"))
    rgba.save(pictures / "sub/alpha.webp", lossless=True)
    rgb.convert("P").save(pictures / "palette.gif")
    rgb.crop((0, 0, 17, 30)).save(pictures / "palette.png")  # has the name that the gif would get
    Image.fromarray(np.asarray(rgb.convert("L")).astype(np.uint16) * 257).save(pictures / "deep.tif")
    return folder
