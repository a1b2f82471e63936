"""One suite for every registered degradation, and the package's registry and error messages."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import corruption
from corruption import TASKS, Corruption, create_corruption
from corruption.names import PATTERNS, check_task
from corruption.registry import FAMILIES, lookup
from corruption.registry import corruption as register

SIZE = 32
ROOT = Path(corruption.__file__).resolve().parents[1]
PUBLISHED = ["jpeg-5", "jpeg-10", "blur-uni", "blur-gauss", "sr4x-pool", "sr4x-bicubic", "inpaint-center"]
PUBLISHED += ["inpaint-freeform1020", "inpaint-freeform2030", "mixture"]
OPERATORS = [*(name for name in TASKS if not lookup(name).is_paired), *(family.example for family in PATTERNS)]


def pictures(batch: int = 9, size: int | tuple[int, int] = SIZE, channels: int = 3) -> torch.Tensor:
    """Smooth random images [B,C,H,W] in [-1,1]."""
    coarse = torch.rand(batch, channels, 5, 5, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return torch.nn.functional.interpolate(coarse, size=size, mode="bilinear", align_corners=True)


def degrade(operator: Corruption, x: torch.Tensor, **kwargs) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(image, mask or None) of any operator."""
    out = operator(x, **kwargs)
    return out if operator.has_mask else (out, None)


@pytest.fixture(params=OPERATORS)
def task(request, tmp_path) -> str:
    if "=" in request.param:
        mask_files(tmp_path / request.param.partition("=")[2])
    return request.param


@pytest.fixture
def operator(task) -> Corruption:
    return create_corruption(task, SIZE)


def mask_files(folder: Path, count: int = 4) -> None:
    """PNG files of 20 x 30 pixels; mask k has k + 1 white columns at the left."""
    folder.mkdir()
    for k in range(count):
        image = Image.new("L", (30, 20))
        image.paste(255, (0, 0, k + 1, 20))
        image.save(folder / f"{k:03d}.png")


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
    rows = slice(0, 6 if operator.draws_noise else None)
    if operator.name.startswith("denoise"):
        return
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


def test_tables_are_buffers_that_are_not_saved(operator):
    assert operator.state_dict() == {}
    assert not list(operator.parameters())
    assert all(buffer.dtype in (torch.float32, torch.int64) for buffer in operator.buffers())  # not float64


def test_same_seed_same_result(operator):
    x = pictures()
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    first, again, other = (degrade(operator, x, generator=torch.Generator().manual_seed(seed))[0] for seed in (5, 5, 6))
    assert torch.equal(first, again)
    random = operator.draws_noise or any(part in operator.name for part in ("freeform", "masks"))
    assert torch.equal(first, other) != random
    assert torch.equal(torch.rand(3), expected)  # the global generator is left alone


def test_an_image_does_not_depend_on_its_batch(operator):
    x, index = pictures(), torch.arange(9)
    noise = torch.randn(x.shape)
    extra = {"randn": lambda x: noise} if operator.draws_noise else {}
    whole, _ = degrade(operator, x, index=index, **extra)
    for i in range(9):
        extra = {"randn": lambda x, i=i: noise[i : i + 1]} if operator.draws_noise else {}
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


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_baseline_of_any_dtype_and_number_of_channels(operator, dtype):
    for channels in (operator.channels,) if operator.channels else (1, 3, 4):
        y, mask = degrade(operator, pictures(2, channels=channels).to(dtype), index=torch.tensor([0, 3]))
        before = y.clone()
        found = operator.baseline(y, mask)
        assert (found.shape, found.dtype, found.device) == (y.shape, y.dtype, y.device)
        assert found.isfinite().all()
        assert torch.equal(y, before)
        assert operator.baseline_name


@pytest.mark.parametrize("channels", [1, 4])
def test_any_number_of_channels(operator, channels):
    """Channels alike come out alike, except for the published blurs, whose channels differ by their quirk."""
    x = pictures(channels=1).expand(-1, channels, -1, -1)
    if operator.channels:
        with pytest.raises(ValueError, match=rf"images \[B, {operator.channels}, 32, 32\]"):
            operator(x)
        return
    y, _ = degrade(operator, x, index=torch.arange(9))
    assert y.shape == x.shape
    if not operator.draws_noise and operator.any_size:
        torch.testing.assert_close(y, y[:, :1].expand_as(y), rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (37, 5), (40, 56)])
def test_any_size(task, size):
    cls = lookup(task)
    if not cls.any_size:
        named = "; blur-gauss-SIGMA and blur-box-SIZE" if "blur" in task else ""
        with pytest.raises(ValueError, match=f"squares of a multiple of 16 pixels, not for {size[0]}x{size[1]}{named}"):
            create_corruption(task, size)
        return
    if task.startswith("inpaint-center-") and min(size) < 8:
        with pytest.raises(ValueError, match=f"{task}: the hole does not fit into images of {size[0]}x{size[1]}"):
            create_corruption(task, size)
        return
    x = pictures(2, size)
    y, mask = degrade(create_corruption(task, size), x, index=torch.tensor([0, 3]))
    assert y.shape == x.shape
    assert y.isfinite().all()
    assert mask is None or mask.shape == (2, 1, *size)
    assert create_corruption(task, size).baseline(y, mask).shape == x.shape
    if size == (40, 56):
        assert not torch.equal(x, y)


@pytest.mark.parametrize("shape", [(3, SIZE, SIZE), (2, 3, 48, 48)])
def test_what_is_no_batch_of_images_is_refused(operator, shape):
    with pytest.raises(ValueError, match=rf"{operator.name}: expected .*images \[B, ., {SIZE}, {SIZE}\] ") as e:
        operator(torch.zeros(shape))
    assert str(list(shape)) in str(e.value)
    with pytest.raises(ValueError, match=r"floating-point images .*, got torch.uint8"):
        operator(torch.zeros(1, 3, SIZE, SIZE, dtype=torch.uint8))


def test_no_pixels_at_all():
    with pytest.raises(ValueError, match="image size 0x3: must be at least 1x1"):
        create_corruption("jpeg-5", (0, 3))


@pytest.mark.parametrize(
    ("tasks", "facts"),
    [
        (("jpeg-5", "jpeg-10", "mixture", "jpeg-37", "denoise-25", "colorize"), (0.3, False, "10k", "val")),
        (("sr4x-pool", "sr4x-bicubic", "sr3x-pool", "sr8x-bicubic"), (0.3, False, "full", "train")),
        (("blur-uni", "blur-gauss", "blur-gauss-2", "blur-box-3"), (1.0, True, "10k", "val")),
        (("inpaint-center", "inpaint-freeform1020", "inpaint-freeform2030"), (1.0, True, "10k", "val")),
        (("inpaint-center-64", "inpaint-masks=x"), (1.0, True, "10k", "val")),
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


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("jpg-37", "did you mean jpeg-37?"),
        ("JPEG-37", "did you mean jpeg-37?"),
        ("sr3-pool", "did you mean sr3x-pool?"),
        ("blur-gaus-2.5", "did you mean blur-gauss-2.5?"),
        ("denoise25", "did you mean denoise-25?"),
        ("colourise", "did you mean colorize?"),
        ("inpaint-mask=holes", "did you mean inpaint-masks=DIR?"),
        ("jpeg-0", "QF must be a whole number, 1..100, such as jpeg-37"),
        ("jpeg-101", "QF must be a whole number, 1..100"),
        ("sr5x-pool", "SCALE must be one of 2|3|4|8, such as sr2x-pool"),
        ("blur-gauss-0.1", "SIGMA must be a number, 0.3..100.0"),
        ("blur-gauss-nan", "SIGMA must be a number"),
        ("denoise-25.0", "write denoise-25"),
        ("jpeg-037", "write jpeg-37"),
    ],
)
def test_a_wrong_name_or_parameter_says_what_is_right(task, message):
    for check in (check_task, lookup):
        with pytest.raises(ValueError) as e:
            check(task)
        assert f"'{task}': " in str(e.value)
        assert message in str(e.value)


@pytest.mark.parametrize("task", ["jpeg-1", "jpeg-100", "sr4x-pool", "sr8x-bicubic", "blur-gauss-0.3", "blur-box-999"])
def test_every_value_of_a_parameter(task):
    check_task(task)
    assert lookup(task).name == task


def test_a_published_name_is_the_published_class():
    assert lookup("jpeg-5") is lookup("jpeg-5")
    x = pictures()
    for name, other in [("jpeg-10", "jpeg-QF"), ("sr4x-pool", "srSCALEx-pool"), ("sr4x-bicubic", "srSCALEx-bicubic")]:
        cls = FAMILIES[other][1]
        by_parameter = type("Same", (cls,), {"qf": 10, "scale": 4})
        assert torch.equal(by_parameter(SIZE)(x), create_corruption(name, SIZE)(x))


def test_super_resolution_says_how_it_enlarges():
    small = pictures(2, (5, 7))
    assert [lookup(name).scale for name in ("sr3x-pool", "sr8x-bicubic", "sr4x-pool", "jpeg-5")] == [3, 8, 4, 1]
    assert torch.equal(lookup("sr3x-bicubic").enlarge(small), small.repeat_interleave(3, 2).repeat_interleave(3, 3))


def test_pairs_need_no_operator():
    operator = create_corruption("paired", (20, 30))
    assert operator.is_paired
    with pytest.raises(ValueError, match="the degraded images come from the data set"):
        operator(torch.zeros(1, 3, 20, 30))


def test_a_name_is_given_once():
    with pytest.raises(ValueError, match="'jpeg-5' is registered twice"):
        register("jpeg-5")(type("Other", (Corruption,), {}))


def test_one_new_file_is_a_new_corruption(tmp_path):
    """The whole recipe of registry.py, in a copy of the package; --help sees the name without torch."""
    shutil.copytree(ROOT / "corruption", tmp_path / "corruption", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "corruption" / "negative.py").write_text(
        "from .base import Corruption\n"
        "from .registry import corruption, family\n\n"
        "# @corruption('not-this-one')\n"
        "@corruption('negative')\n"
        "class Negative(Corruption):\n"
        "    def degrade(self, x):\n"
        "        return -x\n\n"
        "@family('darker-PERCENT', '1..99', example='darker-50')\n"
        "class Darker(Corruption):\n"
        "    def degrade(self, x):\n"
        "        return (x + 1) * (1 - self.percent / 100) - 1\n"
    )
    program = (
        "import sys\n"
        "from corruption import TASKS\n"
        "from corruption.names import PATTERNS\n"
        "from corruption.registry import lookup\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules\n"
        "assert TASKS[10:] == ('colorize', 'negative', 'paired'), TASKS\n"
        "assert 'darker-PERCENT (1..99)' in map(str, PATTERNS)\n"
        "assert lookup('negative').name == 'negative'\n"
        "import torch, corruption\n"
        "x = torch.rand(2, 3, 16, 16)\n"
        "assert torch.equal(corruption.create_corruption('negative', 16)(x), -x)\n"
        "assert torch.equal(corruption.create_corruption('darker-25', 16)(x), (x + 1) * 0.75 - 1)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
