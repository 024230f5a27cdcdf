"""Draw architecture.png: a PLE with two tasks and two levels.

KERAS_BACKEND=torch python docs/draw_architecture.py
"""

from io import BytesIO
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

import ple_keras as pk

WIDTH = 1600  # pixels


def save(figure: Figure, path: Path) -> None:
    """Write a small PNG. Equal drawings produce equal files."""
    dpi = WIDTH / figure.get_figwidth()
    png = BytesIO()
    figure.savefig(png, format="png", dpi=dpi, metadata={"Software": None})
    image = Image.open(png).convert("RGB").quantize(128, dither=Image.Dither.NONE)
    image.save(path, optimize=True, dpi=(dpi, dpi))


if __name__ == "__main__":
    ple = pk.PLEBlock(
        num_layers=2,
        outputs=["click", "buy"],
        expert_block=[256, 128],
        num_task_experts=2,
        num_shared_experts=2,
        name="PLEBlock",
    )
    save(pk.plot_architecture(ple), Path(__file__).with_name("architecture.png"))
