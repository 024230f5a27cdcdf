"""Layout of an architecture plot. Lengths are in inches, from the lower left corner."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ple_keras._checks import SHARED
from ple_keras.layers.cgc_block import CGCBlock
from ple_keras.plots._canvas import SMALL_SIZE, TITLE_SIZE, text_width

# Colors of Okabe and Ito, distinct for color-blind readers; green is for the shared stream.
TASK_COLORS = ("#0072B2", "#D55E00", "#CC79A7", "#E69F00", "#56B4E9")
SHARED_COLOR = "#009E73"
MARGIN, PAD = 0.08, 0.12  # around the plot, and between a frame and its content
COLUMN_GAP, EXPERT_GAP = 0.26, 0.2
MIN_EXPERT_WIDTH, MIN_GATE_WIDTH = 0.8, 1.44
GATE_HEIGHT, INPUT_HEIGHT = 0.32, 0.3
TEXT_LINE, TEXT_MARGIN = 0.155, 0.13  # height of a line; space above and below a text
CONTEXT, CONTEXT_LINE = "context", 0.24  # the text beside a gate, and the line from it
PORT_PITCH, PORT_MARGIN = 0.2, 0.12  # between lines into a gate, and beside them
LEVEL_GAP = 0.32
LEGEND_HEIGHT, MIN_WIDTH = 0.44, 3.7  # the width has room for the legend
MAX_LINE_LETTERS = 16  # of a task's name in an expert's box


@dataclass(frozen=True)
class Column:
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


class Layout:
    """Columns for the streams, with the shared stream in the middle, and rows for the levels.

    Attributes:
        columns: The streams' columns, from left to right.
        expert_height: The height of an expert.
        branch_height: The height between the bottom of a level and its experts.
        mix_height: The height between the experts and the gates.
        width, height: The size of the plot.
    """

    def __init__(self, blocks: Sequence[CGCBlock], title: str) -> None:
        self._num_levels = len(blocks)
        streams = list(dict.fromkeys(stream for block in blocks for stream in streams_of(block)))
        self.columns: dict[str, Column] = {}
        right = MARGIN + 3 * PAD + _label_width(blocks, title)
        for stream in _order_streams(streams):
            right = self._add_column(stream, streams, blocks, right)
        self.width = max(right + PAD + MARGIN, MIN_WIDTH)
        lines = max(expert_text(stream, 0).count("\n") + 1 for stream in streams)
        self.expert_height = lines * TEXT_LINE + TEXT_MARGIN
        self.branch_height = 0.2 + 0.05 * max(column.experts for column in self.columns.values())
        self.mix_height = max(0.5, 0.3 + 0.18 * self._max_line_width())
        self.height = self.outputs_y + 0.2

    def _add_column(
        self, stream: str, streams: Sequence[str], blocks: Sequence[CGCBlock], left: float
    ) -> float:
        """Add a stream's column at the right; return its right edge."""
        experts = max(count_experts(block, stream) for block in blocks)
        ports = max(len(block.gate_experts.get(stream, ())) + 1 for block in blocks)
        reads_context = any(block.gate_reads != "stream" for block in blocks)
        texts = expert_text(stream, experts).split("\n")
        expert_width = max(MIN_EXPERT_WIDTH, *(text_width(text) + TEXT_MARGIN for text in texts))
        gate_width = max(
            MIN_GATE_WIDTH,
            text_width(gate_text(stream)) + GATE_HEIGHT,
            (ports - 1) * PORT_PITCH + 2 * PORT_MARGIN,
        )
        experts_width = experts * (expert_width + EXPERT_GAP) - EXPERT_GAP
        beside_gate = 2 * (CONTEXT_LINE + text_width(CONTEXT, SMALL_SIZE)) if reads_context else 0
        width = COLUMN_GAP + max(gate_width + beside_gate, experts_width)
        self.columns[stream] = Column(
            x=left + width / 2,
            color=_color(stream, streams),
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

    @property
    def inputs_y(self) -> float:
        return LEGEND_HEIGHT + PAD + INPUT_HEIGHT / 2

    @property
    def bottom(self) -> float:
        """Bottom of the frame around the levels."""
        return self.inputs_y + INPUT_HEIGHT / 2 + LEVEL_GAP

    @property
    def top(self) -> float:
        """Top of the frame around the levels."""
        return self.level_bottom(self._num_levels)

    @property
    def outputs_y(self) -> float:
        return self.top + LEVEL_GAP + 0.1

    @property
    def level_height(self) -> float:
        return self.branch_height + self.expert_height + self.mix_height + GATE_HEIGHT + PAD

    def level_bottom(self, level: int) -> float:
        return self.bottom + PAD + level * (self.level_height + LEVEL_GAP)


def streams_of(block: CGCBlock) -> list[str]:
    """Return the streams that a level reads."""
    return block._wiring.streams


def count_experts(block: CGCBlock, stream: str) -> int:
    """Return the number of experts that read a stream."""
    if stream == SHARED:
        return block.num_shared_experts
    return block.num_task_experts.get(stream, 0)


def expert_text(stream: str, index: int) -> str:
    """Return the text of an expert's box; long names are wrapped after "_" and "-"."""
    lines = [""]
    for part in re.findall(r"[^_-]+[_-]*", stream):
        if lines[-1] and len(lines[-1] + part) > MAX_LINE_LETTERS:
            lines.append("")
        lines[-1] += part
    return "\n".join([*lines, f"expert {index}"])


def gate_text(stream: str) -> str:
    return f"{stream} gate"


def _order_streams(streams: Sequence[str]) -> list[str]:
    """Return the streams with the shared stream in the middle."""
    tasks = [stream for stream in streams if stream != SHARED]
    half = (len(tasks) + 1) // 2
    return [*tasks[:half], *(x for x in streams if x == SHARED), *tasks[half:]]


def _color(stream: str, streams: Sequence[str]) -> str:
    if stream == SHARED:
        return SHARED_COLOR
    tasks = [name for name in streams if name != SHARED]
    return TASK_COLORS[tasks.index(stream) % len(TASK_COLORS)]


def _label_width(blocks: Sequence[CGCBlock], title: str) -> float:
    """Return the width of the names of frames, to the left of the streams."""
    names = [text_width(block.name, SMALL_SIZE, family="monospace") for block in blocks]
    return max(0.8, text_width(title or "-", TITLE_SIZE, weight="bold"), *names)
