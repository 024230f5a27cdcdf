"""Boxes, lines and texts on Axes. Lengths are inches, sizes of fonts and lines points.

Needs matplotlib: to be imported only where `_plotting.pyplot()` was called before.
"""

from typing import Any, TypeAlias

from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.font_manager import FontProperties
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path
from matplotlib.textpath import TextPath

Point: TypeAlias = tuple[float, float]
Size: TypeAlias = tuple[float, float]
INK, NOTE, FRAME = "#222222", "#555555", "#8A8A8A"
TEXT, SMALL, TITLE = 8.5, 8.0, 9.0  # fonts
LINE, HEAD = 1.0, 10.0  # widths of lines, and what arrow heads are measured in
ROUND = 0.05
POINTS = 72  # an inch


class Canvas:
    """Axes that are `size` inches large, or as if they were: all is scaled to the room they have.

    What is drawn at a point has its middle there.
    """

    def __init__(self, ax: Axes, size: Size) -> None:
        self.ax = ax
        self.size = size
        room = ax.bbox.width / size[0], ax.bbox.height / size[1]
        self.scale = min(room) / ax.figure.dpi
        ax.set(xlim=(0, size[0]), ylim=(0, size[1]), aspect="equal")
        ax.set(xticks=[], yticks=[], facecolor="white")
        ax.spines[:].set_visible(False)

    def text(
        self, at: Point, text: str, size: float = TEXT, color: str = INK, **style: Any
    ) -> None:
        """A text, taken as it stands: no "$" or "_" in it is an instruction."""
        style = {"ha": "center", "va": "center", "usetex": False, "parse_math": False, **style}
        self.ax.text(at[0], at[1], text, fontsize=size * self.scale, color=color, zorder=4, **style)

    def box(
        self, at: Point, size: Size, text: str, color: str, fill: float, radius: float = ROUND
    ) -> None:
        """A box with a text in it, filled with so much of its color."""
        corner = (at[0] - size[0] / 2, at[1] - size[1] / 2)
        face = tuple(1 - fill * (1 - channel) for channel in to_rgb(color))
        self._rectangle(corner, size, radius, fc=face, ec=color, lw=LINE * self.scale, zorder=3)
        self.text(at, text)

    def frame(self, bottom: float, height: float, inset: float, face: str) -> None:
        """A frame behind boxes and lines, as wide as the canvas but for an inset on both sides."""
        size = (self.size[0] - 2 * inset, height)
        self._rectangle((inset, bottom), size, ROUND, fc=face, ec=FRAME, lw=0.8 * self.scale)

    def line(self, *points: Point, color: str, arrow: bool = True, dashed: bool = False) -> None:
        """A line through the points, with an arrow's head at the last."""
        style = "-|>,head_length=0.35,head_width=0.16" if arrow else "-"
        line = FancyArrowPatch(
            path=Path(points),
            arrowstyle=style,
            mutation_scale=HEAD * self.scale,
            color=color,
            lw=LINE * self.scale,
            ls=(0, (3, 2)) if dashed else "-",
            zorder=2,
        )
        self.ax.add_patch(line)

    def _rectangle(self, corner: Point, size: Size, radius: float, **style: Any) -> None:
        shape = f"round,pad=0,rounding_size={radius}"
        self.ax.add_patch(FancyBboxPatch(corner, size[0], size[1], shape, **style))


def text_width(text: str, size: float = TEXT, **font: Any) -> float:
    """The width of one line of text."""
    literal = text.replace("$", r"\$")
    path = TextPath((0, 0), literal, size=size, prop=FontProperties(**font))
    return float(path.get_extents().width) / POINTS
