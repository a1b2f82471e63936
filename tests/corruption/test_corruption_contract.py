"""One suite for every registered degradation, and the package's registry and error messages."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import corruption
from corruption import TASKS, Corruption, create_corruption
from corruption.registry import corruption as register
from corruption.registry import lookup

SIZE = 32
ROOT = Path(corruption.__file__).resolve().parents[1]
PUBLISHED = ["jpeg-5", "jpeg-10", "blur-uni", "blur-gauss", "sr4x-pool", "sr4x-bicubic", "inpaint-center"]
PUBLISHED += ["inpaint-freeform1020", "inpaint-freeform2030", "mixture"]


def pictures(batch: int = 9, size: int = SIZE, seed: int = 1) -> torch.Tensor:
    """Smooth random images [B,3,S,S] in [-1,1]."""
    coarse = torch.rand(batch, 3, 5, 5, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return torch.nn.functional.interpolate(coarse, size=(size, size), mode="bilinear", align_corners=True)


def degrade(operator: Corruption, x: torch.Tensor, **kwargs) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(image, mask or None) of any operator."""
    out = operator(x, **kwargs)
    return out if operator.has_mask else (out, None)


@pytest.fixture(params=TASKS)
def operator(request) -> Corruption:
    return create_corruption(request.param, SIZE)


# --- every registered operator ---------------------------------------------------------------------------


@pytest.mark.parametrize("index", [None, torch.arange(9)])
def test_shape_and_input_left_alone(operator, index):
    x = pictures()
    before = x.clone()
    y, _ = degrade(operator, x, index=index)
    assert y.shape == x.shape
    assert y.isfinite().all()
    assert torch.equal(x, before)
    assert not torch.equal(y, x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_dtype_follows_the_input(operator, dtype):
    x = pictures().to(dtype)
    index = torch.arange(9)  # holes of the mixture hold noise, which differs among dtypes: compare the rest
    y, mask = degrade(operator, x, index=index)
    reference, _ = degrade(operator, x.float(), index=index)
    assert y.dtype == dtype
    assert mask is None or mask.dtype == dtype
    rows = slice(0, 6) if operator.name == "mixture" else slice(None)
    step = {torch.bfloat16: 2**-7, torch.float64: 1e-5}[dtype]
    torch.testing.assert_close(y[rows].double(), reference[rows].double(), rtol=step, atol=step)


def test_autocast_does_not_lower_the_precision(operator):
    x, index = pictures(), torch.arange(9)
    torch.manual_seed(3)
    expected, _ = degrade(operator, x, index=index)
    torch.manual_seed(3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, _ = degrade(operator, x, index=index)
    assert y.dtype == torch.float32
    assert torch.equal(y, expected)


def test_device_follows_the_input(operator):
    """The meta device stands in for a GPU: a matrix product that mixes it with the CPU fails as well."""
    x = pictures().to("meta")
    for ready in (operator, operator.to("meta")):  # tables still on the CPU; tables moved
        y, mask = degrade(ready, x)
        assert y.device.type == "meta"
        assert mask is None or mask.device.type == "meta"


def test_tables_are_float32_buffers_that_are_not_saved(operator):
    assert operator.state_dict() == {}
    assert not list(operator.parameters())
    assert all(buffer.dtype == torch.float32 for buffer in operator.buffers())


def test_same_seed_same_result(operator):
    x = pictures()
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    first, again, other = (degrade(operator, x, generator=torch.Generator().manual_seed(seed))[0] for seed in (5, 5, 6))
    assert torch.equal(first, again)
    random = operator.name == "mixture" or "freeform" in operator.name
    assert torch.equal(first, other) != random
    assert torch.equal(torch.rand(3), expected)  # the global generator is left alone


def test_an_image_does_not_depend_on_its_batch(operator):
    x, index = pictures(), torch.arange(9)
    noise = torch.randn(x.shape)
    extra = {"randn": lambda x: noise} if operator.name == "mixture" else {}
    whole, _ = degrade(operator, x, index=index, **extra)
    for i in range(9):
        extra = {"randn": lambda x, i=i: noise[i : i + 1]} if operator.name == "mixture" else {}
        alone, _ = degrade(operator, x[i : i + 1], index=index[i : i + 1], **extra)
        torch.testing.assert_close(alone[0], whole[i], rtol=0, atol=1e-5)


def test_mask_contract(operator):
    x = pictures()
    out = operator(x)
    if not operator.has_mask:
        assert isinstance(out, torch.Tensor)
        return
    y, mask = out
    assert mask.shape == (9, 1, SIZE, SIZE)
    assert mask.dtype == x.dtype
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    hole = mask.bool().expand_as(x)
    assert torch.equal(y[hole], torch.ones_like(y[hole]))
    assert torch.equal(y[~hole], x[~hole])


@pytest.mark.parametrize("shape", [(3, SIZE, SIZE), (2, 1, SIZE, SIZE), (2, 3, 48, 48)])
def test_what_is_no_batch_of_images_is_refused(operator, shape):
    with pytest.raises(ValueError, match=rf"{operator.name}: expected .*images \[B, 3, {SIZE}, {SIZE}\] ") as e:
        operator(torch.zeros(shape))
    assert str(list(shape)) in str(e.value)
    with pytest.raises(ValueError, match=r"floating-point images .*, got torch.uint8"):
        operator(torch.zeros(1, 3, SIZE, SIZE, dtype=torch.uint8))


@pytest.mark.parametrize("size", [0, 8, 40])
def test_size_must_be_a_multiple_of_16(size):
    with pytest.raises(ValueError, match=f"image size {size}: must be a positive multiple of 16"):
        create_corruption("jpeg-5", size)


@pytest.mark.parametrize(
    ("tasks", "facts"),
    [
        (("jpeg-5", "jpeg-10", "mixture"), (0.3, False, "10k", "val")),
        (("sr4x-pool", "sr4x-bicubic"), (0.3, False, "full", "train")),
        (("blur-uni", "blur-gauss"), (1.0, True, "10k", "val")),
        (("inpaint-center", "inpaint-freeform1020", "inpaint-freeform2030"), (1.0, True, "10k", "val")),
    ],
)
def test_a_task_says_how_it_was_published(tasks, facts):
    for task in tasks:
        cls = lookup(task)
        assert (cls.beta_max, cls.ot_ode, cls.val_subset, cls.fid_split) == facts


# --- registry and package --------------------------------------------------------------------------------


def test_published_order():
    assert list(TASKS[:10]) == PUBLISHED
    assert [lookup(name).name for name in TASKS] == list(TASKS)


def test_unknown_task_names_the_valid_ones():
    with pytest.raises(ValueError, match=r"unknown corruption 'jpeg-7'; choose one of: jpeg-5, jpeg-10, .*mixture"):
        create_corruption("jpeg-7", SIZE)


def test_a_name_is_given_once():
    with pytest.raises(ValueError, match="'jpeg-5' is registered twice"):
        register("jpeg-5")(type("Other", (Corruption,), {}))


def test_one_new_file_is_a_new_corruption(tmp_path):
    """The whole recipe of registry.py, in a copy of the package; --help sees the name without torch."""
    shutil.copytree(ROOT / "corruption", tmp_path / "corruption", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "corruption" / "negative.py").write_text(
        "from .base import Corruption\n"
        "from .registry import corruption\n\n"
        "# @corruption('not-this-one')\n"
        "@corruption('negative')\n"
        "class Negative(Corruption):\n"
        "    def degrade(self, x):\n"
        "        return -x\n"
    )
    program = (
        "import sys\n"
        "from corruption import TASKS\n"
        "from corruption.registry import lookup\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules\n"
        "assert TASKS[10:] == ('negative',), TASKS\n"
        "assert lookup('negative').name == 'negative'\n"
        "import torch, corruption\n"
        "x = torch.rand(2, 3, 16, 16)\n"
        "assert torch.equal(corruption.create_corruption('negative', 16)(x), -x)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
