"""Windows cover every picture, and cannot be seen in the result."""

import numpy as np
import pytest
import torch
from bridges import photograph

from i2sb import Bridge
from i2sb.tiles import cover, in_windows


@pytest.mark.parametrize("length", [1, 2, 3, 5, 31, 32, 33, 63, 64, 65, 100, 333, 1000])
@pytest.mark.parametrize(("multiple", "tile"), [(1, None), (4, None), (32, None), (4, 64), (32, 64), (32, 100)])
def test_windows_cover_every_length_smoothly(length, multiple, tile):
    total, steepest = np.zeros(length), 0
    for window in cover(length, multiple, tile):
        size = len(window.shown)
        assert size % multiple == 0
        assert tile is None or size <= tile
        assert window.inside.start % multiple == 0  # the phase in which the network was trained
        assert (window.shown[: len(window.weight)] == np.arange(length)[window.inside]).all()
        assert (window.weight >= 0).all()
        total[window.inside] += window.weight
        steepest = max(steepest, np.abs(np.diff(window.weight)).max(initial=0))
    assert np.allclose(total, 1)
    assert steepest < 0.4


def test_pictures_are_padded_by_reflection():
    seen = []
    x = torch.arange(15.0).reshape(1, 1, 3, 5)

    def predict(part):
        seen.append(part)
        return part + 1

    assert (in_windows(predict, [x], 8) == x + 1).all()
    assert seen[0][0, 0, 0].tolist() == [0, 1, 2, 3, 4, 3, 2, 1]
    assert (seen[0][0, 0, :, 0] / 5).tolist() == [0, 1, 2, 1, 0, 1, 2, 1]
    assert in_windows(predict, [torch.ones(1, 1, 1, 1)], 8).tolist() == [[[[2]]]]
    assert (seen[1] == torch.ones(1, 1, 8, 8)).all()
    with pytest.raises(ValueError, match="tile 12: this network needs at least 16 pixels"):
        in_windows(predict, [torch.ones(1, 1, 1, 30)], 8, 12)


@pytest.fixture(scope="module")
def trained():
    """A bridge after some seconds of training on crops of the photograph."""
    torch.manual_seed(0)
    fields = {"task": "jpeg-10", "image_size": 32, "network": "tiny", "beta_max": 1.0, "T": 0.1, "ot_ode": True}
    bridge = Bridge.create(fields, device="cpu")
    optimizer = torch.optim.AdamW(bridge.parameters(), lr=2e-3)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, total_iters=50)
    source = as_tensor(photograph(300, 200))[0]
    for _ in range(50):
        corners = torch.stack([torch.randint(0, 168, (8,)), torch.randint(0, 268, (8,))], 1).tolist()
        x0 = torch.stack([source[:, i : i + 32, j : j + 32] for i, j in corners])
        optimizer.zero_grad()
        bridge.loss(x0, bridge.degrade(x0)).backward()
        optimizer.step()
        scheduler.step()
    return bridge


def as_tensor(picture):
    return torch.from_numpy(np.array(picture, np.float32)).permute(2, 0, 1)[None] / 127.5 - 1


def test_seams_cannot_be_measured(trained):
    degraded = trained.degrade(as_tensor(photograph(390, 250)))
    whole, tiled = (trained.restore(degraded, nfe=2, tile=tile)[0] * 127.5 for tile in (512, 128))
    assert (whole - degraded[0] * 127.5).abs().mean() > 0.5  # the network does something
    difference = (tiled - whole).abs().mean(0)
    at_border = torch.zeros(difference.shape, dtype=torch.bool)
    for axis, length in enumerate(difference.shape):
        windows = cover(length, 4, 128)
        assert len(windows) > 1
        for window in windows:
            for edge in {window.inside.start, window.inside.stop} - {0, length}:
                at_border.index_fill_(axis, torch.arange(edge - 4, edge + 4), True)
    print(
        f"mean {difference.mean():.3f}, at borders {difference[at_border].mean():.3f}, largest {difference.max():.2f}"
    )
    assert difference.mean() < 1
    assert difference[at_border].mean() < 1.1 * difference[~at_border].mean()
    assert difference[at_border].max() <= difference[~at_border].max()
