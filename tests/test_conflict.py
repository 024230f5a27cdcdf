"""Cosines between the tasks' gradients, against gradients that no backend computed."""

import keras
import numpy as np
import pytest

import ple_keras as pk
from tests.helpers import features, numpy_of, randomize
from tests.test_refused import check_refused, table

NAN = float("nan")
KINDS = {
    "stacked": lambda: pk.ExpertBlock([3], activation=None),
    "copied": lambda: keras.layers.Dense(3),
}
every_kind = pytest.mark.parametrize("expert", list(KINDS.values()), ids=list(KINDS))


def model_of(block, heads, width=4, seed=1):
    """Block and heads on one input, with weights drawn from the seed, biases too."""
    inputs = keras.Input((width,))
    model = keras.Model(inputs, heads(block(inputs)))
    randomize(model, seed)
    return model


def two_numbers(**kwargs):
    return pk.TaskHeads([pk.RegressionHead("a", **kwargs), pk.RegressionHead("b", **kwargs)])


def one_level(num_shared=1):
    return pk.MMoEBlock(["a", "b"], keras.layers.Dense(3), num_shared, name="mmoe")


def labels(*tasks, rows=12, seed=5):
    rng = np.random.default_rng(seed)
    return {task: rng.normal(size=rows).astype("float32") for task in tasks}


def cosine(first, second):
    return first @ second / np.linalg.norm(first) / np.linalg.norm(second)


def flat(conflict):
    """`{(level, place, pair): cosine}`."""
    return {
        (level, place, pair): value
        for level, places in conflict.items()
        for place, cosines in places.items()
        for pair, value in cosines.items()
    }


def assert_alike(actual, expected, atol=1e-5):
    actual, expected = flat(actual), flat(expected)
    assert list(actual) == list(expected)
    for key, value in expected.items():
        assert type(actual[key]) is float
        assert actual[key] == pytest.approx(value, abs=atol, nan_ok=True), key


# By hand: one level of linear experts under linear heads ------------------------------------------


def weight(model, end):
    (found,) = [w for w in model.weights if w.path.endswith(end)]
    return np.float64(numpy_of(found))


def kernels(block, width):
    """Kernel and bias of each expert, from what the experts make of 0 and of unit vectors."""
    points = np.concatenate([np.zeros((1, width)), np.eye(width)]).astype("float32")
    outputs = {
        name: np.float64(out) for name, out in numpy_of(block.expert_outputs(points)).items()
    }
    return {name: (out[1:] - out[0], out[0]) for name, out in outputs.items()}


def gradients_by_hand(model, block, task, x, y):
    """The gradients of one task's mean squared error: `{place: vector}`."""
    gate, head = weight(model, f"gate-{task}/projection/kernel"), f"{task}_head/projection/"
    kernel, bias = weight(model, f"{head}kernel")[:, 0], weight(model, f"{head}bias")
    experts = kernels(block, x.shape[-1])
    names = block.gate_experts[task]
    weights = np.exp(x @ gate)
    weights /= weights.sum(axis=-1, keepdims=True)
    parts = np.stack([(x @ experts[n][0] + experts[n][1]) @ kernel for n in names], axis=-1)
    mixed = (weights * parts).sum(axis=-1, keepdims=True)
    has_label = np.isfinite(y)
    error = np.where(has_label, 2 * (mixed[:, 0] + bias - y) / has_label.sum(), 0)[:, None]
    by_expert = [weights[:, [i]] * (experts[n][0] @ kernel) for i, n in enumerate(names)]
    by_gate = (weights * (parts - mixed)) @ gate.T
    found = {"input": (error * (sum(by_expert) + by_gate)).ravel()}
    for i, name in enumerate(names):
        of_output = error * weights[:, [i]] * kernel
        found[name] = np.concatenate([(x.T @ of_output).ravel(), of_output.sum(axis=0)])
    return found


@every_kind
def test_cosines_are_those_of_the_gradients_computed_by_hand(expert):
    block = pk.CGCBlock(["a", "b"], expert(), num_shared_experts=2, add_shared_gate=False, name="c")
    model = model_of(block, two_numbers())
    x, y = features(12, 4), labels("a", "b")
    y["a"][::3], y["b"][1::4] = NAN, NAN
    a, b = (gradients_by_hand(model, block, task, np.float64(x), y[task]) for task in y)
    places = ["input", "shared/expert_0", "shared/expert_1"]
    expected = {"c": {place: {("a", "b"): cosine(a[place], b[place])} for place in places}}
    assert_alike(pk.gradient_conflict(model, x, y), expected)


# By finite differences ----------------------------------------------------------------------------


def losses_of(model, heads, x, y):
    predictions = model.predict_on_batch(x)
    return np.array([float(heads[t].new_loss()(y[t], predictions[t])) for t in heads])


def slopes(losses_at, values, step=0.01):
    """The gradient `(tasks, size)` of a function from an array to the tasks' losses."""
    columns = []
    for index in range(values.size):
        move = np.zeros_like(values)
        move.flat[index] = step
        columns.append((losses_at(values + move) - losses_at(values - move)) / (2 * step))
    return np.stack(columns, axis=-1)


def slopes_of_weight(model, heads, x, y, variable, index):
    """The same for a variable, or for what lies at an index of its first axis."""
    before = numpy_of(variable)

    def losses_at(values):
        moved = before.copy()
        moved[index] = values
        variable.assign(moved)
        return losses_of(model, heads, x, y)

    found = slopes(losses_at, before[index])
    variable.assign(before)
    return found


def cosines_of(tasks, gradients):
    pairs = [(i, j) for i in range(len(tasks)) for j in range(i + 1, len(tasks))]
    return {(tasks[i], tasks[j]): cosine(gradients[i], gradients[j]) for i, j in pairs}


def test_cosines_of_two_levels_are_those_of_finite_differences():
    """Stacked experts, whose normalization is each expert's own."""
    heads = {task: pk.RegressionHead(task) for task in ("a", "b")}
    expert = pk.ExpertBlock([3], activation="tanh", normalization="layer")
    ple = pk.PLEBlock(2, heads, expert, name="ple")
    model = model_of(ple, pk.TaskHeads(heads), width=2)
    x, y = features(6, 2), labels("a", "b", rows=6)
    expected = {}
    for level, block in zip(("ple/0", "ple/1"), ple):
        own = [w for w in block.weights if "expert-shared-0" in w.path]
        stacks = [w for w in block.weights if w.path[:-2].endswith(("/kernel", "/bias"))]
        assert (len(own), len(stacks)) == (2, 2)
        pieces = [(w, slice(None)) for w in own] + [(w, 2) for w in stacks]
        found = [slopes_of_weight(model, heads, x, y, *piece) for piece in pieces]
        expected[level] = {"shared/expert_0": cosines_of(["a", "b"], np.concatenate(found, axis=1))}
    of_input = slopes(lambda values: losses_of(model, heads, values, y), x)
    expected["ple/0"] = {"input": cosines_of(["a", "b"], of_input), **expected["ple/0"]}
    assert_alike(pk.gradient_conflict(model, x, y), expected, atol=0.01)


def test_products_and_classes_have_gradients_too():
    click, buy = pk.BinaryHead("click"), pk.BinaryHead("buy", missing_label=-1)
    both, kind = (
        pk.ProductHead("both", of=["click", "buy"]),
        pk.MulticlassHead("kind", num_classes=3),
    )
    heads = {head.task: head for head in (both, click, kind, buy)}
    layer = pk.TaskHeads(heads)
    model = model_of(pk.MMoEBlock(layer, keras.layers.Dense(3), 2, name="mmoe"), layer, width=3)
    x, rng = features(6, 3), np.random.default_rng(0)
    y = {task: rng.integers(0, 2, 6) for task in heads}
    y["buy"][::2] = -1
    found = pk.gradient_conflict(model, x, y)["mmoe"]
    assert list(found) == ["input", "shared/expert_0", "shared/expert_1"]
    expected = slopes(lambda values: losses_of(model, heads, values, y), x)
    expected = {"mmoe": {"input": cosines_of(["both", "click", "kind", "buy"], expected)}}
    assert_alike({"mmoe": {"input": found["input"]}}, expected, atol=0.01)


# What they mean -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("sign", "expected"), [(1, 1.0), (-1, -1.0)])
def test_tasks_that_want_the_same_agree_and_those_that_want_the_opposite_conflict(sign, expected):
    model = model_of(one_level(), two_numbers())
    for part in ("kernel", "bias"):
        a, b = (w for w in model.weights if w.path.endswith(f"_head/projection/{part}"))
        b.assign(a)
    y = 1000 * labels("a")["a"]
    found = pk.gradient_conflict(model, features(12, 4), {"a": y, "b": sign * y})
    for cosines in found["mmoe"].values():
        assert cosines["a", "b"] == pytest.approx(expected, abs=1e-3)


def test_a_task_without_a_label_has_no_cosine():
    model = model_of(one_level(), two_numbers())
    y = {**labels("a"), "b": np.full(12, NAN)}
    found = pk.gradient_conflict(model, features(12, 4), y)
    np.testing.assert_equal(list(flat(found).values()), [NAN, NAN])


@pytest.mark.parametrize("kind", [pk.ExpertBlock, keras.layers.Dense])
def test_a_frozen_expert_has_no_cosine(kind):
    block = pk.MMoEBlock(["a", "b"], kind(3, trainable=False), 1, name="mmoe")
    model = model_of(block, two_numbers())
    found = pk.gradient_conflict(model, features(12, 4), labels("a", "b"))["mmoe"]
    assert np.isnan(found["shared/expert_0"]["a", "b"])
    assert np.isfinite(found["input"]["a", "b"])


@every_kind
def test_a_level_without_shared_experts_has_its_input_alone(expert):
    ple = pk.PLEBlock(2, ["a", "b"], expert(), num_shared_experts=0, name="ple")
    model = model_of(ple, two_numbers())
    found = pk.gradient_conflict(model, features(12, 4), labels("a", "b"))
    assert {level: list(places) for level, places in found.items()} == {
        "ple/0": ["input"],
        "ple/1": [],
    }
    assert np.isfinite(found["ple/0"]["input"]["a", "b"])


def test_a_single_task_has_no_pair():
    heads = pk.TaskHeads([pk.BinaryHead("a")])
    model = model_of(pk.PLEBlock(2, heads, [3], name="ple"), heads)
    assert pk.gradient_conflict(model, features(12, 4), {"a": np.ones(12)}) == {
        "ple/0": {"input": {}, "shared/expert_0": {}},
        "ple/1": {"shared/expert_0": {}},
    }


# Batches ------------------------------------------------------------------------------------------


class Chunks(keras.utils.PyDataset):
    def __init__(self, x, y):
        super().__init__()
        self.x, self.y = x, y

    def __len__(self):
        return 3

    def __getitem__(self, index):
        rows = slice(4 * index, 4 * index + 4)
        return self.x[rows], {task: y[rows] for task, y in self.y.items()}


def test_several_batches_give_the_mean_of_those_that_have_labels():
    model = model_of(one_level(2), two_numbers())
    x, y = features(12, 4), labels("a", "b")
    y["b"][4:8] = NAN
    chunks = Chunks(x, y)
    single = [flat(pk.gradient_conflict(model, *chunks[i])) for i in range(3)]
    assert np.isnan(list(single[1].values())).all()
    for found in (pk.gradient_conflict(model, x, y, 4), pk.gradient_conflict(model, chunks)):
        for key, value in flat(found).items():
            assert value == pytest.approx((single[0][key] + single[2][key]) / 2, abs=1e-6)


def test_without_a_batch_size_arrays_are_one_batch():
    model = model_of(one_level(), two_numbers())
    x, y = features(1500, 4), labels("a", "b", rows=1500)
    whole = pk.gradient_conflict(model, x, y)
    assert_alike(whole, pk.gradient_conflict(model, x, y, batch_size=1500), atol=1e-9)
    halves = pk.gradient_conflict(model, x, y, batch_size=750)
    assert abs(halves["mmoe"]["input"]["a", "b"] - whole["mmoe"]["input"]["a", "b"]) > 1e-6


def test_features_may_come_as_a_dict():
    first, second = keras.Input((2,), name="first"), keras.Input((2,), name="second")
    heads = two_numbers()
    block = one_level()
    joined = keras.Model([first, second], heads(block(keras.layers.Concatenate()([first, second]))))
    by_name = keras.Model({"first": first, "second": second}, dict(zip(("a", "b"), joined.outputs)))
    x, y = features(12, 4), labels("a", "b")
    parts = {"first": x[:, :2], "second": x[:, 2:]}
    found = pk.gradient_conflict(joined, list(parts.values()), y, 6)
    assert np.isfinite(list(flat(found).values())).all()
    by_name.compile(loss={"a": "mse", "b": "mse"})
    assert_alike(pk.gradient_conflict(by_name, parts, y, 6), found)


# What has no influence, and what is left alone ----------------------------------------------------


def rich_model():
    """With all that has a state or draws random numbers in training."""
    heads = pk.TaskHeads(
        [pk.RegressionHead("a", tower=pk.ExpertBlock([3], dropout=0.5)), pk.BinaryHead("b")]
    )
    expert = pk.ExpertBlock([3], normalization="batch", dropout=0.5, activation="tanh")
    ple = pk.PLEBlock(
        2,
        heads,
        expert,
        enable_gate_weights_metrics=True,
        gate_dropout=0.5,
        expert_balance_regularizer=0.1,
        name="ple",
    )
    model = model_of(ple, heads)
    model.compile("sgd", **heads.compile_kwargs())
    return model


def test_weights_and_statistics_are_left_alone():
    model = rich_model()
    x, y = features(8, 4), {"a": features(8), "b": np.arange(8) % 2}
    before = [numpy_of(w) for w in model.variables]
    first = pk.gradient_conflict(model, x, y)
    assert_alike(pk.gradient_conflict(model, x, y), first, atol=1e-9)
    for weights, after in zip(before, model.variables):
        np.testing.assert_array_equal(weights, numpy_of(after), err_msg=after.path)
    assert np.isfinite(list(flat(first).values())).all()


@pytest.mark.parametrize("weighting", [None, "uncertainty"])
def test_the_weights_of_the_losses_have_no_influence(weighting):
    found = []
    for loss_weight in (1.0, 7.0, 0.0):
        layers = [pk.RegressionHead("a", loss_weight=loss_weight), pk.BinaryHead("b")]
        heads = pk.TaskHeads(layers, loss_weighting=weighting)
        model = model_of(one_level(), heads)
        model.compile("sgd", **heads.compile_kwargs())
        heads.multiply_loss_weights({"b": loss_weight})
        for w in heads.trainable_weights:
            if w.path.endswith("log_variances"):
                w.assign([loss_weight, -loss_weight])
        y = {**labels("a"), "b": np.arange(12) % 2}
        found.append(pk.gradient_conflict(model, features(12, 4), y))
    assert_alike(found[1], found[0])
    assert_alike(found[2], found[0])


def test_a_loss_that_a_task_was_compiled_with_takes_the_place_of_its_head_s():
    x, y = features(12, 4), labels("a", "b")
    heads = two_numbers()
    model = model_of(one_level(), heads)
    squared = pk.gradient_conflict(model, x, y)
    absolute = pk.gradient_conflict(model_of(one_level(), two_numbers(loss="mae")), x, y)
    assert absolute != squared
    for losses in ("mae", "MeanAbsoluteError", keras.losses.MeanAbsoluteError(reduction="sum")):
        model.compile(**heads.compile_kwargs(loss={"b": losses, "a": [losses]}))
        assert_alike(pk.gradient_conflict(model, x, y), absolute)
    model.compile(**heads.compile_kwargs(loss={"a": "mae", "b": None}))
    assert pk.gradient_conflict(model, x, y) == {"mmoe": {"input": {}, "shared/expert_0": {}}}
    model.compile(**heads.compile_kwargs())
    assert_alike(pk.gradient_conflict(model, x, y), squared)


def test_a_layer_that_was_never_compiled_does_as_well():
    x, y = features(12, 4), labels("b", "a")
    chain = pk.SequentialBlock([one_level(), two_numbers()], name="chain")
    chain(x)
    model = keras.Model(inputs := keras.Input((4,)), chain(inputs))
    model.compile(loss={"b": "mse", "a": "mse"})
    found = pk.gradient_conflict(chain, x, y)
    assert list(found["chain/0"]["input"]) == [("a", "b")]
    assert_alike(pk.gradient_conflict(model, x, y), found)


def test_a_model_from_a_file_gives_the_same(tmp_path):
    x, y = features(12, 4), labels("a", "b")
    heads = two_numbers()
    model = model_of(one_level(), heads)
    model.compile("sgd", **heads.compile_kwargs())
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert_alike(pk.gradient_conflict(loaded, x, y), pk.gradient_conflict(model, x, y))


# Dtypes, masks ------------------------------------------------------------------------------------


def half_or_whole(policy):
    keras.config.set_dtype_policy(policy)
    expert = pk.ExpertBlock([3], activation="tanh")
    model = model_of(pk.MMoEBlock(["a", "b"], expert, 2, name="mmoe"), two_numbers())
    for w in model.weights:
        if w.path.endswith("_head/projection/kernel"):
            w.assign(0.001 * w)
    return model


def test_half_precision_loses_no_small_gradients():
    x, y = features(4096, 4), labels("a", "b", rows=4096)
    whole = pk.gradient_conflict(half_or_whole("float32"), x, y)
    assert_alike(pk.gradient_conflict(half_or_whole("mixed_float16"), x, y), whole, atol=0.01)


def test_integers_as_features_are_numbers():
    inputs = keras.Input((4,), dtype="int32")
    heads = two_numbers()
    model = keras.Model(inputs, heads(one_level()(inputs)))
    x, y = np.arange(48).reshape(12, 4) % 5, labels("a", "b")
    assert np.isfinite(list(flat(pk.gradient_conflict(model, x, y)).values())).all()


@keras.saving.register_keras_serializable("test_conflict")
class Masked(keras.layers.Dense):
    """Remembers whether it got a mask."""

    masked: list = []  # noqa: RUF012

    def call(self, inputs, mask=None):
        self.masked.append(mask is not None)
        return super().call(inputs)


def test_masks_reach_the_experts():
    inputs = keras.Input((5, 4))
    heads = two_numbers()
    block = pk.MMoEBlock(["a", "b"], Masked(3), 1)
    model = keras.Model(inputs, heads(block(keras.layers.Masking()(inputs))))
    Masked.masked.clear()
    y = {task: features(3, 5) for task in ("a", "b")}
    pk.gradient_conflict(model, features(3, 5, 4), y)
    assert Masked.masked
    assert all(Masked.masked)


# Refused ------------------------------------------------------------------------------------------


def plain(outputs=lambda found: found, loss=None):
    """A model of a level and what is made of its outputs."""
    inputs = keras.Input((4,))
    model = keras.Model(inputs, outputs(one_level()(inputs)))
    if loss is not None:
        model.compile(loss=loss)
    return model


def run_twice():
    inputs = keras.Input((4,))
    block = one_level()
    first, second = block(inputs), block(keras.layers.Rescaling(2.0)(inputs))
    return keras.Model(inputs, two_numbers()({"a": first["a"], "b": second["b"]}))


def without_blocks():
    inputs = keras.Input((4,))
    return keras.Model(inputs, two_numbers()({"a": inputs, "b": inputs}))


def complete():
    return plain(lambda found: two_numbers()(found))


X, Y = features(12, 4), labels("a", "b")
TWO = {"a": "mse", "b": ["mse", "mae"]}

REFUSED = {
    "no_model": (lambda: 3, (X, Y), TypeError, "model must be a Keras model.*model=3"),
    "no_blocks": (without_blocks, (X, Y), ValueError, "model must contain a PLEBlock"),
    "unbuilt": (one_level, (X, Y), ValueError, "must be built.*built=False"),
    "no_losses": (plain, (X, Y), ValueError, "losses by task: those of TaskHeads.*model.loss=None"),
    "one_loss": (lambda: plain(loss="mse"), (X, Y), ValueError, "by task.*model.loss='mse'"),
    "two_losses": (
        lambda: plain(loss=TWO),
        (X, Y),
        ValueError,
        r"one loss.*Received: loss\['b'\]=",
    ),
    "a_list": (
        lambda: plain(lambda found: list(two_numbers()(found).values())),
        (X, Y),
        ValueError,
        r"return a dict by task, with the keys \['a', 'b'\].*returns \[",
    ),
    "a_task_less": (
        lambda: plain(lambda found: {"a": two_numbers()(found)["a"]}),
        (X, Y),
        ValueError,
        r"return a dict by task, with the keys \['a', 'b'\].*returns \['a'\]",
    ),
    "twice": (run_twice, (X, Y), ValueError, r"run each block once.*runs \['mmoe'\]"),
    "no_labels": (complete, (X,), TypeError, r"y must be a dict by task, \['a', 'b'\].*y=None"),
    "list_y": (complete, (X, list(Y.values())), TypeError, r"y must be a dict by task.*y=\["),
    "a_label_less": (
        complete,
        (X, {"b": Y["b"]}),
        ValueError,
        r"y must have labels for each of \['a', 'b'\]; missing: \['a'\]. Received: y=\{'b'\}",
    ),
    "rows": (complete, (X[:3], Y), ValueError, "as many rows.*rows="),
    "batch_size": (complete, (X, Y, 0), ValueError, "batch_size must be at least 1"),
    "no_batch": (complete, (iter(()),), ValueError, "x must hold at least one batch.*x=<"),
}


@pytest.mark.parametrize(("model", "arguments", "error", "message"), table(REFUSED))
def test_bad_input_is_refused(model, arguments, error, message):
    model = model()
    check_refused(lambda: pk.gradient_conflict(model, *arguments), error, message)
