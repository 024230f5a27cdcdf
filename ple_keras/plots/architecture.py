"""A plot of the experts, gates and streams of a block."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING

import keras

from ple_keras.labels.task_names import SHARED
from ple_keras.layers.cgc_block import CGCBlock
from ple_keras.layers.hedged_block import OWN, HedgedBlock
from ple_keras.layers.sequential_block import SequentialBlock
from ple_keras.plots._canvas import (
    DASHED,
    DOTTED,
    FRAME_COLOR,
    NOTE_COLOR,
    SMALL_SIZE,
    SOLID,
    TEXT_COLOR,
    TITLE_SIZE,
    Canvas,
    Point,
    check_axes,
    pyplot,
    text_width,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Colors of Okabe and Ito, distinct for color-blind readers; green is for the shared stream.
TASK_COLORS = ("#0072B2", "#D55E00", "#CC79A7", "#E69F00", "#56B4E9")
SHARED_COLOR = "#009E73"
MARGIN, PAD = 0.08, 0.12  # around the plot, and between a frame and its content
COLUMN_GAP, EXPERT_GAP = 0.26, 0.2
MIN_EXPERT_WIDTH, MIN_GATE_WIDTH = 0.8, 1.44
GATE_HEIGHT, INPUT_HEIGHT = 0.32, 0.3
TEXT_LINE, TEXT_MARGIN = 0.155, 0.13  # height of a line; space above and below a text
CONTEXT, CONTEXT_LINE = "context", 0.24  # the text next to a gate, and the line from it
PORT_PITCH, PORT_MARGIN = 0.2, 0.12  # between lines into a gate, and next to them
LEVEL_GAP = 0.32
LEGEND_HEIGHT, MIN_WIDTH = 0.44, 3.7  # the width has room for the legend
MAX_LINE_LETTERS = 16  # of a task's name in an expert's box
LIGHT_FILL, STRONG_FILL = 0.14, 0.42  # opacity of a box's color
BACKGROUND = "#F4F4F4"
LEGEND = {"streams and outputs of experts": SOLID}
GATE_LEGENDS = {  # the input of gates, by `gate_reads`
    "stream": "gate input: the gate's own stream",
    "context": "gate input: the context",
    "both": "gate input: the gate's own stream and the context",
}
STOPPED = {"not trained by the shared gate": DOTTED}
LEGEND_LINE = 0.36  # length


def plot_architecture(ple: keras.Layer, ax: "Axes | None" = None) -> "Axes":
    """Plot the experts, gates and streams of a block, with the input at the bottom.

    Each column is a stream: a task's, or the shared stream in the middle. A solid line into a gate
    comes from an expert that the gate mixes, and has the color of that expert's stream. A dashed
    line is the input of the gate: its stream, a context that only gates read, or both. If streams
    have different experts, their boxes show the units, or the class of the layer.

    Args:
        ple: A PLEBlock, MMoEBlock or CGCBlock, or any SequentialBlock with CGCBlocks; its other
            layers are left out. Or a HedgedBlock with its default branches: plot others alone, such
            as `hedged["ple"]`. It need not be built.
        ax: The matplotlib Axes to draw on; texts and lines scale to their current size. By
            default, a new figure of `matplotlib.pyplot`, of the size that the block needs.

    Returns:
        The Axes; `ax.figure.savefig("ple.png")` saves the plot.

    Raises:
        TypeError: If `ple` is neither a CGCBlock nor a SequentialBlock, or `ax` is not an Axes.
        ValueError: If `ple` has no CGCBlock, or is a HedgedBlock with other branches.
        ImportError: If matplotlib is not installed.

    Example:

    >>> ax = plot_architecture(PLEBlock(2, ["click", "buy"], [64, 32]))
    >>> [text.get_text() for text in ax.texts if text.get_text().startswith("level")]
    ['level 1', 'level 2']
    """
    blocks = [_Mixtures(ple)] if isinstance(ple, HedgedBlock) else _levels(ple)
    plt = pyplot()
    drawing = _Drawing(
        blocks, title="" if len(blocks) == 1 and ple.name == blocks[0].name else ple.name
    )
    if ax is None:
        ax = plt.figure(figsize=drawing.size).add_axes((0, 0, 1, 1))
    drawing.draw(check_axes(ax))
    return ax


def _levels(ple: keras.Layer) -> list[CGCBlock]:
    """Return the CGCBlocks of a block, from the first level."""
    is_sequence = isinstance(ple, SequentialBlock)
    blocks = [x for x in (ple if is_sequence else [ple]) if isinstance(x, CGCBlock)]
    if not blocks:
        error = ValueError if is_sequence else TypeError
        raise error(
            "ple must be a CGCBlock, or a SequentialBlock with at least one CGCBlock. "
            f"Received: ple={ple!r}"
        )
    return blocks


class _Mixtures(CGCBlock):
    """The default branches of a HedgedBlock as a level, whose gates stand for the mixtures."""

    def __init__(self, hedged: HedgedBlock) -> None:
        if set(hedged.branch_names) != {OWN, SHARED} or not isinstance(hedged[OWN], CGCBlock):
            raise ValueError(
                "ple must have the default branches if it is a HedgedBlock. Plot its branches "
                f"alone, such as hedged[{hedged.branch_names[0]!r}]. Received: ple={hedged!r}"
            )
        super().__init__(hedged.task_names, 1, add_shared_gate=False, name=hedged.name)


def _gate_reads(block: CGCBlock) -> str:
    """Return the input of a block's gates; "" for mixtures, which read none."""
    return "" if isinstance(block, _Mixtures) else block.gate_reads


@dataclass(frozen=True)
class _Column:
    """Column of one stream.

    Attributes:
        x: The center of the column.
        color: The stream's color.
        outside: -1 or 1: the side away from the shared column.
        experts: The largest number of the stream's experts in a level.
        expert_width: The width of an expert.
        gate_width: The width of the stream's gate.
    """

    x: float
    color: str
    outside: int
    experts: int
    expert_width: float
    gate_width: float

    @property
    def pitch(self) -> float:
        """Distance between the centers of neighboring experts."""
        return self.expert_width + EXPERT_GAP

    @property
    def half_span(self) -> float:
        """Distance from the center to the center of the outermost expert."""
        return self.pitch * max(self.experts - 1, 0) / 2

    def expert_xs(self, count: int) -> list[float]:
        """Return the centers of `count` experts."""
        return [self.x + self.pitch * (index - (count - 1) / 2) for index in range(count)]

    def lane_x(self, count: int) -> float:
        """Return where the stream passes `count` experts on its way to the gate."""
        return self.x + self.outside * self.pitch / 2 * (count % 2)

    def port_xs(self, count: int, middle: float) -> list[float]:
        """Return where `count` lines reach the gate, line `middle` at its center if possible."""
        room = self.gate_width / 2 - PORT_MARGIN
        first = min(max(-middle * PORT_PITCH, -room), room - (count - 1) * PORT_PITCH)
        return [self.x + first + PORT_PITCH * index for index in range(count)]


class _Layout:
    """Columns for the streams, with the shared stream in the middle, and rows for the levels.

    Lengths are in inches, from the lower left corner.

    Attributes:
        columns: The streams' columns, from left to right.
        expert_height: The height of an expert.
        branch_height: The height between the bottom of a level and its experts.
        mix_height: The height between the experts and the gates.
        level_height: The height of a level.
        inputs_y, outputs_y: The center of the input, and of the names of the outputs.
        bottom, top: The ends of the frame around the levels.
        width, height: The size of the plot.
    """

    def __init__(self, blocks: Sequence[CGCBlock], title: str) -> None:
        streams = list(dict.fromkeys(x for block in blocks for x in block._wiring.streams))
        self.columns: dict[str, _Column] = {}
        right = MARGIN + 3 * PAD + _label_width(blocks, title)
        tasks = [stream for stream in streams if stream != SHARED]
        half = (len(tasks) + 1) // 2
        colors = {**dict(zip(tasks, cycle(TASK_COLORS))), SHARED: SHARED_COLOR}
        for stream in [*tasks[:half], *(x for x in streams if x == SHARED), *tasks[half:]]:
            right = self._add_column(stream, colors[stream], blocks, right)
        self.width = max(right + PAD + MARGIN, MIN_WIDTH)
        lines = max(
            _expert_text(block, stream, 0).count("\n") + 1 for block in blocks for stream in streams
        )
        self.expert_height = lines * TEXT_LINE + TEXT_MARGIN
        self.branch_height = 0.2 + 0.05 * max(column.experts for column in self.columns.values())
        self.mix_height = max(0.5, 0.3 + 0.18 * self._max_line_width())
        experts_and_mix = self.branch_height + self.expert_height + self.mix_height
        self.level_height = experts_and_mix + GATE_HEIGHT + PAD
        self.inputs_y = LEGEND_HEIGHT + PAD + INPUT_HEIGHT / 2
        self.bottom = self.inputs_y + INPUT_HEIGHT / 2 + LEVEL_GAP
        self.top = self.level_bottom(len(blocks))
        self.outputs_y = self.top + LEVEL_GAP + 0.1
        self.height = self.outputs_y + 0.2

    def _add_column(
        self, stream: str, color: str, blocks: Sequence[CGCBlock], left: float
    ) -> float:
        """Add a stream's column at the right; return its right edge."""
        experts = max(_count_experts(block, stream) for block in blocks)
        ports = max(len(block.gate_experts.get(stream, ())) + 1 for block in blocks)
        reads_context = any(_gate_reads(block) in (CONTEXT, "both") for block in blocks)
        texts = [x for b in blocks for x in _expert_text(b, stream, experts).split("\n")]
        expert_width = max(MIN_EXPERT_WIDTH, *(text_width(text) + TEXT_MARGIN for text in texts))
        gate_width = max(
            MIN_GATE_WIDTH,
            text_width(_gate_text(stream, blocks[0])) + GATE_HEIGHT,
            (ports - 1) * PORT_PITCH + 2 * PORT_MARGIN,
        )
        experts_width = experts * (expert_width + EXPERT_GAP) - EXPERT_GAP
        context_width = 2 * (CONTEXT_LINE + text_width(CONTEXT, SMALL_SIZE)) if reads_context else 0
        width = COLUMN_GAP + max(gate_width + context_width, experts_width)
        self.columns[stream] = _Column(
            x=left + width / 2,
            color=color,
            outside=1 if SHARED in self.columns else -1,
            experts=experts,
            expert_width=expert_width,
            gate_width=gate_width,
        )
        return left + width

    def _max_line_width(self) -> float:
        """Return the approximate width of the widest line, to or from the shared column."""
        if SHARED not in self.columns:
            return 0
        shared = self.columns[SHARED]
        return max(
            abs(column.x - shared.x) + max(column.half_span, shared.half_span)
            for column in self.columns.values()
        )

    def level_bottom(self, level: int) -> float:
        return self.bottom + PAD + level * (self.level_height + LEVEL_GAP)


class _Drawing:
    """Drawing of a stack of levels.

    Args:
        blocks: The levels, from the first.
        title: The title of the frame around the levels; "" for no frame.
    """

    def __init__(self, blocks: Sequence[CGCBlock], title: str) -> None:
        self._blocks = blocks
        self._title = title
        self._places = _Layout(blocks, title)
        self.size = (self._places.width, self._places.height)

    def draw(self, ax: "Axes") -> None:
        """Draw the levels, scaled to the size of `ax`."""
        self._canvas = Canvas(ax, self.size)
        if self._title:
            bottom, top = self._places.bottom, self._places.top
            self._canvas.frame(bottom, top - bottom, MARGIN, BACKGROUND)
            self._label(top, self._title)
        streams = self._draw_inputs()
        for level, block in enumerate(self._blocks):
            streams = self._draw_level(level, block, streams)
        self._draw_outputs(streams)
        self._draw_legend()

    def _draw_inputs(self) -> dict[str, Point]:
        """Draw the input; return where each stream leaves it."""
        columns, y = self._places.columns, self._places.inputs_y
        inputs = {stream: columns[stream] for stream in self._blocks[0]._wiring.streams}
        left = min(column.x - column.gate_width / 2 for column in inputs.values())
        right = max(column.x + column.gate_width / 2 for column in inputs.values())
        center, size = ((left + right) / 2, y), (right - left, INPUT_HEIGHT)
        self._canvas.box(center, size, "input of every stream", FRAME_COLOR, LIGHT_FILL)
        return {stream: (column.x, y + INPUT_HEIGHT / 2) for stream, column in inputs.items()}

    def _draw_level(
        self, level: int, block: CGCBlock, sources: Mapping[str, Point]
    ) -> dict[str, Point]:
        """Draw a level above the streams that it reads; return where each stream leaves it."""
        bottom, height = self._places.level_bottom(level), self._places.level_height
        self._canvas.frame(bottom, height, MARGIN + PAD, "white")
        if isinstance(block, _Mixtures):
            self._label(bottom + height, "branches", "HedgedBlock", block.name)
        else:
            self._label(bottom + height, f"level {level + 1}", "CGCBlock", block.name)
        for stream in block._wiring.streams:
            self._draw_experts(block, stream, bottom, sources.get(stream))
        for gate in block.gate_experts:
            self._draw_gate(block, gate, bottom)
        y = bottom + height - PAD - GATE_HEIGHT / 2
        has_gates = not isinstance(block, _Mixtures)
        if has_gates and block.num_shared_experts and SHARED not in block.gate_experts:
            self._canvas.text((self._stream_x(SHARED), y), "no shared gate", SMALL_SIZE, NOTE_COLOR)
        return {gate: (self._stream_x(gate), y + GATE_HEIGHT / 2) for gate in block.gate_experts}

    def _draw_experts(
        self, block: CGCBlock, stream: str, bottom: float, source: Point | None
    ) -> None:
        """Draw a stream's experts, and lines to them from the stream."""
        column, branch = self._places.columns[stream], self._branch_point(stream, bottom)
        size = (column.expert_width, self._places.expert_height)
        y = bottom + self._places.branch_height
        count = _count_experts(block, stream)
        if source and (count or block.gate_reads != CONTEXT):
            self._canvas.line(source, branch, color=column.color, arrow=False)
        for index, x in enumerate(column.expert_xs(count)):
            self._canvas.line(branch, (x, y), color=column.color)
            self._canvas.box(
                (x, y + size[1] / 2),
                size,
                _expert_text(block, stream, index),
                column.color,
                LIGHT_FILL,
            )

    def _draw_gate(self, block: CGCBlock, gate: str, bottom: float) -> None:
        """Draw a gate, and lines to it from the experts that it mixes and from its own stream."""
        column = self._places.columns[gate]
        lane = column.lane_x(_count_experts(block, gate))
        experts_bottom = bottom + self._places.branch_height
        experts_top = experts_bottom + self._places.expert_height
        gate_bottom = experts_top + self._places.mix_height
        inputs = self._gate_inputs(block, gate)
        upright = [index for index, (_, stream) in enumerate(inputs) if stream in (gate, "")]
        upright = upright or list(range(len(inputs)))
        ports = column.port_xs(len(inputs), middle=sum(upright) / len(upright))
        for (x, stream), port in zip(inputs, ports):
            end = (port, gate_bottom)
            if stream:
                color = self._places.columns[stream].color
                is_stopped = stream != gate and any(block._wiring.stopped[gate])
                dash = DOTTED if is_stopped else SOLID
                self._canvas.line((x, experts_top), end, color=color, dash=dash)
            else:
                branch = self._branch_point(gate, bottom)
                points = (branch, (lane, experts_bottom), (lane, experts_top), end)
                self._canvas.line(*points, color=column.color, dash=DASHED)
        center, size = (column.x, gate_bottom + GATE_HEIGHT / 2), (column.gate_width, GATE_HEIGHT)
        self._canvas.box(
            center, size, _gate_text(gate, block), column.color, STRONG_FILL, radius=GATE_HEIGHT / 2
        )
        if _gate_reads(block) in (CONTEXT, "both"):
            self._draw_context(column, center)

    def _draw_context(self, column: _Column, gate: Point) -> None:
        """Draw the context that a gate reads, next to the gate."""
        edge = gate[0] + column.outside * column.gate_width / 2
        start = (edge + column.outside * CONTEXT_LINE, gate[1])
        self._canvas.line(start, (edge, gate[1]), color=column.color, dash=DASHED)
        side = "left" if column.outside > 0 else "right"
        self._canvas.text(start, CONTEXT, SMALL_SIZE, NOTE_COLOR, ha=side)

    def _gate_inputs(self, block: CGCBlock, gate: str) -> list[tuple[float, str]]:
        """Return the x and stream of each input line, from left to right; "" is the gate input."""
        streams = {expert.partition("/")[0] for expert in block.gate_experts[gate]}
        columns = self._places.columns
        experts = [
            (x, stream)
            for stream in streams
            for x in columns[stream].expert_xs(_count_experts(block, stream))
        ]
        lane = [(columns[gate].lane_x(_count_experts(block, gate)), "")]
        return sorted([*experts, *(lane if _gate_reads(block) in ("stream", "both") else [])])

    def _draw_outputs(self, sources: Mapping[str, Point]) -> None:
        y = self._places.outputs_y
        for stream, source in sources.items():
            color = self._places.columns[stream].color
            self._canvas.line(source, (source[0], y - 0.1), color=color)
            self._canvas.text((source[0], y), stream)

    def _draw_legend(self) -> None:
        is_isolated = any(block._wiring.is_isolated for block in self._blocks)
        reads = [_gate_reads(block) for block in self._blocks]
        gate_inputs = {GATE_LEGENDS[each]: DASHED for each in reads if each}
        legend = {**LEGEND, **gate_inputs, **(STOPPED if is_isolated else {})}
        left = (self.size[0] - LEGEND_LINE - PAD - max(map(text_width, legend))) / 2
        for row, (text, dash) in enumerate(legend.items()):
            y = LEGEND_HEIGHT - (row + 0.5) * LEGEND_HEIGHT / len(legend)
            ends = ((left, y), (left + LEGEND_LINE, y))
            self._canvas.line(*ends, color=TEXT_COLOR, arrow=False, dash=dash)
            self._canvas.text((left + LEGEND_LINE + PAD, y), text, SMALL_SIZE, ha="left")

    def _label(self, top: float, title: str, *lines: str) -> None:
        """Draw the title of a frame, and monospaced lines below it."""
        x, y = MARGIN + 2 * PAD, top - PAD
        style = {"ha": "left", "va": "top"}
        self._canvas.text((x, y), title, TITLE_SIZE, weight="bold", **style)
        self._canvas.text((x, y - 0.17), "\n".join(lines), SMALL_SIZE, family="monospace", **style)

    def _branch_point(self, stream: str, bottom: float) -> Point:
        """Return where a stream branches to its experts and its gate."""
        return (self._stream_x(stream), bottom + 0.08)

    def _stream_x(self, stream: str) -> float:
        return self._places.columns[stream].x


def _count_experts(block: CGCBlock, stream: str) -> int:
    """Return the number of experts that read a stream."""
    return list(block._wiring.experts.values()).count(stream)


def _expert_text(block: CGCBlock, stream: str, index: int) -> str:
    """Return the text of an expert's box; long names are wrapped after "_" and "-".

    It ends with the expert's size if the streams have experts of different sizes.
    """
    lines = [""]
    for part in re.findall(r"[^_-]+[_-]*", stream):
        if lines[-1] and len(lines[-1] + part) > MAX_LINE_LETTERS:
            lines.append("")
        lines[-1] += part
    size = block._expert_templates.sizes().get(stream)
    return "\n".join([*lines, f"expert {index}", *([size] if size else [])])


def _gate_text(stream: str, block: CGCBlock) -> str:
    return f"{stream} {'mixture' if isinstance(block, _Mixtures) else 'gate'}"


def _label_width(blocks: Sequence[CGCBlock], title: str) -> float:
    """Return the width of the names of frames, to the left of the streams."""
    names = [text_width(block.name, SMALL_SIZE, family="monospace") for block in blocks]
    return max(0.8, text_width(title or "-", TITLE_SIZE, weight="bold"), *names)
