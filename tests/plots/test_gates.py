"""Plots of gate weights: content and wrong arguments."""

import operator

import keras
import numpy as np
import pytest

import ple_keras as pk
from tests.helpers import features, once
from tests.models import clicks_and_buys, compiled, functional, tracked_block
from tests.refusals import all_refused

pytest.importorskip("matplotlib")
pytestmark = once
X = features(20, 4)


@pytest.fixture(scope="module")
def report():
    return pk.gate_report(functional(tracked_block()), X)


def test_each_level_has_a_heat_map_of_the_mean_weights(report):
    figure = pk.plot_gate_weights(report)
    assert [panel.get_title(loc="left") for panel in figure.axes] == ["ple/0", "ple/1"]
    use = report.levels["ple/0"]
    panel = figure.axes[0]
    assert [t.get_text() for t in panel.get_yticklabels()] == [f"{g} gate" for g in use.gates]
    assert [t.get_text() for t in panel.get_xticklabels()] == list(use.experts)
    (image,) = panel.images
    assert image.get_clim() == (0, 1)  # the same in every panel
    shown = np.ma.filled(image.get_array(), np.nan)
    for row, gate in enumerate(use.gates.values()):
        expected = [gate.mean.get(expert, np.nan) for expert in use.experts]
        np.testing.assert_allclose(shown[row] ** 2, expected)
    numbers = [text.get_text() for text in panel.texts]
    assert numbers == [f"{w:.2f}" for gate in use.gates.values() for w in gate.mean.values()]


def history_of(**kwargs):
    model = compiled(functional(tracked_block()), keras.optimizers.SGD(0.1))
    x, y = clicks_and_buys()
    kwargs = {"epochs": 3, "callbacks": [pk.GateWeightsLogger()], "verbose": 0, **kwargs}
    return model.fit(x, y, **kwargs)


@pytest.fixture(scope="module")
def history():
    return history_of(validation_data=clicks_and_buys(), validation_freq=2, epochs=5)


TITLES = ["ple/0: click gate", "ple/0: buy gate", "ple/0: shared gate"]
TITLES += ["ple/1: click gate", "ple/1: buy gate"]


def test_each_gate_has_a_panel_with_the_values_of_the_history(history):
    figure = pk.plot_gate_history(history)
    assert [panel.get_title(loc="left") for panel in figure.axes] == TITLES
    panel = figure.axes[0]
    names = [text.get_text() for text in panel.get_legend().get_texts()]
    assert names == ["click/expert_0", "click/expert_1", "shared/expert_0", "largest weight"]
    by_style = {
        style: [x for x in panel.lines if x.get_linestyle() == style] for style in ["-", "--"]
    }
    assert [len(lines) for lines in by_style.values()] == [4, 4]
    prefix = "gate/ple/0/click/click/expert_0"
    np.testing.assert_array_equal(by_style["-"][0].get_ydata(), history.history[prefix])
    np.testing.assert_array_equal(by_style["--"][0].get_ydata(), history.history[f"val_{prefix}"])
    np.testing.assert_array_equal(by_style["-"][0].get_xdata(), [1, 2, 3, 4, 5])
    np.testing.assert_array_equal(by_style["--"][0].get_xdata(), [2, 4])


def test_a_model_a_dict_or_a_table_of_the_file_is_taken_as_history(history, tmp_path):
    pandas = pytest.importorskip("pandas")
    history_of(callbacks=[pk.GateWeightsLogger(tmp_path / "gates.csv")])
    for logs in (history.model, history.history, pandas.read_csv(tmp_path / "gates.csv")):
        figure = pk.plot_gate_history(logs)
        assert [panel.get_title(loc="left") for panel in figure.axes] == TITLES


REFUSED = {
    "report": (pk.plot_gate_weights, {}, TypeError, r"report must be.*Received: report=\{\}"),
    "key": (pk.plot_gate_history, {"gate/x": [1.0]}, "gate statistics"),
    "keys": (pk.plot_gate_history, {"loss": [1.0]}, r"gate statistics\. .*history=\['loss'\]"),
    "number": (pk.plot_gate_history, 3, TypeError, r"history must be.*Received: history=3"),
    "path": (pk.plot_gate_history, "g.csv", TypeError, r"pass pandas\.read_csv.*history='g\.csv'"),
}


test_wrong_arguments_are_refused = all_refused(operator.call, REFUSED)
