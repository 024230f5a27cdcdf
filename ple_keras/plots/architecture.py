"""A plot of the experts, gates and streams of a model or block."""

from itertools import chain, cycle
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import keras

from ple_keras._keras.layers import walk
from ple_keras.labels.task_names import SHARED
from ple_keras.layers.cgc_block import CGCBlock
from ple_keras.layers.connections import Connections
from ple_keras.layers.hedged_block import HedgedBlock
from ple_keras.layers.sequential_block import SequentialBlock
from ple_keras.layers.shared_bottom_block import SharedBottomBlock

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Point: TypeAlias = tuple[float, float]
# Colors of Okabe and Ito, distinct for color-blind readers; green is for the shared stream.
TASK_COLORS = ("#0072B2", "#D55E00", "#CC79A7", "#E69F00", "#56B4E9")
SHARED_COLOR = "#009E73"
TEXT_COLOR, FRAME_COLOR = "#222222", "#8A8A8A"
TEXT_SIZE, LETTER_WIDTH = 8.5, 0.075  # in points, and about in inches
SOLID, DOTTED = "-", (0, (1, 1.5))
LIGHT_FILL, STRONG_FILL = 0.14, 0.42  # opacity of a box's color
# In inches: around texts and the plot; between boxes; from a gate to the frame of the next level,
# and from there to its experts; the height of a box.
MARGIN, GAP, LEVEL_GAP, EXPERTS_Y, BOX_HEIGHT = 0.12, 0.2, 0.42, 0.3, 0.44
GATE_TEXTS = {"stream": "gate", "context": "context gate", "both": "gate with context"}


def plot_architecture(model: keras.Layer) -> "Figure":
    """Plot the experts, gates and streams of a model or block, with the input at the bottom.

    Each column is the stream of a task, or the shared stream in the middle. A line into a gate
    comes from an expert that the gate mixes, in the color of the expert's stream. It is dotted if
    the gate does not train the expert. The input of a gate, by default its stream, is not drawn.
    Levels are named as in `gate_weights`.

    Args:
        model: A PLEBlock, MMoEBlock, CGCBlock, SharedBottomBlock, or HedgedBlock with its default
            branches; or a model or layer that contains one of these. Other layers are omitted. It
            does not need to be built.

    Returns:
        A new figure of `matplotlib.pyplot`. To save it, call `savefig("ple.png")`.

    Raises:
        TypeError: If `model` is not a Keras model or layer.
        ValueError: If `model` contains none of these blocks, or several. If several, plot one of
            them, such as `hedged["ple"]`.
        ImportError: If matplotlib is not installed.

    Example:

    >>> figure = plot_architecture(PLEBlock(2, ["click", "buy"], [64, 32], name="ple"))
    >>> [text.get_text() for text in figure.axes[0].texts if "ple/" in text.get_text()]
    ['ple/0', 'ple/1']
    """
    if not isinstance(model, keras.Layer):
        raise TypeError(f"model must be a Keras model or layer. Received: model={model!r}")
    outermost = (next((x for x in path if _levels(x)), None) for path in walk(model))
    blocks = list({id(block): block for block in outermost if block is not None}.values())
    if len(blocks) != 1:
        raise ValueError(
            "model must have one PLEBlock, MMoEBlock, CGCBlock, SharedBottomBlock or HedgedBlock "
            f"with its default branches. Received: {model=}, with {[x.name for x in blocks]}"
        )
    return _Drawing(_levels(blocks[0])).draw()


class _Level(NamedTuple):
    """A level in the plot.

    Attributes:
        name: The name next to its frame.
        parts: The experts, such as "click/expert_0", and the gates that mix them.
        gate_text: The text after the name of a gate.
    """

    name: str
    parts: Connections
    gate_text: str


def _levels(layer: keras.Layer, name: str | None = None) -> list[_Level]:
    """Return the levels of a block, in order; an empty list for other layers."""
    name = name or layer.name
    if isinstance(layer, SequentialBlock):
        levels = (_levels(x, f"{layer.name}/{index}") for index, x in enumerate(layer))
        return list(chain.from_iterable(levels))
    if isinstance(layer, CGCBlock):
        return [_Level(name, layer._connections, GATE_TEXTS[layer.gate_reads])]
    if isinstance(layer, SharedBottomBlock):
        streams, network, text = [SHARED], "bottom", "output"
    elif isinstance(layer, HedgedBlock) and layer._template:  # with the default branches
        network, text = "features, expert" if layer._features else "expert", "mixture"
        streams = [*layer.task_names, SHARED]
    else:
        return []
    experts = {f"{stream}/{network}": stream for stream in streams}
    gates = {t: [x for x, s in experts.items() if s in (t, SHARED)] for t in layer.task_names}
    return [_Level(name, Connections(layer.task_names, experts, gates), text)]


class _Drawing:
    """Columns for the streams, with the shared stream in the middle, and rows for the levels."""

    def __init__(self, levels: list[_Level]) -> None:
        self._levels = levels
        gates = dict.fromkeys(chain.from_iterable(level.parts.gates for level in levels))
        tasks = [gate for gate in gates if gate != SHARED]
        self._colors = {**dict(zip(tasks, cycle(TASK_COLORS))), SHARED: SHARED_COLOR}
        middle = (len(tasks) + 1) // 2
        streams = [*tasks[:middle], SHARED, *tasks[middle:]]
        experts = chain.from_iterable(level.parts.experts for level in levels)
        texts = [*streams, *chain.from_iterable(expert.split("/") for expert in experts)]
        texts += [level.gate_text for level in levels]
        self._box_width = LETTER_WIDTH * max(map(len, texts)) + MARGIN
        self._columns: dict[str, tuple[float, float]] = {}  # the center and the width
        x = 3 * MARGIN + LETTER_WIDTH * max(len(level.name) for level in levels)
        for stream in streams:
            parts = [level.parts for level in levels]
            boxes = max(len(each.experts_of(stream)) or stream in each.gates for each in parts)
            width = boxes * (self._box_width + GAP)
            self._columns[stream] = x + width / 2, width
            x += width
        self._width = x + 2 * MARGIN
        # From the bottom of a level to its gates. Lines to them cross at larger angles if higher.
        self._gates_y = EXPERTS_Y + BOX_HEIGHT + 0.4 + 0.07 * self._width

    def draw(self) -> "Figure":
        """Return a new figure with the levels."""
        y, pitch = 0.3 + BOX_HEIGHT, LEVEL_GAP + self._gates_y + BOX_HEIGHT
        self._canvas = Canvas(self._width, y + len(self._levels) * pitch + 0.6)
        self._draw_frame(0.3, y, "input", LIGHT_FILL)
        if any(x.parts.is_isolated and SHARED in x.parts.gates for x in self._levels):
            self._canvas.text((self._width / 2, 0.15), "dotted: gradients are stopped")
        for level in self._levels:
            self._draw_level(level, y)
            y += pitch
        for task in level.parts.gates:
            x = self._columns[task][0]
            self._canvas.line((x, y), (x, y + 0.35), color=self._colors[task])
            self._canvas.text((x, y + 0.35), task, va="bottom")
        return self._canvas.figure

    def _draw_frame(self, bottom: float, top: float, text: str, fill: float) -> None:
        center = (self._width / 2, (bottom + top) / 2)
        self._canvas.box(center, (self._width - 2 * MARGIN, top - bottom), text, FRAME_COLOR, fill)

    def _draw_level(self, level: _Level, sources_y: float) -> None:
        """Draw a level above the streams that it reads."""
        bottom = sources_y + LEVEL_GAP
        experts_y, gates_y = bottom + EXPERTS_Y, bottom + self._gates_y
        top = gates_y + BOX_HEIGHT
        self._draw_frame(bottom, top + MARGIN, "", fill=0)
        self._canvas.text((2 * MARGIN, top), level.name, weight="bold", ha="left", va="top")
        starts: dict[str, Point] = {}  # of lines from experts
        for stream, (x, width) in self._columns.items():
            color, experts = self._colors[stream], level.parts.experts_of(stream)
            for expert, center in zip(experts, _spread(x, width, len(experts))):
                starts[expert] = (center, experts_y + BOX_HEIGHT)
                self._canvas.line((x, sources_y), (center, experts_y), color=color)
                box, size = (center, experts_y + BOX_HEIGHT / 2), (self._box_width, BOX_HEIGHT)
                self._canvas.box(box, size, expert.replace("/", "\n"), color, LIGHT_FILL)
        for gate, mixed in level.parts.gates.items():
            x, width = self._columns[gate]
            box, size = (x, top - BOX_HEIGHT / 2), (width - GAP, BOX_HEIGHT)
            text, color = f"{gate}\n{level.gate_text}", self._colors[gate]
            self._canvas.box(box, size, text, color, STRONG_FILL, radius=BOX_HEIGHT / 2)
            experts = [expert for expert in starts if expert in mixed]  # from left to right
            for expert, port in zip(experts, _spread(x, size[0], len(experts))):
                stream = level.parts.experts[expert]
                dash = DOTTED if level.parts.is_isolated and gate == SHARED != stream else SOLID
                color = self._colors[stream]
                self._canvas.line(starts[expert], (port, gates_y), color=color, dash=dash)


def _spread(center: float, width: float, count: int) -> list[float]:
    """Return the centers of equal parts of a width."""
    return [center + width * ((index + 0.5) / count - 0.5) for index in range(count)]


class Canvas:
    """A new figure with boxes, lines and texts, which are centered at the given points.

    Lengths are in inches, font sizes in points.
    """

    def __init__(self, width: float, height: float) -> None:
        from matplotlib import pyplot

        self.figure = pyplot.figure(figsize=(width, height), facecolor="white")
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
