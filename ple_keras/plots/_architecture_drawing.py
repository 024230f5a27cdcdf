"""Draws a block's experts, gates and streams."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes

from ple_keras._checks import SHARED
from ple_keras.layers.cgc_block import CGCBlock
from ple_keras.plots._architecture_layout import (
    GATE_HEIGHT,
    INPUT_HEIGHT,
    LEGEND_HEIGHT,
    MARGIN,
    PAD,
    Layout,
    count_experts,
    expert_text,
    gate_text,
    streams_of,
)
from ple_keras.plots._canvas import FRAME, INK, NOTE, SMALL, TITLE, Canvas, Point, text_width

PALE, STRONG = 0.14, 0.42  # how much of its color a box is filled with
GROUND = "#F4F4F4"
LEGEND = {
    "features; into a gate: the experts that it mixes": False,
    "what a gate reads to weigh them: its own stream": True,
}
SAMPLE = 0.36  # length of a line in the legend


class Picture:
    """A picture of levels.

    Args:
        blocks: The levels, from the first.
        title: What the frame around them is called; without one there is no frame.
    """

    def __init__(self, blocks: Sequence[CGCBlock], title: str) -> None:
        self._blocks = blocks
        self._title = title
        self._places = Layout(blocks, title)
        self.size = (self._places.width, self._places.height)

    def draw(self, ax: Axes) -> None:
        """Draw the picture, as large as `ax` lets it be."""
        self._canvas = Canvas(ax, self.size)
        if self._title:
            layout = self._places
            self._canvas.frame(layout.bottom, layout.top - layout.bottom, MARGIN, GROUND)
            self._label(layout.top, self._title)
        streams = self._draw_inputs()
        for level, block in enumerate(self._blocks):
            streams = self._draw_level(level, block, streams)
        self._draw_outputs(streams)
        self._draw_legend()

    def _draw_inputs(self) -> dict[str, Point]:
        """The input; returns where each stream leaves it."""
        columns, y = self._places.columns, self._places.inputs_y
        read = {stream: columns[stream] for stream in streams_of(self._blocks[0])}
        left = min(column.x - column.gate_width / 2 for column in read.values())
        right = max(column.x + column.gate_width / 2 for column in read.values())
        at, size = ((left + right) / 2, y), (right - left, INPUT_HEIGHT)
        self._canvas.box(at, size, "input of every stream", FRAME, PALE)
        return {stream: (column.x, y + INPUT_HEIGHT / 2) for stream, column in read.items()}

    def _draw_level(
        self, level: int, block: CGCBlock, sources: Mapping[str, Point]
    ) -> dict[str, Point]:
        """One level on the streams that it reads; returns where each stream leaves it."""
        bottom, height = self._places.level_bottom(level), self._places.level_height
        self._canvas.frame(bottom, height, MARGIN + PAD, "white")
        self._label(bottom + height, f"level {level + 1}", "CGCBlock", block.name)
        for stream in streams_of(block):
            self._draw_experts(block, stream, bottom, sources.get(stream))
        for gate in block.gate_experts:
            self._draw_gate(block, gate, bottom)
        y = bottom + height - PAD - GATE_HEIGHT / 2
        if block.num_shared_experts and SHARED not in block.gate_experts:
            self._canvas.text((self._x(SHARED), y), "no shared gate", SMALL, NOTE)
        return {gate: (self._x(gate), y + GATE_HEIGHT / 2) for gate in block.gate_experts}

    def _draw_experts(
        self, block: CGCBlock, stream: str, bottom: float, source: Point | None
    ) -> None:
        """A stream's experts, fed by the stream."""
        column, fork = self._places.columns[stream], self._fork(stream, bottom)
        size = (column.expert_width, self._places.expert_height)
        y = bottom + self._places.fork
        if source:
            self._canvas.line(source, fork, color=column.color, arrow=False)
        for index, x in enumerate(column.expert_xs(count_experts(block, stream))):
            self._canvas.line(fork, (x, y), color=column.color)
            self._canvas.box(
                (x, y + size[1] / 2), size, expert_text(stream, index), column.color, PALE
            )

    def _draw_gate(self, block: CGCBlock, gate: str, bottom: float) -> None:
        """A gate, the experts that it mixes, and its own stream, which it reads."""
        column = self._places.columns[gate]
        lane = column.lane_x(count_experts(block, gate))
        experts_bottom = bottom + self._places.fork
        experts_top = experts_bottom + self._places.expert_height
        gate_bottom = experts_top + self._places.mix
        inputs = self._gate_inputs(block, gate)
        own = [index for index, (_, stream) in enumerate(inputs) if stream in (gate, "")]
        ports = column.port_xs(len(inputs), middle=sum(own) / len(own))
        for (x, stream), port in zip(inputs, ports):
            end = (port, gate_bottom)
            if stream:
                color = self._places.columns[stream].color
                self._canvas.line((x, experts_top), end, color=color)
            else:
                way = (self._fork(gate, bottom), (lane, experts_bottom), (lane, experts_top), end)
                self._canvas.line(*way, color=column.color, dashed=True)
        at, size = (column.x, gate_bottom + GATE_HEIGHT / 2), (column.gate_width, GATE_HEIGHT)
        self._canvas.box(at, size, gate_text(gate), column.color, STRONG, radius=GATE_HEIGHT / 2)

    def _gate_inputs(self, block: CGCBlock, gate: str) -> list[tuple[float, str]]:
        """From left to right, the experts of streams that a gate mixes; "" is what it reads."""
        seen = {expert.partition("/")[0] for expert in block.gate_experts[gate]}
        columns = self._places.columns
        experts = [
            (x, stream)
            for stream in seen
            for x in columns[stream].expert_xs(count_experts(block, stream))
        ]
        return sorted([*experts, (columns[gate].lane_x(count_experts(block, gate)), "")])

    def _draw_outputs(self, sources: Mapping[str, Point]) -> None:
        y = self._places.outputs_y
        for stream, source in sources.items():
            color = self._places.columns[stream].color
            self._canvas.line(source, (source[0], y - 0.1), color=color)
            self._canvas.text((source[0], y), stream)

    def _draw_legend(self) -> None:
        left = (self.size[0] - SAMPLE - PAD - max(map(text_width, LEGEND))) / 2
        for row, (text, dashed) in enumerate(LEGEND.items()):
            y = LEGEND_HEIGHT - (row + 0.5) * LEGEND_HEIGHT / len(LEGEND)
            ends = ((left, y), (left + SAMPLE, y))
            self._canvas.line(*ends, color=INK, arrow=False, dashed=dashed)
            self._canvas.text((left + SAMPLE + PAD, y), text, SMALL, ha="left")

    def _label(self, top: float, title: str, *lines: str) -> None:
        """The name of a frame, and lines of code under it."""
        x, y = MARGIN + 2 * PAD, top - PAD
        style = {"ha": "left", "va": "top"}
        self._canvas.text((x, y), title, TITLE, weight="bold", **style)
        self._canvas.text((x, y - 0.17), "\n".join(lines), SMALL, family="monospace", **style)

    def _fork(self, stream: str, bottom: float) -> Point:
        """Where a stream parts for its experts and its gate."""
        return (self._x(stream), bottom + 0.08)

    def _x(self, stream: str) -> float:
        return self._places.columns[stream].x
