"""Traced steps of PyTorch are equal to eager ones, to the bit."""

import importlib
import warnings
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import pytest
from keras import layers, ops

import ple_keras as pk
from ple_keras._keras.internals import set_mask
from tests.helpers import assert_all_close, numpy_of, once
from tests.models import heads_of
from tests.training.traced_steps import (
    ROWS,
    At,
    assert_equal_steps,
    data,
    dense,
    graphs,
    heads_of_two,
    numbers_and_labels,
    train,
    with_tables,
)

pytestmark = once
NIGHTLY = pytest.mark.nightly
OPTIMIZERS = [
    "Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW", "Adamax", "Ftrl", "Lamb", "Lion", "Muon",
    "RMSprop", "SGD", "ScheduleFreeAdamW",
]  # fmt: skip


def ple_with_all_parts():
    heads = heads_of_two(loss_weighting="uncertainty")
    expert = pk.ExpertBlock([4], dropout=0.2, normalization="batch", kernel_regularizer="l2")
    gates = {"balance_regularizer": 0.1}
    block = pk.PLEBlock(2, heads, expert, enable_gate_weights_metrics=True, gate_kwargs=gates)
    before = [layers.Normalization(), layers.Dense(3, activity_regularizer="l2")]
    before[0].adapt(data()[0]["numbers"])
    optimizer = keras.optimizers.AdamW(
        keras.optimizers.schedules.ExponentialDecay(0.05, 2, 0.5), global_clipnorm=0.1, use_ema=True
    )
    return dense(block, heads, before, optimizer)


def many_heads():
    kind = pk.MulticlassHead("kind", num_classes=3, class_weight=[1.0, 2.0, 3.0])
    click, buy = pk.BinaryHead("click", missing_label=-1.0), pk.BinaryHead("buy")
    both = pk.ProductHead("both", of=["click", "buy"])
    stars = pk.RegressionHead("stars", standardize=True, mean=1.0, deviation=2.0)
    heads = pk.TaskHeads([kind, click, buy, both, stars])
    return dense(pk.PLEBlock(2, heads, layers.Dense(4), isolate_task_experts=True), heads)


def ranking():
    losses = importlib.import_module("keras_rs").losses  # a package that is not known
    heads = pk.TaskHeads([pk.RankingHead("list", losses.ListMLELoss())])
    return dense(pk.SharedBottomBlock(heads, [4]), heads, [layers.Reshape((3, 1))], trace=True)


def hedged():
    heads = heads_of_two()
    return dense(pk.HedgedBlock(heads, pk.ExpertBlock([4], dropout=0.2)), heads)


def set_rate(model):
    model.optimizer.learning_rate = 0.5


def freeze(model):
    model.layers[1].trainable = False


def halve(model):
    model.set_weights([weight / 2 for weight in model.get_weights()])


WEIGHTS = {"click": np.arange(ROWS) / 10, "stars": np.ones(ROWS, "float32")}
DECAY = pk.LossWeightSchedule(lambda task, epoch: 0.9**epoch)
EQUAL = {
    "PLE with all parts": (ple_with_all_parts, {"sample_weight": WEIGHTS}),
    "heads": (many_heads, {}),
    "ranking": (ranking, {}),
    "hedged branches": (hedged, {"callbacks": [lambda: DECAY]}),
    "tables": (with_tables, {"batch_size": 6, "traced": 2}),
    "a table optimizer alone": (lambda: with_tables(pk.SparseAdagrad(global_clipnorm=0.1)), {}),
    "callbacks": (dense, {"callbacks": [lambda: At(3, set_rate), lambda: At(4, halve)]}),
    # It reads an old value after it has assigned a new one.
    "aliases": (lambda: dense(optimizer=keras.optimizers.ScheduleFreeAdamW(0.05)), {}),
}


@pytest.mark.parametrize("name", EQUAL)
def test_traced_steps_are_equal_to_eager_ones(name):
    if name == "ranking":
        pytest.importorskip("keras_rs")  # whose import draws seeds
    make, fit_kwargs = EQUAL[name]
    assert_equal_steps(make, **fit_kwargs)


@pytest.mark.parametrize(
    "name", ["tables", *(pytest.param(name, marks=NIGHTLY) for name in [*EQUAL][:4])]
)
def test_traced_evaluations_and_predictions_are_equal_to_eager_ones(name):
    if name == "ranking":
        pytest.importorskip("keras_rs")  # whose import draws seeds
    model, eager = (train(EQUAL[name][0], is_eager, epochs=1)[0] for is_eager in (False, True))
    x, y = data()
    y = {task: y[task] for task in heads_of(model).trained_tasks}
    x = {i.name: x[i.name] for i in model.inputs if i.name in x} or x["numbers"]

    def results(model):
        evaluated = [model.evaluate(x, y, batch_size=4, verbose=0) for _ in range(2)]
        on_batch = [model.test_on_batch(x, y) for _ in range(3)]
        predicted = [model.predict_on_batch(x) for _ in range(3)]
        variables = [variable.numpy() for variable in model.metrics_variables]
        return evaluated, on_batch, predicted, model.predict(x, 4, verbose=0), variables

    keras.tree.map_structure(np.testing.assert_array_equal, results(model), results(eager))
    assert [graphs(model, name) for name in ("test", "predict")] == [2, 2]
    assert graphs(eager, "predict") == 0


def test_predictions_follow_changes_of_variables():
    layer, (x, _) = layers.Dense(3), numbers_and_labels()
    model = dense(before=[layer])
    parameter = type(layer.bias.value)
    changes = [
        lambda: layer.kernel.assign(np.eye(3)),
        lambda: vars(layer.bias).update(_value=parameter(ops.ones(3))),
        lambda: layer.enable_lora(2),
    ]
    for change in changes:
        change()
        predicted = [model.predict(x, verbose=0)["click"] for _ in range(3)]
        assert graphs(model, "predict") == 1
        np.testing.assert_array_equal(predicted, 3 * [numpy_of(model(x)["click"])])


def test_threads_predict_while_shapes_change():
    heads = heads_of_two()
    model, (x, _) = dense(pk.HedgedBlock(heads, [4]), heads), numbers_and_labels()
    sizes = [1, 2, 3] * 8
    with ThreadPoolExecutor(8) as pool:
        found = [*pool.map(lambda rows: model.predict_on_batch(x[:rows]), sizes)]
    assert graphs(model, "predict") == 3
    for rows, predicted in zip(sizes, found):
        for task, values in numpy_of(model(x[:rows])).items():
            np.testing.assert_array_equal(predicted[task], values)


@pytest.mark.nightly
def test_compiled_steps_are_close_to_eager_ones():
    values = train(lambda: dense(optimizer="sgd", jit_compile=True), False)[1]
    assert_all_close(values, train(lambda: dense(optimizer="sgd"), True)[1], atol=1e-5)


def test_a_layer_that_is_frozen_during_fit_has_a_new_graph():
    assert_equal_steps(dense, callbacks=[lambda: At(3, freeze)], epochs=3)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", pytest.param("float64", marks=NIGHTLY)])
def test_traced_steps_of_other_dtypes_are_equal(policy):
    keras.config.set_dtype_policy(policy)
    assert_equal_steps(with_tables)


@pytest.mark.nightly
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_traced_steps_of_each_optimizer_are_equal(name):
    optimizer = getattr(keras.optimizers, name)
    assert_equal_steps(lambda: dense(optimizer=optimizer(0.05, clipnorm=0.1, weight_decay=0.1)))


def gate_dropout():
    heads = heads_of_two()
    return dense(pk.MMoEBlock(heads, [4], num_experts=2, gate_kwargs={"dropout": 0.2}), heads)


def recomputed():
    """Return a model whose hidden layer runs again in the backward pass, with another mask."""
    with keras.RematScope(mode="full"):
        expert = pk.ExpertBlock([4], dropout=0.5)
        return dense(before=[keras.Sequential([layers.Dense(4), layers.Dropout(0.5)]), expert])


SILENT = {
    "a seed": lambda: dense(before=[layers.Dropout(0.2, seed=1)]),
    "gate dropout": gate_dropout,
    "Nadam": lambda: dense(optimizer="nadam"),
    "accumulated gradients": lambda: dense(
        optimizer=keras.optimizers.Adam(0.05, gradient_accumulation_steps=2)
    ),
    "recomputed layers": recomputed,
}


@pytest.mark.parametrize("name", SILENT)
def test_steps_that_users_cannot_change_train_eagerly_without_a_warning(name):
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "(?s)Steps of")
        assert_equal_steps(SILENT[name], traced=0)


def test_float16_scales_the_loss_and_trains_eagerly():
    keras.config.set_dtype_policy("mixed_float16")
    assert_equal_steps(dense, traced=0)


def test_a_step_under_autocast_or_with_unusual_tensors_is_eager(monkeypatch):
    import torch

    class Tensor(torch.Tensor):
        """A subclass, whose operations a graph would not call."""

    model, (x, y) = dense(), numbers_and_labels()
    x = torch.from_numpy(x)
    for _ in range(2):
        model.train_on_batch(x, y)
    assert graphs(model) == 1
    eager = model.train_function._eager_step
    calls = []
    model.train_function._eager_step = lambda batch: calls.append(1) or eager(batch)
    model.train_on_batch(x, y)
    assert calls == []
    with torch.autocast("cpu"):
        model.train_on_batch(x, y)
    masked = x.clone()
    set_mask(masked, torch.ones(ROWS, dtype=torch.bool))
    for unusual in (x.clone().requires_grad_(), x.as_subclass(Tensor), masked):
        model.train_on_batch(unusual, y)
    assert len(calls) == 4
    monkeypatch.setattr("ple_keras.steps.traced_step.has_several_processes", lambda: True)
    model.compile("sgd")
    for _ in range(3):  # DistributedDataParallel adds communication to gradients
        model.train_on_batch(x, y)
    assert graphs(model) == 0


def test_logs_are_read_only_for_callbacks_that_need_them(monkeypatch):
    import torch

    reads = []
    tolist = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda tensor: reads.append(1) or tolist(tensor))
    train(dense, False)
    seen = []
    assert reads == []
    see_batches = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: seen.append(logs["loss"])
    )
    model, _, _ = train(dense, False, callbacks=[lambda: see_batches])
    assert len(reads) == 3  # the first step is eager
    assert all(type(loss) is float for loss in seen)
    train(dense, True, callbacks=[lambda: see_batches])
    assert seen[:4] == seen[4:]
    numbers, y = numbers_and_labels()
    model.train_on_batch(numbers, y)
    assert {*map(type, model.train_on_batch(numbers, y))} == {float}


def test_few_graphs_are_kept(monkeypatch):
    monkeypatch.setattr("ple_keras.steps.traced_step.MAX_GRAPHS", 2)
    model = dense(optimizer="sgd")
    for rows in (1, 2, 3, 4, 3, 1):
        model.train_on_batch(*numbers_and_labels(rows))
    assert (len(model.train_function._graphs.findings), graphs(model)) == (2, 1)


def test_an_error_in_a_graph_has_a_note_with_remedies():
    model, (x, y) = with_tables(), data()
    y = {task: y[task] for task in ("click", "stars")}
    x = {name: x[name] for name in ("list", "id")}
    for _ in range(3):
        model.train_on_batch(x, y)
    with pytest.raises(IndexError) as caught:
        model.train_on_batch({**x, "id": x["id"] + 1}, y)
    assert "check_inputs names ids" in caught.value.__notes__[0]
