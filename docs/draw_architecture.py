"""Draws architecture.png, the README's picture: PLE with two tasks and two levels.

    python docs/draw_architecture.py

Lengths are inches, font sizes points. A node is the point (x, y) at the centre of its box.
"""

from collections.abc import Mapping
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch

Point = tuple[float, float]

STREAMS = ("click", "shared", "buy")  # columns, from left to right
TASKS = ("click", "buy")
COLORS = {"click": "#0072B2", "shared": "#009E73", "buy": "#D55E00"}  # Okabe and Ito
INK, FRAME = "#222222", "#8A8A8A"
NUM_LEVELS, NUM_EXPERTS = 2, 2

WIDTH, MARGIN, DPI = 8.0, 0.08, 200
LABELS, COLUMN = 1.3, 2.15  # width of the column of labels, and of a stream
EXPERT_PITCH = 1.04  # from an expert to the next one of its stream
EXPERT, GATE, HEAD = (0.8, 0.44), (1.44, 0.32), (1.44, 0.3)  # (width, height)
PAD = 0.12  # from a frame to what is in it
TRUNK = 0.32  # a stream between two levels
FORK = 0.3  # where a stream parts for its experts and its gate
MIX = 0.8  # where the gates gather the experts
TEXT, SMALL = 8.5, 8.0

LEVEL_HEIGHT = FORK + EXPERT[1] + MIX + GATE[1] + PAD
HEADS_HEIGHT = 0.26 + 3 * PAD + 2 * HEAD[1] + 2 * PAD
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


def box(
    ax: Axes, at: Point, size: Point, text: str, color: str, strength: float, round_: float = 0.05
) -> None:
    """A labelled box around a point."""
    corner = (at[0] - size[0] / 2, at[1] - size[1] / 2)
    style = f"round,pad=0,rounding_size={round_}"
    face = tint(color, strength)
    ax.add_patch(FancyBboxPatch(corner, *size, style, fc=face, ec=color, lw=1.1, zorder=3))
    ax.text(*at, text, color=INK, fontsize=TEXT, ha="center", va="center", zorder=4)


def frame(ax: Axes, left: float, right: float, bottom: float, height: float, face: str) -> None:
    """A frame behind boxes and lines."""
    style = "round,pad=0,rounding_size=0.06"
    at = (left, bottom)
    ax.add_patch(FancyBboxPatch(at, right - left, height, style, fc=face, ec=FRAME, lw=0.8))


def label(ax: Axes, y: float, title: str, *lines: str) -> None:
    """A title, and lines of code under it, in the column of labels; y is their top."""
    x = MARGIN + 2 * PAD
    ax.text(x, y, title, color=INK, fontsize=TEXT + 0.5, weight="bold", va="top")
    for number, line in enumerate(lines, start=1):
        ax.text(x, y - 0.17 * number, line, color=INK, fontsize=SMALL, va="top", family="monospace")


def line(ax: Axes, start: Point, end: Point, color: str, arrow: bool = True) -> None:
    """Features on their way."""
    style = "-|>,head_length=0.35,head_width=0.16" if arrow else "-"
    props = {"arrowstyle": style, "color": color, "lw": 1.1, "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", end, start, arrowprops=props, zorder=2)


def reads(ax: Axes, start: Point, end: Point, color: str) -> None:
    """What a gate reads to decide on its weights."""
    props = {"arrowstyle": "-|>,head_length=0.35,head_width=0.16", "color": color, "lw": 1.0}
    props |= {"linestyle": (0, (3, 2)), "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", end, start, arrowprops=props, zorder=2)


def draw_experts(ax: Axes, stream: str, source: Point, y: float) -> None:
    """A stream's experts, fed by the stream."""
    fork = (source[0], y - EXPERT[1] / 2 - FORK * 0.75)
    line(ax, source, fork, COLORS[stream], arrow=False)
    for index, x in enumerate(expert_xs(stream)):
        line(ax, fork, (x, y - EXPERT[1] / 2), COLORS[stream])
        box(ax, (x, y), EXPERT, f"{stream}\nexpert {index}", COLORS[stream], 0.14)


def draw_gate(ax: Axes, gate: str, fork_y: float, experts_y: float, y: float) -> None:
    """A gate, the experts that it mixes, and its own stream, which it reads; sorted by x."""
    sources = [(x, stream) for stream in seen_by(gate) for x in expert_xs(stream)]
    ports = sorted([*sources, (column_x(gate), "")])
    step = GATE[0] / (len(ports) + 0.5)
    for index, (x, stream) in enumerate(ports):
        port = (column_x(gate) + step * (index - (len(ports) - 1) / 2), y - GATE[1] / 2)
        if stream:
            line(ax, (x, experts_y + EXPERT[1] / 2), port, COLORS[stream])
        else:
            reads(ax, (x, fork_y), port, COLORS[gate])
    box(ax, (column_x(gate), y), GATE, f"{gate} gate", COLORS[gate], 0.42, GATE[1] / 2)


def draw_level(ax: Axes, level: int, sources: Mapping[str, Point]) -> dict[str, Point]:
    """One CGCBlock on the streams that it reads; returns the streams that it makes."""
    bottom, is_last = LEVEL_Y[level], level == NUM_LEVELS - 1
    frame(ax, MARGIN + PAD, WIDTH - MARGIN - PAD, bottom, LEVEL_HEIGHT, "#FFFFFF")
    label(ax, bottom + LEVEL_HEIGHT - PAD, f"level {level + 1}", "CGCBlock", f"cgc_block_{level}")
    experts_y = bottom + FORK + EXPERT[1] / 2
    gates_y = bottom + LEVEL_HEIGHT - PAD - GATE[1] / 2
    for stream in STREAMS:
        draw_experts(ax, stream, sources[stream], experts_y)
    gates = TASKS if is_last else STREAMS
    for gate in gates:
        draw_gate(ax, gate, bottom + FORK * 0.25, experts_y, gates_y)
    if is_last:
        note = "no shared gate\nin the last level"
        x = column_x("shared")
        ax.text(x, gates_y, note, color="#555555", fontsize=SMALL, ha="center", va="center")
    return {gate: (column_x(gate), gates_y + GATE[1] / 2) for gate in gates}


def draw_head(ax: Axes, task: str, source: Point) -> None:
    """A task's head, from its features to its prediction."""
    x, color = source[0], COLORS[task]
    bottom, half = HEADS_Y + PAD, HEAD[1] / 2
    tower, dense = bottom + PAD + half, bottom + 3 * PAD + 3 * half
    top = HEADS_Y + HEADS_HEIGHT - PAD
    frame(ax, x - HEAD[0] / 2 - PAD, x + HEAD[0] / 2 + PAD, bottom, top - bottom, "#FFFFFF")
    line(ax, source, (x, tower - half), color)
    box(ax, (x, tower), HEAD, f"{task} tower", color, 0.14)
    line(ax, (x, tower + half), (x, dense - half), color)
    box(ax, (x, dense), HEAD, "Dense, sigmoid", color, 0.14)
    ax.text(x, top - 0.07, f'BinaryHead("{task}")', fontsize=SMALL, family="monospace", **TOP)
    line(ax, (x, dense + half), (x, OUTPUT_Y - 0.1), color)
    ax.text(x, OUTPUT_Y, f"$y_{{\\mathrm{{{task}}}}}$", fontsize=12, ha="center", va="center")
