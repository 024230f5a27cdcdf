"""Draw the pictures of the README, and of blocks.md: expert, gate, mixtures of a level, loss.

KERAS_BACKEND=torch python docs/draw_concepts.py
"""

import contextlib
import re
import tempfile
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import keras
import numpy as np
from matplotlib import pyplot
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path as Line
from PIL import Image

import ple_keras as pk

Point = tuple[float, float]
# Colors of Okabe and Ito, distinct for color-blind readers; green is for the shared stream.
TASK_COLORS = ("#0072B2", "#D55E00", "#CC79A7")
SHARED_COLOR = "#009E73"
TEXT_COLOR, FRAME_COLOR = "#222222", "#8A8A8A"
TEXT_SIZE = 8.5  # points
CLICK, BUY = TASK_COLORS[:2]
BOX, GATE = (0.86, 0.46), (1.5, 0.32)  # width and height in inches
WIDTH, PIXELS = 7.4, 1600
LIGHT, STRONG = 0.14, 0.42  # opacity of a box's color
GAP = 0.2
SOLID = "-"
DASHED, DOTTED = (0, (3, 2)), (0, (1.5, 3))  # visible on phones
NOTE_COLOR, SMALL_SIZE = "#555555", 8.0


class Canvas:
    """A new figure with boxes, lines and texts, which are centered at the given points.

    Lengths are in inches, font sizes in points.
    """

    def __init__(self, width: float, height: float) -> None:
        self.figure = pyplot.figure(figsize=(width, height), facecolor="white")
        self.ax = self.figure.add_axes(
            (0, 0, 1, 1), xlim=(0, width), ylim=(0, height)
        )
        self.ax.set_axis_off()

    def text(self, center: Point, text: str, **style: Any) -> None:
        """Draw a text, without TeX, which can't render a "_" in a name."""
        defaults = {
            "ha": "center",
            "va": "center",
            "color": TEXT_COLOR,
            "fontsize": TEXT_SIZE,
        }
        self.ax.text(*center, text, usetex=False, zorder=4, **{**defaults, **style})

    def box(
        self,
        center: Point,
        size: Point,
        text: str,
        color: str,
        fill: float,
        radius: float = 0.05,
    ) -> None:
        """Draw a box with a text. `fill` is the opacity of its color; at 0, it is in the back."""
        corner = (center[0] - size[0] / 2, center[1] - size[1] / 2)
        style: dict[str, Any] = {
            "boxstyle": f"round,pad=0,rounding_size={radius}",
            "ec": color,
        }
        style["fc"] = [1 - fill * (1 - channel) for channel in to_rgb(color)]
        self.ax.add_patch(
            FancyBboxPatch(corner, *size, zorder=3 if fill else 1, **style)
        )
        self.text(center, text)

    def line(self, *points: Point, color: str, dash: Any = SOLID) -> None:
        """Draw a line through the points, with an arrow head at the last point."""
        arrow = "-|>,head_length=0.35,head_width=0.16"
        style: dict[str, Any] = {
            "arrowstyle": arrow,
            "mutation_scale": 10,
            "zorder": 2,
        }
        self.ax.add_patch(
            FancyArrowPatch(path=Line(points), color=color, ls=dash, **style)
        )


def save(figure: Figure, path: Path) -> None:
    """Write a small PNG. Equal drawings produce equal files."""
    dpi = PIXELS / figure.get_figwidth()
    png = BytesIO()
    figure.savefig(png, format="png", dpi=dpi, metadata={"Software": None})
    image = Image.open(png).convert("RGB").quantize(128, dither=Image.Dither.NONE)
    image.save(path, optimize=True, dpi=(dpi, dpi))


def row(canvas: Canvas, start: Point, texts: Sequence[str], color: str) -> Point:
    """Draw boxes from left to right with arrows between them; return the end of the last one."""
    x, y = start
    for text in texts:
        canvas.line((x, y), (x + GAP, y), color=color)
        canvas.box((x + GAP + BOX[0] / 2, y), BOX, text, color, LIGHT)
        x += GAP + BOX[0]
    return x, y


def draw_model(canvas: Canvas) -> None:
    """A model of three tasks. The layers of ple_keras have colors."""
    middle, rows = 1.09, (1.63, 1.09, 0.55)
    table = "Sparse\nEmbedding", SHARED_COLOR
    columns = {"user": table, "film": table, "age": ("Dense", FRAME_COLOR)}
    for (column, (layer, color)), y in zip(columns.items(), rows):
        canvas.text((0.6, y), column)
        canvas.line((0.85, y), (1.15, y), color=color)
        canvas.box((1.65, y), (1.0, BOX[1]), layer, color, LIGHT)
        canvas.line((2.15, y), (2.7, middle + (y - middle) / 4), color=color)
    text = "PLEBlock,\nHedgedBlock, ..."
    canvas.box((3.5, middle), (1.6, 0.9), text, SHARED_COLOR, STRONG)
    predictions = {"like": "88%", "rating": "4.3 stars", "hate": "3%"}
    for (task, prediction), color, y in zip(predictions.items(), TASK_COLORS, rows):
        canvas.line((4.3, middle + (y - middle) / 4), (4.85, y), color=color)
        canvas.box((5.35, y), (1.0, BOX[1]), f"head of\n{task}", color, LIGHT)
        canvas.line((5.85, y), (6.15, y), color=color)
        canvas.text((6.65, y), prediction)
    notes = {0.6: "columns", 1.65: "features", 3.5: "one block for all tasks"}
    for x, note in (notes | {5.35: "TaskHeads", 6.65: "predictions"}).items():
        canvas.text((x, 0.12), note, fontsize=SMALL_SIZE, color=NOTE_COLOR)


def draw_hedged(canvas: Canvas) -> None:
    """Each of two tasks mixes the predictions of its own branch and of the shared branch."""
    bottom, top = 0.95, 1.95
    ends = bottom + BOX[1] / 2, top - GATE[1] / 2
    tasks = [("like", -1, CLICK, ("0.5", "0.5")), ("hate", 1, BUY, ("0.1", "0.9"))]
    branches = {"shared branch": (WIDTH / 2, SHARED_COLOR)}
    for task, side, color, weights in tasks:
        x = WIDTH / 2 + 2.35 * side
        branches[f"own branch of {task}"] = x, color
        canvas.box((x, top), GATE, "mixture", color, STRONG, radius=GATE[1] / 2)
        canvas.line((x, top + GATE[1] / 2), (x, top + 0.42), color=color)
        canvas.text((x, top + 0.52), f"prediction of {task}")
        from_shared = WIDTH / 2 + 0.4 * side, x - 0.5 * side
        for (start, end), of_line, weight in zip(
            ((x, x), from_shared), (color, SHARED_COLOR), weights
        ):
            canvas.line((start, ends[0]), (end, ends[1]), color=of_line)
            style = {
                "fontsize": SMALL_SIZE,
                "bbox": {"fc": "white", "ec": "none", "pad": 1.2},
            }
            canvas.text(((start + end) / 2, sum(ends) / 2), weight, **style)
    canvas.box(
        (WIDTH / 2, 0.22), (WIDTH - 0.8, 0.28), "columns", FRAME_COLOR, LIGHT
    )
    for name, (x, color) in branches.items():
        canvas.line((x, 0.36), (x, bottom - BOX[1] / 2), color=color)
        text = f"{name}\ntables, experts, {'towers' if color == SHARED_COLOR else 'tower'}"
        canvas.box((x, bottom), (1.9, BOX[1]), text, color, LIGHT)
    text = "weights fitted on\nvalidation data"
    canvas.text((WIDTH / 2, top + 0.1), text, fontsize=SMALL_SIZE, color=NOTE_COLOR)


def draw_expert(canvas: Canvas) -> None:
    """An ExpertBlock of two steps."""
    y = 0.75
    canvas.text((0.95, y), "x")
    texts = ["Dense\n256 units", "activation", "Dense\n128 units", "activation"]
    x, _ = row(canvas, (1.1, y), texts, CLICK)
    canvas.line((x, y), (x + GAP, y), color=CLICK)
    canvas.text((x + GAP + 0.22, y), "E(x)")
    text = "normalization before an activation and dropout after it, if given"
    canvas.text((WIDTH / 2, 0.2), text, fontsize=SMALL_SIZE, color=NOTE_COLOR)


def draw_gate(canvas: Canvas) -> None:
    """From the input of a gate to one weight for each expert."""
    y = 0.95
    canvas.text((0.2, y), "r")
    steps = ["gate block\ng", "Dense W\nno bias", "divide\nby T", "softmax"]
    x, _ = row(canvas, (0.32, y), steps, CLICK)
    canvas.text((0.95, 0.55), "if given", fontsize=SMALL_SIZE, color=NOTE_COLOR)
    canvas.line((x, y), (x + GAP, y), color=CLICK)
    left = x + GAP + 1.2
    experts = [("click/expert_0", 0.5, CLICK), ("click/expert_1", 0.2, CLICK)]
    experts.append(("shared/expert_0", 0.3, SHARED_COLOR))
    for index, (name, weight, color) in enumerate(experts):
        height = 1.45 - 0.5 * index
        canvas.text((left - 0.1, height), name, fontsize=SMALL_SIZE, ha="right")
        canvas.box(
            (left + weight, height), (2 * weight, 0.26), f"{weight}", color, STRONG
        )
    canvas.text(
        (left, 0.1),
        "weights of one example, sum 1",
        fontsize=SMALL_SIZE,
        color=NOTE_COLOR,
    )


def draw_mixture(
    canvas: Canvas,
    gate: str,
    experts: Sequence[tuple[str, str, str]],
    dashes: dict[str, tuple],
) -> None:
    """Experts at the bottom, with their weights on the lines to the gate."""
    pitch = BOX[0] + GAP
    middle = WIDTH / 2
    own = {"click": CLICK, "shared": SHARED_COLOR}[gate]
    top = 2.1
    canvas.box((middle, top), GATE, f"{gate} gate", own, STRONG, radius=GATE[1] / 2)
    canvas.line((middle, top + GATE[1] / 2), (middle, top + 0.42), color=own)
    canvas.text((middle, top + 0.54), f"stream of {gate} after the level")
    for index, (text, weight, color) in enumerate(experts):
        offset = index - (len(experts) - 1) / 2
        x, port = middle + offset * pitch, middle + offset * 0.26
        canvas.box((x, 0.86), BOX, text, color, LIGHT)
        end = (port, top - GATE[1] / 2)
        dash = dashes.get(color, SOLID)
        canvas.line((x, 0.86 + BOX[1] / 2), end, color=color, dash=dash)
        canvas.text(
            ((x + port) / 2, (0.86 + BOX[1] / 2 + end[1]) / 2 + 0.02),
            weight,
            fontsize=SMALL_SIZE,
            bbox={"fc": "white", "ec": "none", "pad": 1.2},
        )
        canvas.line((x, 0.34), (x, 0.86 - BOX[1] / 2), color=color)
        canvas.text(
            (x, 0.2),
            f"stream\nof {text.split()[0]}",
            fontsize=SMALL_SIZE,
            color=NOTE_COLOR,
        )
    # The input of the gate passes the experts on the left.
    left = middle - len(experts) / 2 * pitch - 0.3
    points = ((left, 0.34), (left, top), (middle - GATE[0] / 2, top))
    canvas.line(*points, color=own, dash=DASHED)
    canvas.text(
        (left, 0.2), f"r: stream\nof {gate}", fontsize=SMALL_SIZE, color=NOTE_COLOR
    )


def draw_task_mixture(canvas: Canvas) -> None:
    """The gate of a task mixes its own experts and the shared ones."""
    experts = [("click\nexpert 0", "0.5", CLICK), ("click\nexpert 1", "0.2", CLICK)]
    draw_mixture(
        canvas, "click", [*experts, ("shared\nexpert 0", "0.3", SHARED_COLOR)], {}
    )


def draw_shared_mixture(canvas: Canvas) -> None:
    """The shared gate mixes all experts."""
    experts = [("click\nexpert 0", "0.2", CLICK), ("click\nexpert 1", "0.1", CLICK)]
    experts += [
        ("buy\nexpert 0", "0.3", BUY),
        ("shared\nexpert 0", "0.4", SHARED_COLOR),
    ]
    draw_mixture(canvas, "shared", experts, {CLICK: DOTTED, BUY: DOTTED})
    canvas.line((4.9, 2.35), (5.2, 2.35), color=TEXT_COLOR, dash=DOTTED)
    text = "no gradient, if isolated"
    canvas.text(
        (5.26, 2.35), text, fontsize=SMALL_SIZE, color=NOTE_COLOR, ha="left"
    )


def draw_loss(canvas: Canvas) -> None:
    """From the streams after the last level to the loss; a missing label does not count."""
    tasks = [
        ("click", CLICK, ["1", "0", "1", "0"]),
        ("buy", BUY, ["1", "", "0", ""]),
    ]
    canvas.text(
        (4.98, 2.05), "labels of 4 examples", fontsize=SMALL_SIZE, color=NOTE_COLOR
    )
    for index, (task, color, labels) in enumerate(tasks):
        y = 1.6 - 0.95 * index
        canvas.text((0.4, y), f"stream\nof {task}")
        x, _ = row(canvas, (0.68, y), ["tower", "Dense", "activation"], color)
        canvas.line((x, y), (x + GAP, y), color=color)
        for position, label in enumerate(labels):
            cell = (x + 0.42 + 0.28 * position, y)
            canvas.box(
                cell,
                (0.28, 0.28),
                label,
                color if label else FRAME_COLOR,
                LIGHT,
                radius=0,
            )
        end = x + 0.42 + 0.28 * len(labels)
        canvas.line((end - 0.1, y), (end + GAP, y), color=color)
        mean = f"L_{task}\nmean of {sum(map(bool, labels))}"
        canvas.box((end + GAP + 0.43, y), BOX, mean, color, STRONG)
        start = (end + GAP + BOX[0], y)
        canvas.line(
            start,
            (start[0] + 0.5, 1.125 + (0.1 if index == 0 else -0.1)),
            color=color,
        )
        canvas.text(
            (start[0] + 0.42, y - (0.08 if index == 0 else -0.08)),
            f"w_{task}",
            fontsize=SMALL_SIZE,
        )
        canvas.text(
            (0.68 + 3.4 / 2, y + 0.34),
            f"head of {task}",
            fontsize=SMALL_SIZE,
            color=NOTE_COLOR,
        )
    canvas.box(
        (start[0] + 0.66, 1.125), (0.36, 0.36), "L", TEXT_COLOR, LIGHT, radius=0.18
    )


def draw_gates() -> Figure:
    """Run the first code of the README, which trains a model, and return its figure."""
    readme = Path(__file__).parents[1] / "README.md"
    code = re.findall(
        r"^```python\n(.*?)^```$", readme.read_text(), re.DOTALL | re.M
    )
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        exec(code[0], {})
    return pyplot.gcf()


def draw_quantiles() -> Figure:
    """Train a QuantileHead on noise that grows with x, and return the plot of its interval."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 10, (2000, 1)).astype("float32")
    y = 20 + 5 * np.sin(x) + (1 + 0.6 * x) * rng.gumbel(size=x.shape)
    heads = pk.TaskHeads(
        [pk.QuantileHead("time", [0.1, 0.5, 0.9], standardize=True)]
    )
    inputs = keras.Input((1,))
    scaled = keras.layers.Rescaling(0.2, -1.0)(inputs)
    features = pk.SharedBottomBlock(heads, pk.ExpertBlock([64, 64], "silu"))(scaled)
    model = pk.MultiTaskModel(inputs, heads(features))
    model.compile(keras.optimizers.Adam(3e-3))
    model.fit(x, {"time": y}, epochs=60, batch_size=100, verbose=0)
    grid = np.linspace(0, 10, 200, dtype="float32")[:, None]
    low, median, high = model.predict(grid, verbose=0)["time"].T
    figure, ax = pyplot.subplots(figsize=(WIDTH, 2.8), facecolor="white")
    ax.plot(x[:500], y[:500], ".", color=FRAME_COLOR, markersize=3, label="labels")
    ax.fill_between(
        grid[:, 0], low, high, color=CLICK, alpha=0.25, label="0.1 to 0.9"
    )
    ax.plot(grid, median, color=CLICK, label="0.5")
    ax.set(xlabel="x", ylabel="time")
    ax.legend(loc="upper left", frameon=False)
    figure.set_layout_engine("constrained")
    return figure


PICTURES: dict[str, tuple[Callable[[Canvas], None], float]] = {  # heights
    "model": (draw_model, 1.95),
    "hedged": (draw_hedged, 2.6),
    "expert": (draw_expert, 1.15),
    "gate": (draw_gate, 1.75),
    "task_mixture": (draw_task_mixture, 2.8),
    "shared_mixture": (draw_shared_mixture, 2.8),
    "loss": (draw_loss, 2.2),
}

if __name__ == "__main__":
    for name, (draw, height) in PICTURES.items():
        canvas = Canvas(WIDTH, height)
        draw(canvas)
        save(canvas.figure, Path(__file__).with_name("concepts") / f"{name}.png")
    save(draw_gates(), Path(__file__).with_name("gates.png"))
    save(draw_quantiles(), Path(__file__).with_name("quantiles.png"))
