"""A drawing of a block's experts, gates and streams."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes

from ple_keras._checks import SHARED
from ple_keras.layers.cgc_block import CGCBlock
from ple_keras.plots._architecture_layout import (
    CONTEXT,
    CONTEXT_LINE,
    GATE_HEIGHT,
    INPUT_HEIGHT,
    LEGEND_HEIGHT,
    MARGIN,
    PAD,
    Column,
    Layout,
    count_experts,
    expert_text,
    gate_text,
    streams_of,
)
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
    text_width,
)

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


class ArchitectureDrawing:
    """Drawing of a stack of levels.

    Args:
        blocks: The levels, from the first.
        title: The title of the frame around the levels; "" for no frame.
    """

    def __init__(self, blocks: Sequence[CGCBlock], title: str) -> None:
        self._blocks = blocks
        self._title = title
        self._box_layout = Layout(blocks, title)
        self.size = (self._box_layout.width, self._box_layout.height)

    def draw(self, ax: Axes) -> None:
        """Draw the levels, scaled to the size of `ax`."""
        self._canvas = Canvas(ax, self.size)
        if self._title:
            bottom, top = self._box_layout.bottom, self._box_layout.top
            self._canvas.frame(bottom, top - bottom, MARGIN, BACKGROUND)
            self._label(top, self._title)
        streams = self._draw_inputs()
        for level, block in enumerate(self._blocks):
            streams = self._draw_level(level, block, streams)
        self._draw_outputs(streams)
        self._draw_legend()

    def _draw_inputs(self) -> dict[str, Point]:
        """Draw the input; return where each stream leaves it."""
        columns, y = self._box_layout.columns, self._box_layout.inputs_y
        inputs = {stream: columns[stream] for stream in streams_of(self._blocks[0])}
        left = min(column.x - column.gate_width / 2 for column in inputs.values())
        right = max(column.x + column.gate_width / 2 for column in inputs.values())
        center, size = ((left + right) / 2, y), (right - left, INPUT_HEIGHT)
        self._canvas.box(center, size, "input of every stream", FRAME_COLOR, LIGHT_FILL)
        return {stream: (column.x, y + INPUT_HEIGHT / 2) for stream, column in inputs.items()}

    def _draw_level(
        self, level: int, block: CGCBlock, sources: Mapping[str, Point]
    ) -> dict[str, Point]:
        """Draw a level above the streams that it reads; return where each stream leaves it."""
        bottom, height = self._box_layout.level_bottom(level), self._box_layout.level_height
        self._canvas.frame(bottom, height, MARGIN + PAD, "white")
        self._label(bottom + height, f"level {level + 1}", "CGCBlock", block.name)
        for stream in streams_of(block):
            self._draw_experts(block, stream, bottom, sources.get(stream))
        for gate in block.gate_experts:
            self._draw_gate(block, gate, bottom)
        y = bottom + height - PAD - GATE_HEIGHT / 2
        if block.num_shared_experts and SHARED not in block.gate_experts:
            self._canvas.text((self._stream_x(SHARED), y), "no shared gate", SMALL_SIZE, NOTE_COLOR)
        return {gate: (self._stream_x(gate), y + GATE_HEIGHT / 2) for gate in block.gate_experts}

    def _draw_experts(
        self, block: CGCBlock, stream: str, bottom: float, source: Point | None
    ) -> None:
        """Draw a stream's experts, and lines to them from the stream."""
        column, branch = self._box_layout.columns[stream], self._branch_point(stream, bottom)
        size = (column.expert_width, self._box_layout.expert_height)
        y = bottom + self._box_layout.branch_height
        count = count_experts(block, stream)
        if source and (count or block.gate_reads != CONTEXT):
            self._canvas.line(source, branch, color=column.color, arrow=False)
        for index, x in enumerate(column.expert_xs(count)):
            self._canvas.line(branch, (x, y), color=column.color)
            self._canvas.box(
                (x, y + size[1] / 2), size, expert_text(stream, index), column.color, LIGHT_FILL
            )

    def _draw_gate(self, block: CGCBlock, gate: str, bottom: float) -> None:
        """Draw a gate, and lines to it from the experts that it mixes and from its own stream."""
        column = self._box_layout.columns[gate]
        lane = column.lane_x(count_experts(block, gate))
        experts_bottom = bottom + self._box_layout.branch_height
        experts_top = experts_bottom + self._box_layout.expert_height
        gate_bottom = experts_top + self._box_layout.mix_height
        inputs = self._gate_inputs(block, gate)
        own = [index for index, (_, stream) in enumerate(inputs) if stream in (gate, "")]
        own = own or list(range(len(inputs)))
        ports = column.port_xs(len(inputs), middle=sum(own) / len(own))
        for (x, stream), port in zip(inputs, ports):
            end = (port, gate_bottom)
            if stream:
                color = self._box_layout.columns[stream].color
                is_stopped = stream != gate and any(block._wiring.stopped[gate])
                dash = DOTTED if is_stopped else SOLID
                self._canvas.line((x, experts_top), end, color=color, dash=dash)
            else:
                branch = self._branch_point(gate, bottom)
                points = (branch, (lane, experts_bottom), (lane, experts_top), end)
                self._canvas.line(*points, color=column.color, dash=DASHED)
        center, size = (column.x, gate_bottom + GATE_HEIGHT / 2), (column.gate_width, GATE_HEIGHT)
        self._canvas.box(
            center, size, gate_text(gate), column.color, STRONG_FILL, radius=GATE_HEIGHT / 2
        )
        if block.gate_reads != "stream":
            self._draw_context(column, center)

    def _draw_context(self, column: Column, gate: Point) -> None:
        """Draw the context that a gate reads, beside the gate."""
        edge = gate[0] + column.outside * column.gate_width / 2
        start = (edge + column.outside * CONTEXT_LINE, gate[1])
        self._canvas.line(start, (edge, gate[1]), color=column.color, dash=DASHED)
        side = "left" if column.outside > 0 else "right"
        self._canvas.text(start, CONTEXT, SMALL_SIZE, NOTE_COLOR, ha=side)

    def _gate_inputs(self, block: CGCBlock, gate: str) -> list[tuple[float, str]]:
        """Return the x and stream of each input line, from left to right; "" is the gate input."""
        streams = {expert.partition("/")[0] for expert in block.gate_experts[gate]}
        columns = self._box_layout.columns
        experts = [
            (x, stream)
            for stream in streams
            for x in columns[stream].expert_xs(count_experts(block, stream))
        ]
        lane = [(columns[gate].lane_x(count_experts(block, gate)), "")]
        return sorted([*experts, *(lane if block.gate_reads != CONTEXT else [])])

    def _draw_outputs(self, sources: Mapping[str, Point]) -> None:
        y = self._box_layout.outputs_y
        for stream, source in sources.items():
            color = self._box_layout.columns[stream].color
            self._canvas.line(source, (source[0], y - 0.1), color=color)
            self._canvas.text((source[0], y), stream)

    def _draw_legend(self) -> None:
        is_isolated = any(block._wiring.is_isolated for block in self._blocks)
        gate_inputs = {GATE_LEGENDS[block.gate_reads]: DASHED for block in self._blocks}
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
        return self._box_layout.columns[stream].x
