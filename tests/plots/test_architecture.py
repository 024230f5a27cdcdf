"""Architecture plots: content, layout and Axes."""

import re
import sys
from collections import Counter
from itertools import combinations, pairwise

import keras
import pytest
from matplotlib import pyplot as plt
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

import ple_keras as pk
from tests.helpers import once

pytestmark = once

LONG = ("conversion_within_24_hours", "a" * 25)

BLOCKS = {
    "two_tasks": lambda: pk.PLEBlock(2, ["click", "buy"], 4, 2, 2),
    "three_tasks": lambda: pk.PLEBlock(3, ["click", "buy", "watch_time"], 4, 2, 2),
    "five_tasks": lambda: pk.PLEBlock(2, list("abcde"), 4, 2, 2),
    "one_task": lambda: pk.PLEBlock(1, ["click"], 4),
    "long_names": lambda: pk.PLEBlock(2, LONG, 4, 2, 2, name="a_name_of_thirty_letters_or_so"),
    "uneven": lambda: pk.PLEBlock(2, ["a", "b", "c"], 4, {"a": 3, "b": 1, "c": 0}, 1),
    "no_shared_experts": lambda: pk.PLEBlock(2, ["a", "b"], 4, 2, 0),
    "mmoe": lambda: pk.MMoEBlock(["a", "b"], 4, 8),
    "cgc": lambda: pk.CGCBlock(["a", "b"], 4, 2, 2),
    "context": lambda: pk.PLEBlock(2, ["click", "buy"], 4, 2, 2, gate_reads="context"),
    "mmoe_context": lambda: pk.MMoEBlock(["a", "b"], 4, 3, gate_reads="context"),
    "stream_and_context": lambda: pk.PLEBlock(2, ["a", "b", "c"], 4, 1, 1, gate_reads="both"),
    "gate_without_shared_experts": lambda: pk.CGCBlock(["a", "b"], 4, 2, 0, name="l" * 40),
    "levels_differ": lambda: pk.SequentialBlock(
        [
            keras.layers.Dense(3),
            pk.CGCBlock(["a", "b"], 4, 2, 0, add_shared_gate=False),
            keras.layers.Dropout(0.5),
            pk.CGCBlock(["b", "a"], 4, {"a": 4, "b": 1}, 3),
        ]
    ),
}

every_block = pytest.mark.parametrize("make", list(BLOCKS.values()), ids=list(BLOCKS))


@pytest.fixture(autouse=True)
def _no_windows():
    plt.switch_backend("agg")


def levels(block):
    layers = [block] if isinstance(block, pk.CGCBlock) else block
    return [layer for layer in layers if isinstance(layer, pk.CGCBlock)]


def texts(ax):
    """The number of occurrences of each text, as one line."""
    return Counter(text.get_text().replace("_\n", "_").replace("\n", " ") for text in ax.texts)


def gates(ax):
    return Counter({t: n for t, n in texts(ax).items() if re.fullmatch(r"[\w-]+ gate", t)})


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
    """The lines into a gate from below, from left to right: `(x, color, dashed)`."""
    (text,) = [text for text in ax.texts if text.get_text() == f"{gate} gate"]
    (box,) = [box for box in boxes(ax) if box.overlaps(text.get_window_extent())]
    left, bottom, right, _ = box.transformed(ax.transData.inverted()).extents
    found = []
    for line in ax.patches:
        if isinstance(line, FancyArrowPatch):
            x, y = max(line.get_path().vertices, key=lambda vertex: vertex[1])
            if left < x < right and abs(y - bottom) < 0.05:
                found.append((x, line.get_edgecolor(), line.get_linestyle() != "-"))
    return sorted(found)


def color_of(ax, stream):
    """The color of the boxes of a stream's gate and experts."""
    texts = [
        t.get_window_extent() for t in ax.texts if re.match(rf"{stream}( gate|\n)", t.get_text())
    ]
    (color,) = {
        patch.get_edgecolor()
        for patch in ax.patches
        if isinstance(patch, FancyBboxPatch)
        and any(contains(patch.get_window_extent(), text) for text in texts)
        and patch.get_zorder() > 1
    }
    return color


@every_block
def test_every_expert_gate_level_and_output_has_a_label(make):
    block = make()
    expected = Counter()
    for number, level in enumerate(levels(block), start=1):
        expected[f"level {number}"] += 1
        expected[f"CGCBlock {level.name}"] += 1
        expected.update(name.replace("/expert_", " expert ") for name in level.expert_names)
        expected.update(f"{gate} gate" for gate in level.gate_experts)
    expected.update(list(levels(block)[-1].gate_experts))
    drawn = texts(pk.plot_architecture(block))
    assert {text: drawn[text] for text in expected} == expected


@every_block
def test_every_expert_and_gate_has_a_box(make):
    block = make()
    ax = pk.plot_architecture(block)
    expected = sum(len(level.expert_names) + len(level.gate_experts) for level in levels(block))
    assert len(boxes(ax)) == expected + 1  # the input's


@every_block
def test_boxes_do_not_overlap_and_are_inside_the_axes(make):
    ax = pk.plot_architecture(make())
    for one, other in combinations(extents(ax), 2):
        assert not one.overlaps(other) or contains(one, other) or contains(other, one)
    for artist in [*ax.patches, *ax.texts]:
        assert contains(ax.get_window_extent(), artist.get_window_extent()), artist


@every_block
def test_texts_are_inside_their_boxes_and_do_not_overlap(make):
    ax = pk.plot_architecture(make())
    drawn = [text.get_window_extent() for text in ax.texts if text.get_text()]
    for one, other in combinations(drawn, 2):
        assert not one.overlaps(other)
    for box in boxes(ax):
        (inside,) = [text for text in drawn if text.overlaps(box)]
        assert contains(box, inside)


@pytest.mark.parametrize(
    ("counts", "num_shared", "shared_gate"),
    [(2, 2, True), (0, 8, False), (2, 0, True), (2, 0, False), ({"a": 3, "b": 1, "c": 0}, 1, True)],
)
def test_a_gate_has_a_line_from_each_of_its_experts_and_from_its_stream(
    counts, num_shared, shared_gate
):
    block = pk.CGCBlock(["a", "b", "c"], 4, counts, num_shared, shared_gate)
    ax = pk.plot_architecture(block)
    for gate, experts in block.gate_experts.items():
        xs, colors, dashed = zip(*lines_into(ax, gate))
        assert min(b - a for a, b in pairwise(xs)) > 0.15
        streams = [expert.split("/")[0] for expert in experts]
        assert Counter(zip(colors, dashed)) == Counter(
            [(color_of(ax, gate), True), *((color_of(ax, stream), False) for stream in streams)]
        )


@pytest.mark.parametrize("block", ["context", "stream_and_context", "mmoe_context"])
def test_every_gate_that_reads_a_context_has_a_line_from_it(block):
    made = BLOCKS[block]()
    ax = pk.plot_architecture(made)
    assert texts(ax)["context"] == sum(len(level.gate_experts) for level in levels(made))
    if block == "mmoe_context":  # of one level
        dashed = [is_dashed for gate in made.gate_experts for *_, is_dashed in lines_into(ax, gate)]
        assert dashed == [False] * 6
    (legend,) = [text for text in texts(ax) if text.startswith("gate input")]
    read = "gate's own stream and the context" if "stream" in block else "context"
    assert legend == f"gate input: the {read}"


def test_the_shared_stream_has_its_own_color():
    tasks = list("abcdef")
    ax = pk.plot_architecture(pk.CGCBlock(tasks, 4))
    shared = color_of(ax, "shared")
    assert shared == color_of(pk.plot_architecture(pk.CGCBlock(["a"], 4)), "shared")
    assert shared not in {color_of(ax, task) for task in tasks}
    assert len({color_of(ax, task) for task in tasks[:5]}) == 5


def test_tasks_may_have_different_numbers_of_experts():
    drawn = texts(pk.plot_architecture(BLOCKS["uneven"]()))
    experts = {text: times for text, times in drawn.items() if " expert " in text}
    assert experts == dict.fromkeys(
        ["a expert 0", "a expert 1", "a expert 2", "b expert 0", "shared expert 0"], 2
    )


def test_the_last_level_has_no_shared_gate():
    ax = pk.plot_architecture(BLOCKS["three_tasks"]())
    assert gates(ax) == {"click gate": 3, "buy gate": 3, "watch_time gate": 3, "shared gate": 2}
    assert texts(ax)["no shared gate"] == 1


@pytest.mark.parametrize(("block", "shared"), [("mmoe", 0), ("cgc", 1), ("one_task", 0)])
def test_a_shared_gate_is_drawn_only_in_levels_that_have_one(block, shared):
    assert gates(pk.plot_architecture(BLOCKS[block]()))["shared gate"] == shared


def test_without_shared_experts_and_gate_no_shared_stream_is_drawn():
    drawn = texts(pk.plot_architecture(BLOCKS["no_shared_experts"]()))
    assert not [text for text in drawn if "shared" in text]


def test_a_built_block_is_drawn_like_an_unbuilt_block():
    block = BLOCKS["uneven"]()
    before = texts(pk.plot_architecture(block))
    block.build((None, 3))
    assert texts(pk.plot_architecture(block)) == before


def test_given_axes_are_used_and_returned():
    figure, (left, right) = plt.subplots(1, 2, figsize=(6, 3))
    before = plt.get_fignums()
    assert pk.plot_architecture(BLOCKS["two_tasks"](), ax=right) is right
    assert plt.get_fignums() == before == [figure.number]
    assert not left.texts
    assert texts(right)["click gate"] == 2


def test_font_sizes_scale_with_the_given_axes():
    block, sizes = BLOCKS["two_tasks"](), []
    for width in (12, 6):
        ax = plt.figure(figsize=(width, width)).add_axes((0, 0, 1, 1))
        pk.plot_architecture(block, ax)
        sizes.append(ax.texts[0].get_fontsize())
    assert sizes[0] == pytest.approx(2 * sizes[1])


def test_a_new_figure_can_be_saved(tmp_path):
    ax = pk.plot_architecture(BLOCKS["two_tasks"]())
    assert ax.figure is plt.gcf()
    ax.figure.savefig(tmp_path / "ple.svg")
    assert "<svg" in (tmp_path / "ple.svg").read_text()


def test_names_are_not_interpreted_as_math_or_tex(tmp_path):
    block = pk.CGCBlock(["a"], 4, name="a_$x^$")
    with plt.rc_context({"font.size": 30, "text.usetex": True}):
        ax = pk.plot_architecture(block)
        ax.figure.savefig(tmp_path / "cgc.png")
    assert texts(ax)["CGCBlock a_$x^$"] == 1


ALLOWED = "ple must be a CGCBlock, or a SequentialBlock with at least one CGCBlock"


@pytest.mark.parametrize(
    ("ple", "error", "received"),
    [
        (None, TypeError, "None"),
        ("ple", TypeError, "'ple'"),
        (keras.layers.Dense(2, name="d"), TypeError, "<Dense name=d"),
        (pk.SharedBottomBlock(["a"], 2), TypeError, "<SharedBottomBlock"),
        (pk.SequentialBlock([keras.layers.Dense(2, name="d")]), ValueError, "<SequentialBlock"),
    ],
)
def test_an_argument_without_levels_is_refused(ple, error, received):
    with pytest.raises(error, match=rf"^{ALLOWED}\. Received: ple={received}"):
        pk.plot_architecture(ple)


def test_an_array_of_axes_is_refused():
    with pytest.raises(TypeError, match=r"^ax must be a matplotlib Axes or None\. Received: ax="):
        pk.plot_architecture(BLOCKS["mmoe"](), ax=plt.subplots(1, 2)[1])


def test_without_matplotlib_the_error_has_the_install_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=re.escape('pip install "ple-keras[plot]"')):
        pk.plot_architecture(BLOCKS["mmoe"]())
