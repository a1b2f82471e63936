"""Windows cover every picture, and cannot be seen in the result."""

import numpy as np
import pytest
import torch
from bridges import make_bridge, photograph

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


def test_seams_cannot_be_measured(tmp_path):
    """With random weights: group norms, whose statistics are each window's own, make the most of differences."""
    bridge = make_bridge(tmp_path, "jpeg-10", ot_ode=True, beta_max=1.0)
    with torch.no_grad():
        bridge.net.diffusion_model.out[-1].weight.mul_(0.5)
    clean = torch.from_numpy(np.array(photograph(390, 250), np.float32)).permute(2, 0, 1)[None] / 127.5 - 1
    degraded = bridge.degrade(clean)
    whole, tiled = (bridge.restore(degraded, nfe=2, tile=tile)[0] * 127.5 for tile in (512, 128))
    assert (whole - degraded[0] * 127.5).abs().mean() > 1  # the network does something
    difference = tiled - whole
    assert difference.abs().mean() < 1
    for axis in (1, 2):
        windows = cover(difference.shape[axis], 2, 128)
        edges = {edge for window in windows for edge in (window.inside.start, window.inside.stop)}
        edges = torch.tensor(sorted(edges - {0, difference.shape[axis]}))
        assert len(windows) > 2
        per_line = [other for other in (0, 1, 2) if other != axis]
        levels, steps = difference.abs().mean(per_line), difference.diff(dim=axis).abs().mean(per_line)
        for found, places in ((levels, edges), (steps, edges - 1)):
            elsewhere = torch.ones(len(found), dtype=torch.bool).index_fill_(0, places, False)
            print(f"lines at borders: {found[places].max():.3f}, elsewhere {found[elsewhere].max():.3f}")
            assert found[places].max() <= found[elsewhere].max()
