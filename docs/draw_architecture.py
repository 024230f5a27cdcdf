"""Draws architecture.png, the README's picture: PLE with two tasks and two levels.

    python docs/draw_architecture.py

Lengths are inches, font sizes points. What is drawn at a point has its middle there.
"""

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch
from PIL import Image

Point = Size = tuple[float, float]

STREAMS = ("click", "shared", "buy")  # columns, from left to right
TASKS = ("click", "buy")
COLORS = {"click": "#0072B2", "shared": "#009E73", "buy": "#D55E00"}  # Okabe and Ito
INK, NOTE, FRAME, GROUND = "#222222", "#555555", "#8A8A8A", "#F4F4F4"
PALE, STRONG = 0.14, 0.42  # how much of its color a box is filled with
NUM_LEVELS, NUM_EXPERTS = 2, 2

WIDTH, MARGIN, DPI = 8.0, 0.08, 200
PAD = 0.12  # from a frame to what is in it
LABELS = 1.3  # width of the column of labels
COLUMN = (WIDTH - 2 * MARGIN - 3 * PAD - LABELS) / len(STREAMS)
EXPERT_PITCH, PORT_PITCH = 1.0, 0.2  # between a stream's experts, and between lines into a gate
EXPERT, GATE, HEAD = (0.8, 0.44), (1.44, 0.32), (1.44, 0.3)  # (width, height)
TRUNK = 0.32  # a stream between two levels
FORK = 0.3  # where a stream parts for its experts and its gate
MIX = 0.75  # where the gates gather the experts
TEXT, SMALL, LINE, ROUND = 8.5, 8.0, 1.1, 0.05
CENTER = {"ha": "center", "va": "center"}
ARROW = "-|>,head_length=0.35,head_width=0.16"
DASHES = (0, (3, 2))
NO_GATE = "no shared gate\nin the last level"

LEVEL_HEIGHT = FORK + EXPERT[1] + MIX + GATE[1] + PAD
HEADS_HEIGHT = 2 * HEAD[1] + 0.2 + 2 * PAD
INPUT_Y = 0.58
PLE_Y = INPUT_Y + HEAD[1] / 2 + TRUNK
LEVEL_Y = [PLE_Y + PAD + level * (LEVEL_HEIGHT + TRUNK) for level in range(NUM_LEVELS)]
PLE_TOP = LEVEL_Y[-1] + LEVEL_HEIGHT + TRUNK
HEADS_Y = PLE_TOP + TRUNK / 2
OUTPUT_Y = HEADS_Y + HEADS_HEIGHT + TRUNK + 0.1
HEIGHT = OUTPUT_Y + 0.2


def column_x(stream: str) -> float:
    """The middle of a stream's column."""
    return MARGIN + PAD + LABELS + (STREAMS.index(stream) + 0.5) * COLUMN


def expert_xs(stream: str) -> list[float]:
    """The middles of a stream's experts."""
    first = column_x(stream) - EXPERT_PITCH * (NUM_EXPERTS - 1) / 2
    return [first + EXPERT_PITCH * index for index in range(NUM_EXPERTS)]


def seen_by(gate: str) -> list[str]:
    """The streams whose experts a gate mixes, from left to right."""
    return list(STREAMS) if gate == "shared" else [s for s in STREAMS if s in (gate, "shared")]


def tint(color: str, strength: float) -> tuple[float, ...]:
    """A color mixed with white."""
    return tuple(1 - strength * (1 - channel) for channel in to_rgb(color))


def patch(ax: Axes, corner: Point, size: Size, radius: float, **style: Any) -> None:
    """A rectangle with round corners."""
    ax.add_patch(FancyBboxPatch(corner, *size, f"round,pad=0,rounding_size={radius}", **style))


def box(ax: Axes, at: Point, size: Size, text: str, color: str, fill: float, radius: float) -> None:
    """A box with a text in it."""
    corner = (at[0] - size[0] / 2, at[1] - size[1] / 2)
    patch(ax, corner, size, radius, fc=tint(color, fill), ec=color, lw=LINE, zorder=3)
    ax.text(*at, text, color=INK, fontsize=TEXT, **CENTER, zorder=4)


def frame(ax: Axes, bottom: float, height: float, face: str, inset: float = 0) -> None:
    """A frame behind boxes and lines, as wide as the picture."""
    left = MARGIN + inset
    patch(ax, (left, bottom), (WIDTH - 2 * left, height), ROUND, fc=face, ec=FRAME, lw=0.8)


def label(ax: Axes, y: float, title: str, *lines: str) -> None:
    """A title, and lines of code under it, in the column of labels; y is their top."""
    x = MARGIN + 2 * PAD
    ax.text(x, y, title, color=INK, fontsize=TEXT + 0.5, weight="bold", va="top")
    code = "\n".join(lines)
    ax.text(x, y - 0.17, code, color=INK, fontsize=SMALL, va="top", family="monospace")


def line(ax: Axes, start: Point, end: Point, color: str, arrow: str = ARROW, ls: Any = "-") -> None:
    """A straight line, on which features go from start to end."""
    style = {"arrowstyle": arrow, "color": color, "lw": LINE, "ls": ls, "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", end, start, arrowprops=style, zorder=2)


def draw_experts(ax: Axes, stream: str, source: Point, fork_y: float, y: float) -> None:
    """A stream's experts, fed by the stream."""
    fork, color = (source[0], fork_y), COLORS[stream]
    line(ax, source, fork, color, arrow="-")
    for index, x in enumerate(expert_xs(stream)):
        line(ax, fork, (x, y - EXPERT[1] / 2), color)
        box(ax, (x, y), EXPERT, f"{stream}\nexpert {index}", color, PALE, ROUND)


def draw_gate(ax: Axes, gate: str, fork_y: float, experts_y: float, y: float) -> None:
    """A gate, its own stream, which it reads, and the experts that it mixes."""
    middle, bottom = column_x(gate), y - GATE[1] / 2
    experts = [(x, stream) for stream in seen_by(gate) for x in expert_xs(stream)]
    inputs = sorted([*experts, (middle, "")])
    for index, (x, stream) in enumerate(inputs, start=-inputs.index((middle, ""))):
        start = (x, experts_y + EXPERT[1] / 2 if stream else fork_y)
        port = (middle + PORT_PITCH * index, bottom)
        line(ax, start, port, COLORS[stream or gate], ls="-" if stream else DASHES)
    box(ax, (middle, y), GATE, f"{gate} gate", COLORS[gate], STRONG, GATE[1] / 2)


def draw_level(ax: Axes, level: int, sources: Mapping[str, Point]) -> dict[str, Point]:
    """One CGCBlock on the streams that it reads; returns the streams that it makes."""
    bottom, is_last = LEVEL_Y[level], level == NUM_LEVELS - 1
    frame(ax, bottom, LEVEL_HEIGHT, "white", inset=PAD)
    label(ax, bottom + LEVEL_HEIGHT - PAD, f"level {level + 1}", "CGCBlock", f"cgc_block_{level}")
    fork_y, experts_y = bottom + FORK / 4, bottom + FORK + EXPERT[1] / 2
    gates_y = bottom + LEVEL_HEIGHT - PAD - GATE[1] / 2
    for stream in STREAMS:
        draw_experts(ax, stream, sources[stream], fork_y, experts_y)
    for gate in (gates := TASKS if is_last else STREAMS):
        draw_gate(ax, gate, fork_y, experts_y, gates_y)
    if is_last:
        ax.text(column_x("shared"), gates_y, NO_GATE, color=NOTE, fontsize=SMALL, **CENTER)
    return {gate: (column_x(gate), gates_y + GATE[1] / 2) for gate in gates}


def draw_head(ax: Axes, task: str, source: Point) -> None:
    """A task's head, from its features to its prediction."""
    x, color, half = source[0], COLORS[task], HEAD[1] / 2
    tower, dense = HEADS_Y + PAD + half, HEADS_Y + HEADS_HEIGHT - PAD - half
    line(ax, source, (x, tower - half), color)
    box(ax, (x, tower), HEAD, f"{task} tower", color, PALE, ROUND)
    line(ax, (x, tower + half), (x, dense - half), color)
    box(ax, (x, dense), HEAD, "Dense, sigmoid", color, PALE, ROUND)
    line(ax, (x, dense + half), (x, OUTPUT_Y - half), color)
    ax.text(x, OUTPUT_Y, f"$y_{{\\mathrm{{{task}}}}}$", color=INK, fontsize=12, **CENTER)


def draw_input(ax: Axes) -> dict[str, Point]:
    """The input, as wide as all streams; returns the stream that each column reads."""
    size = ((len(STREAMS) - 1) * COLUMN + GATE[0], HEAD[1])
    box(
        ax, (column_x("shared"), INPUT_Y), size, "input x, read by every stream", FRAME, PALE, ROUND
    )
    return {stream: (column_x(stream), INPUT_Y + size[1] / 2) for stream in STREAMS}


def draw_legend(ax: Axes) -> None:
    """What solid and dashed lines mean."""
    texts = {
        "-": "features; into a gate: the experts that it mixes",
        DASHES: "what a gate reads to weigh them: its own stream",
    }
    lines = [Line2D([], [], color=INK, lw=LINE, ls=ls, label=text) for ls, text in texts.items()]
    place = {"loc": "lower center", "bbox_to_anchor": (0.5, 0), "borderaxespad": 0.3}
    ax.legend(handles=lines, ncols=2, fontsize=SMALL, frameon=False, handlelength=2.6, **place)


def draw() -> Figure:
    """The whole picture."""
    figure = Figure(figsize=(WIDTH, HEIGHT), facecolor="white")
    ax = figure.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(0, HEIGHT))
    ax.axis("off")
    frame(ax, PLE_Y, PLE_TOP - PLE_Y, GROUND)
    label(ax, PLE_TOP - PAD, "PLEBlock")
    frame(ax, HEADS_Y, HEADS_HEIGHT, GROUND)
    heads = [f'BinaryHead("{task}")' for task in TASKS]
    label(ax, HEADS_Y + HEADS_HEIGHT - PAD, "TaskHeads", *heads)
    streams = draw_input(ax)
    for level in range(NUM_LEVELS):
        streams = draw_level(ax, level, streams)
    for task in TASKS:
        draw_head(ax, task, streams[task])
    draw_legend(ax)
    return figure


def save(figure: Figure, path: Path) -> None:
    """A small PNG, the same for the same drawing."""
    png = BytesIO()
    figure.savefig(png, format="png", dpi=DPI, metadata={"Software": None})
    image = Image.open(png).convert("RGB").quantize(128, dither=Image.Dither.NONE)
    image.save(path, optimize=True, dpi=(DPI, DPI))


if __name__ == "__main__":
    save(draw(), Path(__file__).with_name("architecture.png"))
