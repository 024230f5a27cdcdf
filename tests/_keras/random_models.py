"""Random models of layers of the library and of Keras, as recipes that create a model repeatedly.

Every part maps `(ROWS, WIDTH)` to the same shape, or to a dict of such arrays. Parts can therefore
be combined in any order. No part is random in training.
"""

import keras
from hypothesis import strategies as st

import ple_keras as pk
from tests.helpers import built, features
from tests.models import Subclassed, chained
from tests.templates import ResidualExpert

ROWS, WIDTH, DEPTH = 8, 3, 3
TASKS = ["click", "click-buy", "1st", "val_x", "Zz"]


class Recipe:
    """A call that creates a part of a model. Its repr is the code of the call."""

    def __init__(self, function, *arguments, **keywords):
        self.function, self.arguments, self.keywords = function, arguments, keywords

    def __call__(self):
        keywords = {key: made(value) for key, value in self.keywords.items()}
        return self.function(*made(self.arguments), **keywords)

    def __repr__(self):
        keywords = [f"{key}={value!r}" for key, value in self.keywords.items()]
        return f"{self.function.__name__}({', '.join([*map(repr, self.arguments), *keywords])})"


def made(value):
    """Return an argument with each recipe replaced by the part that it creates."""
    if isinstance(value, Recipe):
        return value()
    return [made(item) for item in value] if isinstance(value, list | tuple) else value


# Custom layers.


@keras.saving.register_keras_serializable(package="random_models")
class SumOfTasks(keras.layers.Layer):
    """Sum of the values of a dict."""

    def call(self, inputs):
        return sum(inputs[task] for task in sorted(inputs))

    def compute_output_shape(self, input_shape):
        return next(iter(input_shape.values()))


def functional(layers, name, cls=keras.Model):
    inputs = keras.Input((WIDTH,))
    return cls(inputs, chained(layers, inputs), name=name)


# Parts that map a tensor to a tensor.


def names(draw, place, count, distinct):
    """Draw the names of the layers at a place: unique ones, or names such as Keras's."""
    if distinct or draw(st.booleans()):
        return [f"{place}-{i}" for i in range(count)]
    return draw(st.permutations(["dense", "dense_1", "dense_2"]))[:count]


LEAVES = [
    (keras.layers.Dense, WIDTH),
    (keras.layers.BatchNormalization,),
    (keras.layers.LayerNormalization,),
    (pk.ExpertBlock, [2, WIDTH]),
    (ResidualExpert, [WIDTH]),
    (pk.Gate, WIDTH),
]
ACTIVATIONS = ["tanh", "relu"]
EXPERT_OPTIONS = {"normalization": [None, "batch", "layer"], "activation": ACTIVATIONS}
OPTIONS = {
    keras.layers.Dense: {"trainable": [True, False], "activation": ACTIVATIONS},
    pk.ExpertBlock: EXPERT_OPTIONS,
    ResidualExpert: EXPERT_OPTIONS,
    pk.Gate: {"gate_block": [None, 2]},
}


@st.composite
def leaves(draw, name):
    """Draw a layer that contains no other part."""
    function, *arguments = draw(st.sampled_from(LEAVES))
    options = OPTIONS.get(function, {"trainable": [True, False]})
    chosen = {key: draw(st.sampled_from(values)) for key, values in options.items()}
    return Recipe(function, *arguments, name=name, **chosen)


KINDS = ["leaf", "block", "sequential", "functional", "mixture", "built"]


@st.composite
def parts(draw, name, depth, place=None, distinct=False, kinds=KINDS):
    """Draw a layer or model, nested up to `depth` levels.

    Args:
        name: The name of the part.
        depth: The maximum nesting depth, including the leaf.
        place: A name that no other part has, by default `name`.
        distinct: Whether all inner names must be unique. This is required in parts that are built
            on their own, since Keras gives equal paths to equal names.
        kinds: The allowed kinds of parts.
    """
    kind = draw(st.sampled_from(kinds if depth > 1 else ["leaf"]))
    if kind == "leaf":
        return draw(leaves(name))
    place = place or name
    if kind == "mixture":
        return draw(mixtures(name, depth, place, distinct))
    if kind == "built":
        return Recipe(built, draw(blocks_of_parts(name, depth, place, True)), WIDTH)
    if kind == "functional":
        kept = [each for each in KINDS if each != "sequential"]  # Keras loses its name there
        return Recipe(functional, draw(rows(depth, place, True, kept)), name=name)
    if kind == "sequential":
        return Recipe(keras.Sequential, draw(rows(depth, place, distinct)), name=name)
    return draw(blocks_of_parts(name, depth, place, distinct))


@st.composite
def rows(draw, depth, place, distinct=False, kinds=KINDS):
    """Draw one to three parts within a container."""
    inside = names(draw, place, draw(st.integers(1, 3)), distinct)
    return [
        draw(parts(name, depth - 1, f"{place}-{i}", distinct, kinds))
        for i, name in enumerate(inside)
    ]


@st.composite
def blocks_of_parts(draw, name, depth, place, distinct=False):
    return Recipe(pk.SequentialBlock, draw(rows(depth, place, distinct)), name=name)


@st.composite
def mixtures(draw, name, depth, place, distinct):
    """Draw a level with two tasks, followed by the sum of their outputs."""
    first, second = names(draw, place, 2, distinct)
    level = draw(levels(first, ["x", "y"], depth - 1))
    return Recipe(pk.SequentialBlock, [level, Recipe(SumOfTasks, name=second)], name=name)


# Parts that map a tensor to a dict keyed by task.


def templates(name, depth):
    """Draw a template: an expert, a gate block, a tower or a bottom."""
    units = st.sampled_from([WIDTH, [2, WIDTH]])
    return units | parts(name, max(depth, 1), distinct=True)


@st.composite
def gate_arguments(draw, depth):
    return {
        "gate_block": draw(st.none() | templates("gate", depth)),
        "gate_softmax_temperature": draw(st.sampled_from([1.0, 0.5])),
        "enable_gate_weights_metrics": draw(st.booleans()),
        "gate_kwargs": {"balance_regularizer": draw(st.sampled_from([0.0, 0.1]))},
        "trainable": draw(st.sampled_from([True, True, False])),
    }


@st.composite
def levels(draw, name, tasks, depth):
    """Draw a CGCBlock, an MMoEBlock or a SharedBottomBlock."""
    kind = draw(st.sampled_from(["cgc", "mmoe", "bottom"]))
    expert = draw(templates("expert", depth - 1))
    if kind == "bottom":
        return Recipe(pk.SharedBottomBlock, tasks, expert, name=name)
    gates = draw(gate_arguments(depth - 1))
    if kind == "mmoe":
        count = draw(st.integers(1, 3))
        return Recipe(pk.MMoEBlock, tasks, expert, num_experts=count, name=name, **gates)
    shared = draw(st.integers(0, 2))
    return Recipe(
        pk.CGCBlock,
        *(tasks, expert),
        num_task_experts=draw(task_experts(tasks, shared)),
        num_shared_experts=shared,
        add_shared_gate=draw(st.booleans()),
        name=name,
        **gates,
    )


def task_experts(tasks, shared):
    """Draw one count, or one per task, so that every gate has an expert."""
    counts = st.integers(0 if shared else 1, 2)
    return counts | st.fixed_dictionaries(dict.fromkeys(tasks, counts))


@st.composite
def ples(draw, name, tasks, depth):
    expert, gates = draw(templates("expert", depth - 1)), draw(gate_arguments(depth - 1))
    shared = draw(st.integers(0, 2))
    return Recipe(
        pk.PLEBlock,
        *(draw(st.integers(1, 2)), tasks, expert),
        num_task_experts=draw(task_experts(tasks, shared)),
        num_shared_experts=shared,
        name=name,
        **gates,
    )


@st.composite
def streams(draw, name, tasks, depth):
    """Draw a StreamFeatures, followed by a PLEBlock."""
    ple = draw(ples("levels", tasks, depth))
    network = draw(parts("network", depth - 1, distinct=True))
    own = draw(st.none() | st.lists(st.sampled_from(tasks), unique=True))
    features_by_stream = Recipe(
        pk.StreamFeatures,
        *(tasks, network),
        own=own,
        shared=ple.keywords["num_shared_experts"] > 0,
        name="features",
    )
    return Recipe(pk.SequentialBlock, [features_by_stream, ple], name=name)


@st.composite
def bodies(draw, name, tasks, depth):
    """Draw one layer that contains all parts before the heads."""
    body = ples(name, tasks, depth) | levels(name, tasks, depth) | streams(name, tasks, depth)
    if depth == 1 or draw(st.booleans()):
        return draw(body)
    before = draw(rows(depth, name))
    inner = draw(bodies(f"{name}-inner", tasks, depth - 1))
    return Recipe(pk.SequentialBlock, [*before, inner], name=name)


@st.composite
def hedged(draw, name, tasks, depth):
    features = draw(st.none() | parts("network", depth - 1, distinct=True))
    expert = draw(templates("expert", depth - 1))
    return Recipe(pk.HedgedBlock, tasks, expert, features=features, name=name)


# Heads.


@st.composite
def heads(draw, tasks, weightings):
    kinds = [draw(st.sampled_from([pk.BinaryHead, pk.RegressionHead, pk.MulticlassHead]))]
    kinds += [draw(st.sampled_from([*kinds, pk.BinaryHead])) for _ in tasks[1:]]
    all_heads = [draw(head(kind, task)) for kind, task in zip(kinds, tasks)]
    binary = [task for kind, task in zip(kinds, tasks) if kind is pk.BinaryHead]
    if len(binary) > 1 and draw(st.booleans()):
        all_heads.append(Recipe(pk.ProductHead, "all", of=binary))
    weighting = draw(st.sampled_from(weightings))
    return Recipe(pk.TaskHeads, all_heads, loss_weighting=weighting, name="heads")


@st.composite
def head(draw, kind, task):
    keywords = {
        "tower": draw(st.none() | templates("tower", 2)),
        "loss_weight": draw(st.sampled_from([1.0, 0.5, 2.0])),
    }
    if kind is pk.MulticlassHead:
        keywords["num_classes"] = 3
    return Recipe(kind, task, **keywords)


# Whole models. In the paths of weights, Keras itself loses the names that ALONE matches: names of
# subclassed models, and of a Sequential outside the containers of the library.

ALONE = r"^alone/"


def functional_model(layers):
    return functional(layers, "model", pk.MultiTaskModel)


def model_in_a_model(layers):
    outermost = keras.layers.Dense(WIDTH, name="outermost")
    return functional([outermost, functional(layers, "model")], "outer", pk.MultiTaskModel)


def sequential_in_a_model(layers):
    outermost = keras.layers.Dense(WIDTH, name="outermost")
    inner = keras.Sequential(layers, name="alone")
    return functional([outermost, inner], "outer", pk.MultiTaskModel)


def called_model(layers):
    model = Subclassed(layers, name="alone")
    model(features(ROWS, WIDTH))
    return model


WHOLES = [functional_model, model_in_a_model, sequential_in_a_model, called_model]


@st.composite
def models(draw):
    """Draw a model of layers, a body and a TaskHeads."""
    tasks = draw(st.lists(st.sampled_from(TASKS), min_size=1, max_size=3, unique=True))
    before = leaves("before") | blocks_of_parts("before", DEPTH, "before")
    body = draw(st.sampled_from([bodies, bodies, bodies, hedged]))
    layers = [
        *draw(st.lists(before, max_size=1)),
        draw(body("body", tasks, DEPTH)),
        draw(heads(tasks, [None] if body is hedged else [None, "uncertainty"])),
    ]
    return Recipe(draw(st.sampled_from(WHOLES)), layers)
