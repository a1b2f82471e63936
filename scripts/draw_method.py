"""Draw the two figures of docs/method.md: the bridge between two images, and the noise schedule; see --help."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from i2sb.options.parser import Parser
from i2sb.runtime.script import run_script

ROOT = Path(__file__).resolve().parents[1]
INTERVAL, SIZE = 1000, 192
KINDS = {"$\\beta_{max}$ 0.3": (0.3, False), "$\\beta_{max}$ 1": (1.0, False), "OT-ODE": (0.3, True)}
COLOURS = {0.3: "#2a6fbb", 1.0: "#c4572e"}


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser("draw_method.py", "Draw the figures of docs/method.md: bridge.jpg and schedule.svg.")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/figures", metavar="DIR", help="where they go")
    out = parser.parse(argv).out

    def work() -> int:
        import matplotlib

        matplotlib.use("agg")
        matplotlib.rcParams.update({"svg.hashsalt": "i2sb", "font.size": 10, "axes.spines.top": False})
        matplotlib.rcParams["axes.spines.right"] = False
        out.mkdir(parents=True, exist_ok=True)
        draw_bridge(out / "bridge.jpg")
        draw_schedule(out / "schedule.svg")
        return 0

    return run_script("draw_method.py", work)


def draw_bridge(path: Path) -> None:
    """States x_n between a photograph and its 8x8 blocks, one row per kind of bridge."""
    import matplotlib.pyplot as plt
    import numpy as np
    import torch
    from PIL import Image, ImageOps

    from corruption import create_corruption
    from i2sb.diffusion import Diffusion
    from i2sb.pixels import to_float
    from i2sb.schedule import make_betas

    with Image.open(ROOT / "examples/photographs/hawamahal.jpg") as photograph:
        pixels = np.array(ImageOps.fit(photograph.convert("RGB"), (SIZE, SIZE)))
    x0 = to_float(torch.from_numpy(pixels).permute(2, 0, 1)[None])
    x1 = create_corruption("sr8x-pool", SIZE)(x0)
    steps = [0, 250, 500, 750, INTERVAL - 1]
    figure, axes = plt.subplots(len(KINDS), len(steps), figsize=(9, 5.7), layout="constrained")
    for row, (name, (beta_max, ot_ode)) in zip(axes, KINDS.items()):
        diffusion = Diffusion(make_betas(INTERVAL, beta_max))
        for axis, n in zip(row, steps):
            torch.manual_seed(0)
            xn = diffusion.q_sample(torch.tensor([n]), x0, x1, ot_ode)[0]
            axis.imshow((xn.permute(1, 2, 0) * 0.5 + 0.5).clamp(0, 1).numpy())
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        row[0].set_ylabel(name)
    for axis, n in zip(axes[0], steps):
        axis.set_title({0: "clean, n = 0", INTERVAL - 1: f"degraded, n = {INTERVAL - 1}"}.get(n, f"n = {n}"))
    figure.savefig(path, dpi=100, pil_kwargs={"quality": 85})
    plt.close(figure)


def draw_schedule(path: Path) -> None:
    """Noise and share of the degraded image in x_n over n."""
    import matplotlib.pyplot as plt
    import numpy as np

    from i2sb.diffusion import marginal
    from i2sb.schedule import accumulated_stds, make_betas

    steps = np.arange(0, INTERVAL, 9)
    figure, (noise, share) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    for beta_max, colour in COLOURS.items():
        std_fwd, std_bwd = accumulated_stds(make_betas(INTERVAL, beta_max))
        _, mu_x1, std_sb = marginal(std_fwd, std_bwd)
        curves = {"$\\sigma_n$ (from the clean end)": (std_fwd, ":"), "noise in $x_n$": (std_sb, "-")}
        for name, (values, line) in curves.items():
            noise.plot(steps, values[steps], line, color=colour, label=f"{name}, $\\beta_{{max}}$ {beta_max:g}")
        share.plot(steps, mu_x1[steps], color=colour, label=f"$\\beta_{{max}}$ {beta_max:g}")
    noise.set(xlabel="step n", title="standard deviation (pixels from -1 to 1)", ylim=(0, None))
    share.set(xlabel="step n", title="share of the degraded image in the mean", ylim=(0, 1))
    for axis in (noise, share):
        axis.legend(frameon=False, fontsize=8)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    sys.exit(main())
