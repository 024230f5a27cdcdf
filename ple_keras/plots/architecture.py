"""A plot of the experts, gates and streams of a model or block."""

import re
from dataclasses import dataclass
from itertools import chain, cycle
from typing import TYPE_CHECKING, Any

import keras

from ple_keras._keras.layers import walk
from ple_keras.labels.task_names import SHARED
from ple_keras.layers.cgc_block import CGCBlock
from ple_keras.layers.hedged_block import HedgedBlock
from ple_keras.layers.sequential_block import SequentialBlock
from ple_keras.layers.shared_bottom_block import SharedBottomBlock
from ple_keras.plots._canvas import DASHED, DOTTED, FRAME_COLOR, SOLID, Canvas, Point, text_width

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Colors of Okabe and Ito, distinct for color-blind readers; green is for the shared stream.
TASK_COLORS = ("#0072B2", "#D55E00", "#CC79A7", "#E69F00", "#56B4E9")
SHARED_COLOR = "#009E73"
LIGHT_FILL, STRONG_FILL = 0.14, 0.42  # opacity of a box's color
MARGIN, GAP, LEVEL_GAP = 0.12, 0.2, 0.3  # around the plot; between boxes; between levels
MIN_WIDTH, MIN_EXPERT_WIDTH = 4.0, 0.8  # with room for the legend
TEXT_LINE, TEXT_MARGIN = 0.155, 0.13  # height of a line; space around a text
PORT_PITCH = 0.2  # between lines into a gate
BRANCH = 0.08  # where a stream branches, above the bottom of a level
MAX_NAME_LETTERS = 16  # in a line of an expert's box
GATE_TEXTS = {
    "stream": " gate",
    "context": " gate\nreads the context",
    "both": " gate\nalso reads the context",
}
LEGEND = {
    SOLID: "streams and outputs of experts",
    DASHED: "gate input: the gate's own stream",
    DOTTED: "not trained by the shared gate",
}


def plot_architecture(model: keras.Layer) -> "Figure":
    """Plot the experts, gates and streams of a model or block, with the input at the bottom.

    Each column is the stream of a task, or the shared stream in the middle. A solid line into a
    gate comes from an expert that the gate mixes, in the color of the expert's stream. A dashed
    line is the gate's own stream, if the gate reads it. Levels are named as in `gate_weights`.

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
            "with its default branches. If it has several, plot one of them. "
            f"Received: model={model!r}, with {[block.name for block in blocks]}"
        )
    figure: Figure = _Drawing(_levels(blocks[0])).draw()
    return figure


@dataclass(frozen=True)
class _Level:
    """A level in the plot.

    Attributes:
        name: The name next to its frame.
        experts: The names of the experts, such as "click/expert_0".
        gates: The experts that each gate mixes.
        gate_text: The text after the name of a gate; "" for outputs without a gate.
        reads_streams: Whether each gate reads its own stream.
        is_isolated: Whether the shared gate does not train task experts.
    """

    name: str
    experts: list[str]
    gates: dict[str, list[str]]
    gate_text: str = ""
    reads_streams: bool = False
    is_isolated: bool = False

    def experts_of(self, stream: str) -> list[str]:
        return [expert for expert in self.experts if expert.startswith(f"{stream}/")]


def _levels(layer: keras.Layer, name: str | None = None) -> list[_Level]:
    """Return the levels of a block, in order; an empty list for other layers."""
    name = name or layer.name
    if isinstance(layer, SequentialBlock):
        levels = (_levels(x, f"{layer.name}/{index}") for index, x in enumerate(layer))
        return list(chain.from_iterable(levels))
    if isinstance(layer, CGCBlock):
        text, reads = GATE_TEXTS[layer.gate_reads], layer.gate_reads != "context"
        is_isolated = layer.isolate_task_experts and layer.add_shared_gate
        return [_Level(name, layer.expert_names, layer.gate_experts, text, reads, is_isolated)]
    if isinstance(layer, SharedBottomBlock):
        gates = {task: [f"{SHARED}/bottom"] for task in layer.task_names}
        return [_Level(name, [f"{SHARED}/bottom"], gates)]
    if isinstance(layer, HedgedBlock) and layer._template:  # with the default branches
        gates = {task: [f"{task}/expert", f"{SHARED}/expert"] for task in layer.task_names}
        experts = [*(mixed[0] for mixed in gates.values()), f"{SHARED}/expert"]
        return [_Level(name, experts, gates, " mixture")]
    return []


def _expert_text(expert: str) -> str:
    """Return the text of an expert's box, with a long name wrapped after "_" and "-"."""
    stream, kind = expert.split("/")
    if len(stream) > MAX_NAME_LETTERS:
        stream = re.sub("([_-]+)", r"\1\n", stream)
    return f"{stream}\n{kind.replace('_', ' ')}"


class _Drawing:
    """Columns for the streams, with the shared stream in the middle, and rows for the levels."""

    def __init__(self, levels: list[_Level]) -> None:
        self._levels = levels
        texts = [_expert_text(expert) for level in levels for expert in level.experts]
        width = max(MIN_EXPERT_WIDTH, *(text_width(text) + TEXT_MARGIN for text in texts))
        self._expert_size = (width, max(map(_text_height, texts)))
        self._gate_height = max(_text_height(level.gate_text) for level in levels)
        tasks = list(dict.fromkeys(x for level in levels for x in level.gates if x != SHARED))
        self._colors = {**dict(zip(tasks, cycle(TASK_COLORS))), SHARED: SHARED_COLOR}
        half = (len(tasks) + 1) // 2
        self._xs: dict[str, float] = {}
        right = 3 * MARGIN + max(text_width(level.name) for level in levels)
        for stream in [*tasks[:half], SHARED, *tasks[half:]]:
            width = max(self._column_width(level, stream) for level in levels)
            self._xs[stream] = right + width / 2
            right += width
        self._width = max(right + 2 * MARGIN, MIN_WIDTH)
        experts = max(len(level.experts_of(x)) for level in levels for x in self._xs)
        self._experts_y = 0.2 + 0.05 * experts  # above the bottom of a level
        self._gates_y = self._experts_y + self._expert_size[1] + 0.4 + 0.07 * self._width
        self._level_height = self._gates_y + self._gate_height + MARGIN

    def _column_width(self, level: _Level, stream: str) -> float:
        """Return the width of a stream's experts or gate, with a gap."""
        experts = len(level.experts_of(stream)) * (self._expert_size[0] + GAP)
        return max(experts, self._gate_width(level, stream) + GAP if stream in level.gates else 0)

    def _gate_width(self, level: _Level, gate: str) -> float:
        lines = len(level.gates[gate]) + 2
        return max(text_width(f"{gate}{level.gate_text}") + 0.4, lines * PORT_PITCH)

    def draw(self) -> Any:
        """Return a new figure with the levels."""
        legend: list[Any] = [SOLID]
        legend += [DASHED] * any(level.reads_streams for level in self._levels)
        legend += [DOTTED] * any(level.is_isolated for level in self._levels)
        bottom, input_height = 0.2 * len(legend) + 0.2, _text_height("input")
        levels_height = len(self._levels) * (self._level_height + LEVEL_GAP)
        self._canvas = Canvas(self._width, bottom + input_height + levels_height + 2 * LEVEL_GAP)
        for row, dash in enumerate(reversed(legend)):
            left, y = self._width / 2 - 1.3, 0.2 * row + 0.15
            self._canvas.line((left, y), (left + 0.4, y), arrow=False, dash=dash)
            self._canvas.text((left + 0.5, y), LEGEND[dash], ha="left")
        size = (self._width - 2 * MARGIN, input_height)
        center = (self._width / 2, bottom + input_height / 2)
        self._canvas.box(center, size, "input", FRAME_COLOR, LIGHT_FILL)
        sources = {stream: (x, bottom + input_height) for stream, x in self._xs.items()}
        y = bottom + input_height + LEVEL_GAP
        for level in self._levels:
            sources = self._draw_level(level, y, sources)
            y += self._level_height + LEVEL_GAP
        for stream, source in sources.items():
            self._canvas.line(source, (source[0], y), color=self._colors[stream])
            self._canvas.text((source[0], y + 0.1), stream)
        return self._canvas.figure

    def _draw_level(
        self, level: _Level, bottom: float, sources: dict[str, Point]
    ) -> dict[str, Point]:
        """Draw a level above the streams that it reads, and return the top of each stream."""
        center = (self._width / 2, bottom + self._level_height / 2)
        size = (self._width - 2 * MARGIN, self._level_height)
        self._canvas.box(center, size, "", FRAME_COLOR, fill=0)
        name = (2 * MARGIN, bottom + self._level_height - MARGIN)
        self._canvas.text(name, level.name, weight="bold", ha="left", va="top")
        xs: dict[str, float] = {}  # of the experts
        for stream, x in self._xs.items():
            color, experts = self._colors[stream], level.experts_of(stream)
            branch = (x, bottom + BRANCH)
            is_read = experts or (level.reads_streams and stream in level.gates)
            if is_read and stream in sources:
                self._canvas.line(sources[stream], branch, color=color, arrow=False)
            for index, expert in enumerate(experts):
                pitch = self._expert_size[0] + GAP
                xs[expert] = x + pitch * (index - (len(experts) - 1) / 2)
                y = bottom + self._experts_y
                self._canvas.line(branch, (xs[expert], y), color=color)
                center = (xs[expert], y + self._expert_size[1] / 2)
                self._canvas.box(center, self._expert_size, _expert_text(expert), color, LIGHT_FILL)
        for gate in level.gates:
            self._draw_gate(level, gate, bottom, xs)
        y = bottom + self._gates_y + (self._gate_height if level.gate_text else 0)
        return {gate: (self._xs[gate], y) for gate in level.gates}

    def _draw_gate(self, level: _Level, gate: str, bottom: float, xs: dict[str, float]) -> None:
        """Draw a gate, and lines to it from the experts that it mixes and from its own stream."""
        center, color = self._xs[gate], self._colors[gate]
        y, experts_y = bottom + self._gates_y, bottom + self._experts_y
        top = experts_y + self._expert_size[1]
        lines: list[tuple[list[Point], str, Any]] = []
        for expert in level.gates[gate]:
            stream = expert.partition("/")[0]
            dash: Any = DOTTED if level.is_isolated and gate == SHARED != stream else SOLID
            lines.append(([(xs[expert], top)], self._colors[stream], dash))
        if level.reads_streams:
            # The stream passes between the middle experts, or next to the middle one.
            is_odd = len(level.experts_of(gate)) % 2
            side = -1 if center < self._xs[SHARED] else 1
            x = center + side * is_odd * (self._expert_size[0] + GAP) / 2
            lines.append(([(center, bottom + BRANCH), (x, experts_y), (x, top)], color, DASHED))
        lines.sort(key=lambda line: line[0][-1])
        arrow = bool(level.gate_text)
        for index, (points, line_color, dash) in enumerate(lines):
            end = (center + PORT_PITCH * (index - (len(lines) - 1) / 2), y)
            self._canvas.line(*points, end, color=line_color, dash=dash, arrow=arrow)
        if level.gate_text:
            self._canvas.box(
                (center, y + self._gate_height / 2),
                (self._gate_width(level, gate), self._gate_height),
                f"{gate}{level.gate_text}",
                color,
                STRONG_FILL,
                radius=self._gate_height / 2,
            )


def _text_height(text: str) -> float:
    return (text.count("\n") + 1) * TEXT_LINE + TEXT_MARGIN
