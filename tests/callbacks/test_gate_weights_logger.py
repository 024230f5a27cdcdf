"""Statistics of gates in the logs of each epoch."""

import csv

import keras
import numpy as np
import pytest

import ple_keras as pk
from ple_keras.layers.levels import find_levels
from tests.helpers import QUICK_JIT, once
from tests.models import clicks_and_buys, compiled, functional, nested, subclassed, tracked_block

BACKEND = keras.backend.backend()


def compiled_without_learning(model, **kwargs):
    """The model, compiled with learning rate 0."""
    return compiled(model, keras.optimizers.SGD(0.0), **kwargs)


@pytest.fixture(scope="module")
def model():
    """A model with learning rate 0, which many tests fit."""
    return compiled_without_learning(functional(tracked_block()))


def fit_logged(model, epochs=1, callbacks=(), logger=None, **kwargs):
    callbacks = [logger or pk.GateWeightsLogger(), *callbacks]
    kwargs = {"batch_size": 8, "epochs": epochs, "verbose": 0, **kwargs}
    return model.fit(*clicks_and_buys(), callbacks=callbacks, **kwargs).history


def expected(model, x, prefix="gate"):
    """The statistics of a model that does not learn, from the weights of each example."""
    figures = {}
    for level, gates in pk.gate_weights(model, x).items():
        for gate, weights in gates.items():
            names = find_levels(model)[level].gate_experts[gate]
            entropy = -(weights * np.log(weights)).sum(axis=-1) / np.log(len(names))
            values = [*weights.mean(axis=0), entropy.mean(), weights.max(axis=-1).mean()]
            for name, value in zip([*names, "entropy", "max"], values):
                figures[f"{prefix}/{level}/{gate}/{name}"] = value
    return figures


def of_gates(history):
    return {key: value for key, value in history.items() if "gate/" in key}


XLA = pytest.param(functional, True, 1, marks=pytest.mark.nightly)  # TensorFlow compiles for long


@pytest.mark.parametrize(
    ("make_model", "jit_compile", "steps"),
    [
        *(pytest.param(each, QUICK_JIT, 1, marks=once) for each in (subclassed, nested)),
        *{
            "torch": [(functional, False, 1)],
            "jax": [(functional, True, 2)],
            "tensorflow": [(functional, False, 2), XLA],
        }[BACKEND],
    ],
)
def test_logged_statistics_are_those_of_the_weights_of_each_example(make_model, jit_compile, steps):
    model = compiled_without_learning(
        make_model(tracked_block()), jit_compile=jit_compile, steps_per_execution=steps
    )
    valid, labels = clicks_and_buys(rows=13, seed=1)
    history = fit_logged(model, validation_data=(valid, labels))
    figures = {**expected(model, clicks_and_buys()[0]), **expected(model, valid, "val_gate")}
    assert set(of_gates(history)) == set(figures)
    for key, value in figures.items():
        np.testing.assert_allclose(history[key], [value], rtol=1e-5, atol=1e-6, err_msg=key)


@once
def test_a_second_fit_starts_with_reset_statistics(model):
    logger = pk.GateWeightsLogger()
    model.evaluate(*clicks_and_buys(), verbose=0, callbacks=[logger])
    first = fit_logged(model, logger=logger)
    model.evaluate(*clicks_and_buys(), verbose=0, callbacks=[logger])
    model.predict(clicks_and_buys()[0], verbose=0)
    second = fit_logged(model, logger=logger)
    assert of_gates(first)
    for key, value in of_gates(first).items():
        assert second[key] == pytest.approx(value, rel=1e-6)


@pytest.mark.skipif(BACKEND != "jax", reason="keras.distribution needs JAX")
def test_a_process_without_a_distribution_waits_for_no_other_process(model, monkeypatch):
    expected = fit_logged(model, shuffle=False)
    monkeypatch.setattr("jax.process_count", lambda *_: 2)
    assert fit_logged(model, shuffle=False) == expected


def rows_of(path):
    return list(csv.DictReader(path.read_text().splitlines()))


@once
def test_two_loggers_log_the_same_as_the_file(model, tmp_path):
    path, x = tmp_path / "gates.csv", clicks_and_buys()[0]
    callbacks = [pk.GateWeightsLogger(path)]
    history = fit_logged(model, 2, validation_data=clicks_and_buys(), callbacks=callbacks)
    rows = rows_of(path)
    assert [row["epoch"] for row in rows] == ["0", "1"]
    assert set(rows[0]) == {"epoch", *of_gates(history)}
    for key, value in {**expected(model, x), **expected(model, x, "val_gate")}.items():
        assert history[key] == pytest.approx([value] * 2, rel=1e-4)
        assert [float(row[key]) for row in rows] == history[key]


@once
def test_a_continued_run_keeps_the_lines_of_earlier_epochs(model, tmp_path):
    path = tmp_path / "gates.csv"
    fit_logged(model, epochs=3, logger=pk.GateWeightsLogger(path))
    continued = {"epochs": 4, "initial_epoch": 2, "validation_data": clicks_and_buys()}
    fit_logged(model, logger=pk.GateWeightsLogger(str(path)), **continued)
    rows = rows_of(path)
    assert [row["epoch"] for row in rows] == ["0", "1", "2", "3"]
    assert [bool(row["val_gate/ple/0/click/max"]) for row in rows] == [False, False, True, True]
    fit_logged(model, logger=pk.GateWeightsLogger(path))
    assert [row["epoch"] for row in rows_of(path)] == ["0"]


@once
@pytest.mark.parametrize("make_model", [functional, subclassed])
def test_a_model_without_gate_statistics_is_refused(make_model):
    model = compiled_without_learning(make_model(tracked_block(enable_gate_weights_metrics=False)))
    message = r"enable_gate_weights_metrics=True\. Received: model=<"
    with pytest.raises(ValueError, match=message):
        fit_logged(model)


@once
def test_a_wrong_path_is_refused(model, tmp_path):
    for path, message in (
        (tmp_path / "nowhere" / "gates.csv", r"in a folder\. Received: path=.*nowhere"),
        (tmp_path, r"path must be a file.*Received: path="),
    ):
        with pytest.raises(ValueError, match=message):
            fit_logged(model, logger=pk.GateWeightsLogger(path))
