"""From [-1, 1] to 8 bits and back."""

import json
from pathlib import Path

import pytest
import torch

from i2sb.pixels import nearest_uint8, to_float, to_uint8

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "metrics.json").read_text())
LEVELS = torch.arange(256, dtype=torch.uint8)


def test_truncates_and_clamps_as_published():
    golden = GOLDEN["convert_to_numpy"]
    assert to_uint8(torch.tensor(golden["inp"])).tolist() == golden["out"]


def test_nearest_recovers_every_level_of_a_data_set_image():
    x = LEVELS.float().div(255) * 2 - 1  # what ToTensor, then 2x - 1, makes of a file
    assert torch.equal(nearest_uint8(x), LEVELS)
    assert torch.equal(nearest_uint8(to_float(LEVELS)), LEVELS)


def test_uint8_is_handed_through_as_a_copy():
    pixels = LEVELS.clone()
    for convert in (to_uint8, nearest_uint8):
        out = convert(pixels)
        out.zero_()
        assert torch.equal(pixels, LEVELS)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_types_do_not_lose_levels_to_arithmetic(dtype):
    x = torch.tensor([-1.0, -0.5, 0.0, 0.5, 1.0], dtype=dtype)
    assert to_uint8(x).tolist() == [0, 63, 127, 191, 255]


@pytest.mark.parametrize("convert", [to_uint8, nearest_uint8])
def test_refuses_what_is_no_image(convert):
    with pytest.raises(ValueError, match="1 of 3 pixel values are not finite"):
        convert(torch.tensor([0.0, float("nan"), 1.0]))
    with pytest.raises(ValueError, match=r"torch\.int64"):
        convert(torch.tensor([1, 2]))


def test_input_is_left_alone():
    x = torch.tensor([-3.0, 0.2, 3.0])
    to_uint8(x), nearest_uint8(x)
    assert x.tolist() == pytest.approx([-3.0, 0.2, 3.0])
