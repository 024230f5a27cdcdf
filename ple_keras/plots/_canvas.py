"""A new figure with boxes, lines and texts. Lengths are in inches, font sizes in points.

The package works without matplotlib, so functions import it. Without it, `pyplot` raises an error.
"""

from typing import Any, TypeAlias

Point: TypeAlias = tuple[float, float]
TEXT_COLOR, FRAME_COLOR = "#222222", "#8A8A8A"
TEXT_SIZE = 8.5
LETTER_WIDTH = 0.075
SOLID, DOTTED = "-", (0, (1, 1.5))


def pyplot() -> Any:
    """Return `matplotlib.pyplot`."""
    try:
        from matplotlib import pyplot as module
    except ModuleNotFoundError as error:
        raise ImportError("plots require matplotlib: pip install matplotlib") from error
    return module


class Canvas:
    """A new figure of a given size. Boxes and texts are centered at the given points."""

    def __init__(self, width: float, height: float) -> None:
        self.figure = pyplot().figure(figsize=(width, height), facecolor="white")
        self.ax = self.figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(0, height))
        self.ax.set_axis_off()

    def text(self, center: Point, text: str, **style: Any) -> None:
        """Draw a text, without TeX, which can't render a "_" in a name."""
        defaults = {"ha": "center", "va": "center", "color": TEXT_COLOR, "fontsize": TEXT_SIZE}
        self.ax.text(*center, text, usetex=False, zorder=4, **{**defaults, **style})

    def box(
        self, center: Point, size: Point, text: str, color: str, fill: float, radius: float = 0.05
    ) -> None:
        """Draw a box with a text. `fill` is the opacity of its color; at 0, it is in the back."""
        from matplotlib.colors import to_rgb
        from matplotlib.patches import FancyBboxPatch

        corner = (center[0] - size[0] / 2, center[1] - size[1] / 2)
        style: dict[str, Any] = {"boxstyle": f"round,pad=0,rounding_size={radius}", "ec": color}
        style["fc"] = [1 - fill * (1 - channel) for channel in to_rgb(color)]
        self.ax.add_patch(FancyBboxPatch(corner, *size, zorder=3 if fill else 1, **style))
        self.text(center, text)

    def line(self, *points: Point, color: str, dash: Any = SOLID) -> None:
        """Draw a line through the points, with an arrow head at the last point."""
        from matplotlib.patches import FancyArrowPatch
        from matplotlib.path import Path

        arrow = "-|>,head_length=0.35,head_width=0.16"
        style: dict[str, Any] = {"arrowstyle": arrow, "mutation_scale": 10, "zorder": 2}
        self.ax.add_patch(FancyArrowPatch(path=Path(points), color=color, ls=dash, **style))


def text_width(text: str) -> float:
    """Return the approximate width of the longest line of a text in TEXT_SIZE."""
    return LETTER_WIDTH * max(map(len, text.split("\n")))
