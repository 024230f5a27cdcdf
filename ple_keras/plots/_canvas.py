"""Boxes, lines and texts on Axes. Lengths are in inches, font sizes and line widths in points.

The package works without matplotlib, so functions import it. `pyplot` says how to install it.
"""

from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Dash: TypeAlias = str | tuple[int, tuple[float, ...]]
Point: TypeAlias = tuple[float, float]
Size: TypeAlias = tuple[float, float]
TEXT_COLOR, NOTE_COLOR, FRAME_COLOR = "#222222", "#555555", "#8A8A8A"
TEXT_SIZE, SMALL_SIZE, TITLE_SIZE = 8.5, 8.0, 9.0
LINE_WIDTH, ARROW_SCALE = 1.0, 10.0
CORNER_RADIUS = 0.05
POINTS_PER_INCH = 72
SOLID: Dash = "-"
DASHED: Dash = (0, (3, 2))
DOTTED: Dash = (0, (1, 1.5))


def pyplot() -> Any:
    """Return `matplotlib.pyplot`."""
    try:
        from matplotlib import pyplot as module
    except ModuleNotFoundError as error:
        raise ImportError('plots require matplotlib: pip install "ple-keras[plot]"') from error
    return module


def check_axes(ax: Any, each: str = "") -> Any:
    """Check that `ax` is one matplotlib Axes with a rectilinear projection; return it."""
    if not isinstance(ax, pyplot().Axes) or ax.name != "rectilinear":
        raise TypeError(f"ax must be a matplotlib Axes{each} or None. Received: ax={ax!r}")
    return ax


class Canvas:
    """Axes whose coordinates are inches, scaled from `size` to the size of the Axes.

    Boxes and texts are centered at the given points.
    """

    def __init__(self, ax: "Axes", size: Size) -> None:
        self.ax = ax
        self.size = size
        scales = ax.bbox.width / size[0], ax.bbox.height / size[1]
        self.scale = min(scales) / ax.figure.dpi
        ax.set(xlim=(0, size[0]), ylim=(0, size[1]), aspect="equal")
        ax.set(xticks=[], yticks=[], facecolor="white")
        ax.spines[:].set_visible(False)

    def text(
        self,
        center: Point,
        text: str,
        size: float = TEXT_SIZE,
        color: str = TEXT_COLOR,
        **style: Any,
    ) -> None:
        """Draw a text without interpretation of "$" and "_"."""
        style = {"ha": "center", "va": "center", "usetex": False, "parse_math": False, **style}
        self.ax.text(
            center[0], center[1], text, fontsize=size * self.scale, color=color, zorder=4, **style
        )

    def box(
        self,
        center: Point,
        size: Size,
        text: str,
        color: str,
        fill: float,
        radius: float = CORNER_RADIUS,
    ) -> None:
        """Draw a box with a text; `fill` is the opacity of its color."""
        from matplotlib.colors import to_rgb

        corner = (center[0] - size[0] / 2, center[1] - size[1] / 2)
        face = tuple(1 - fill * (1 - channel) for channel in to_rgb(color))
        self._rectangle(
            corner, size, radius, fc=face, ec=color, lw=LINE_WIDTH * self.scale, zorder=3
        )
        self.text(center, text)

    def frame(self, bottom: float, height: float, inset: float, face: str) -> None:
        """Draw a frame behind boxes and lines, across the canvas minus an inset on each side."""
        size = (self.size[0] - 2 * inset, height)
        self._rectangle(
            (inset, bottom), size, CORNER_RADIUS, fc=face, ec=FRAME_COLOR, lw=0.8 * self.scale
        )

    def line(self, *points: Point, color: str, arrow: bool = True, dash: Dash = SOLID) -> None:
        """Draw a line through the points, with an arrow head at the last point."""
        from matplotlib.patches import FancyArrowPatch
        from matplotlib.path import Path

        style = "-|>,head_length=0.35,head_width=0.16" if arrow else "-"
        line = FancyArrowPatch(
            path=Path(points),
            arrowstyle=style,
            mutation_scale=ARROW_SCALE * self.scale,
            color=color,
            lw=LINE_WIDTH * self.scale,
            ls=dash,
            zorder=2,
        )
        self.ax.add_patch(line)

    def _rectangle(self, corner: Point, size: Size, radius: float, **style: Any) -> None:
        from matplotlib.patches import FancyBboxPatch

        shape = f"round,pad=0,rounding_size={radius}"
        self.ax.add_patch(FancyBboxPatch(corner, size[0], size[1], shape, **style))


def text_width(text: str, size: float = TEXT_SIZE, **font: Any) -> float:
    """Return the width of one line of text."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    literal = text.replace("$", r"\$")
    path = TextPath((0, 0), literal, size=size, prop=FontProperties(**font))
    return float(path.get_extents().width) / POINTS_PER_INCH
