"""Architecture plots: content and layout."""

import re
from collections import Counter
from itertools import combinations, pairwise

import keras
import pytest
from matplotlib import pyplot as plt
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path

import ple_keras as pk
from tests.helpers import once
from tests.models import chain
from tests.refusals import check_refused, table

pytestmark = once

LONG = ("conversion_within_24_hours", "a" * 25)


def model_of_streams():
    heads = pk.TaskHeads([pk.BinaryHead(task) for task in ("click", "buy")])
    ple = pk.PLEBlock(2, heads, 4, isolate_task_experts=True, name="ple")
    return chain(pk.StreamFeatures(heads, keras.layers.Dense(3)), ple, heads)


LEVELS = {
    "three_tasks": lambda: pk.PLEBlock(3, ["click", "buy", "watch_time"], 4, 2, 2),
    "long_names": lambda: pk.PLEBlock(2, LONG, 4, 2, 2, name="a_name_of_thirty_letters_or_so"),
    "no_shared_experts_above": lambda: pk.PLEBlock(3, ["a", "b"], 4, 1, [0, 2, 0]),
    "mmoe": lambda: pk.MMoEBlock(["a", "b"], 4, 8),
    "stream_and_context": lambda: pk.PLEBlock(2, ["a", "b", "c"], 4, 1, 1, gate_reads="both"),
    "gate_without_shared_experts": lambda: pk.CGCBlock(["a", "b"], 4, 2, 0, name="l" * 40),
    "other_layers": lambda: pk.SequentialBlock(
        [keras.layers.Dense(3), pk.CGCBlock(["a", "b"], 4), keras.layers.Dropout(0.5)]
    ),
}
BLOCKS = {
    **LEVELS,
    "shared_bottom": lambda: pk.SharedBottomBlock(["a", "b", "c"], 4, name="bottom"),
    "hedged": lambda: pk.HedgedBlock(["click", "buy"], 4, name="hedged"),
    "hedged_features": lambda: pk.HedgedBlock(["a", "b"], 4, features=keras.layers.Dense(3)),
    "streams": model_of_streams,
}

every_block = pytest.mark.parametrize("make", list(BLOCKS.values()), ids=list(BLOCKS))


@pytest.fixture(autouse=True)
def _no_windows():
    plt.switch_backend("agg")
    yield
    plt.close("all")


def plot(block):
    """Return the Axes of a plot."""
    (ax,) = pk.plot_architecture(block).axes
    return ax


def texts(ax):
    """The number of occurrences of each text, as one line."""
    return Counter(text.get_text().replace("\n", " ") for text in ax.texts if text.get_text())


def extents(ax):
    """The extents of rectangles with round corners: boxes and frames."""
    return [p.get_window_extent() for p in ax.patches if isinstance(p, FancyBboxPatch)]


def contains(outer, inner):
    return (
        outer.x0 <= inner.x0
        and outer.y0 <= inner.y0
        and outer.x1 >= inner.x1
        and outer.y1 >= inner.y1
    )


def boxes(ax):
    """The extents that contain no other."""
    every = extents(ax)
    return [
        box for box in every if not any(contains(box, other) for other in every if other is not box)
    ]


def lines_into(ax, gate):
    """The lines into a gate from below, from left to right: `(x, color, line style)`."""
    (text,) = [text for text in ax.texts if re.match(rf"{gate}\n(.*gate|mixture)", text.get_text())]
    (box,) = [box for box in boxes(ax) if box.overlaps(text.get_window_extent())]
    left, bottom, right, _ = box.transformed(ax.transData.inverted()).extents
    found = []
    for line in ax.patches:
        if isinstance(line, FancyArrowPatch):
            x, y = line._path_original.vertices[-1]
            if left < x < right and abs(y - bottom) < 0.01:
                found.append((x, line.get_edgecolor(), str(line.get_linestyle())))
    return sorted(found)


def color_of(ax, stream):
    """The color of the boxes of a stream's gate and experts."""
    inside = [t.get_window_extent() for t in ax.texts if t.get_text().startswith(f"{stream}\n")]
    (color,) = {
        patch.get_edgecolor()
        for patch in ax.patches
        if isinstance(patch, FancyBboxPatch)
        and any(contains(patch.get_window_extent(), text) for text in inside)
        and patch.get_zorder() > 1
    }
    return color


@pytest.mark.parametrize("make", list(LEVELS.values()), ids=list(LEVELS))
def test_every_expert_gate_level_and_output_has_a_label_and_a_box(make):
    block = make()
    levels = {block.name: block}
    if not isinstance(block, pk.CGCBlock):
        levels = {f"{block.name}/{i}": x for i, x in enumerate(block)}
        levels = {name: x for name, x in levels.items() if isinstance(x, pk.CGCBlock)}
    kinds = {"stream": "gate", "context": "context gate", "both": "gate with context"}
    expected = Counter([*levels])
    for level in levels.values():
        expected.update(name.replace("/", " ") for name in level.expert_names)
        expected.update(f"{gate} {kinds[level.gate_reads]}" for gate in level.gate_experts)
    num_boxes = expected.total() - len(levels)
    expected.update([*level.gate_experts, "input"])  # the outputs of the last level
    ax = plot(block)
    assert texts(ax) == expected
    assert len(boxes(ax)) == num_boxes + 1  # the input's


@every_block
def test_boxes_texts_and_lines_do_not_overlap_and_are_inside_the_figure(make):
    ax = plot(make())
    for one, other in combinations(extents(ax), 2):
        assert not one.overlaps(other) or contains(one, other) or contains(other, one)
    for artist in [*ax.patches, *ax.texts]:
        assert contains(ax.figure.bbox, artist.get_window_extent()), artist
    drawn = [text.get_window_extent() for text in ax.texts if text.get_text()]
    for one, other in combinations(drawn, 2):
        assert not one.overlaps(other)
    inner_boxes = boxes(ax)
    for box in inner_boxes:
        (inside,) = [text for text in drawn if text.overlaps(box)]
        assert contains(box, inside)
    for line in ax.patches:
        if isinstance(line, FancyArrowPatch):
            path = line._path_original.transformed(ax.transData).interpolated(50)
            without_ends = Path(path.vertices[1:-1])  # it begins and ends at boxes
            for box in [*drawn, *inner_boxes]:
                assert not without_ends.intersects_bbox(box, filled=False), line


@pytest.mark.parametrize(
    ("counts", "num_shared", "shared_gate"),
    [(2, 2, True), (0, 8, False), (2, 0, False), ({"a": 3, "b": 1, "c": 0}, 1, True)],
)
def test_a_gate_has_a_line_from_each_of_its_experts(counts, num_shared, shared_gate):
    is_isolated = num_shared < 2
    block = pk.CGCBlock(
        ["a", "b", "c"], 4, counts, num_shared, shared_gate, isolate_task_experts=is_isolated
    )
    ax = plot(block)
    for gate, experts in block.gate_experts.items():
        xs, *looks = zip(*lines_into(ax, gate))
        assert min((b - a for a, b in pairwise(xs)), default=1) > 0.07
        streams = [expert.split("/")[0] for expert in experts]
        assert Counter(looks[0]) == Counter(color_of(ax, stream) for stream in streams)
        stopped = [is_isolated and gate == "shared" != stream for stream in streams]
        assert Counter(looks[1])["-"] == stopped.count(False)
    assert texts(ax)["dotted: gradients are stopped"] == (is_isolated and shared_gate)


def test_blocks_without_gates():
    drawn = texts(plot(BLOCKS["hedged"]()))
    assert drawn == Counter(
        [f"{task}{text}" for task in ("click", "buy") for text in ("", " mixture", " expert")]
        + ["shared expert", "hedged", "input"]
    )
    outputs = [f"{task}{text}" for task in "abc" for text in ("", " output")]
    expected = [*outputs, "shared bottom", "bottom", "input"]
    assert texts(plot(BLOCKS["shared_bottom"]())) == Counter(expected)


def test_a_model_is_drawn_as_its_block_built_or_not():
    model = model_of_streams()
    assert texts(plot(model)) == texts(plot(model.get_layer("ple")))
    unbuilt = pk.PLEBlock(2, ["click", "buy"], 4, isolate_task_experts=True, name="ple")
    assert texts(plot(unbuilt)) == texts(plot(model))


def two_blocks():
    blocks = {"ple": pk.PLEBlock(1, ["a"], 4, name="x"), "cgc": pk.CGCBlock(["a"], 4, name="y")}
    return pk.HedgedBlock(["a"], branches=blocks)


REFUSED = {
    "text": (lambda: "ple", TypeError, "'ple'"),
    "layer": (lambda: keras.layers.Dense(2, name="d"), ValueError, r"<Dense name=d.*, with \[\]"),
    "two_blocks": (two_blocks, ValueError, r"<HedgedBlock.*, with \['x', 'y'\]"),
}


@pytest.mark.parametrize(("make", "error", "received"), table(REFUSED))
def test_an_argument_without_one_block_is_refused(make, error, received):
    message = rf"^model must .*Received: model={received}"
    check_refused(lambda: pk.plot_architecture(make()), error, message)
