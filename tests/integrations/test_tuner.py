"""KerasTuner tunes levels, experts and widths."""

import keras
import numpy as np
import pytest

import ple_keras as pk
from tests.helpers import features
from tests.models import chain, compiled

keras_tuner = pytest.importorskip("keras_tuner")

pytestmark = pytest.mark.filterwarnings("ignore:.* is deprecated:DeprecationWarning:keras_tuner")

TRIALS = 2


def build(hp):
    heads = pk.TaskHeads([pk.BinaryHead("click"), pk.RegressionHead("time", metrics=[])])
    ple = pk.PLEBlock(
        num_layers=hp.Int("levels", 1, 2),
        outputs=heads,
        expert_block=[hp.Int("width", 4, 8, step=4)],
        num_task_experts=hp.Int("task_experts", 1, 2),
        num_shared_experts=hp.Int("shared_experts", 0, 1),
        enable_gate_weights_metrics=True,
        name="ple",
    )
    return compiled(chain(ple, heads))


def data():
    x = features(16, 3)
    return x, {"click": x[:, 0] > 0, "time": np.where(x[:, 1] > 0, x[:, 2], np.nan)}


def tuner(folder):
    objective = keras_tuner.Objective("val_mtl_score", "max")
    return keras_tuner.RandomSearch(build, objective, TRIALS, seed=1, directory=folder)


@pytest.mark.nightly
@pytest.mark.skipif(
    keras.backend.backend() != "torch", reason="other backends take long to compile each trial"
)
def test_the_best_model_is_restored_with_its_score(tmp_path):
    x, y = data()
    callbacks = [  # KerasTuner copies them for each trial
        pk.MultiTaskScore({"val_click_auc": 1.0, "val_time_loss": -0.5}),
        pk.LossWeightDecay({"click": 0.9}),
        pk.GateWeightsLogger(),
    ]
    search = tuner(tmp_path)
    search.search(x, y, validation_data=(x, y), callbacks=callbacks, verbose=0)
    best, other = search.oracle.get_best_trials(TRIALS)
    assert best.score > other.score
    assert best.hyperparameters.values != other.hyperparameters.values
    assert best.metrics.exists("val_gate/ple/0/click/max")
    (model,) = tuner(tmp_path).get_best_models()  # as a new process would do
    result = model.evaluate(x, y, return_dict=True, verbose=0)
    assert result["click_auc"] == pytest.approx(best.metrics.get_best_value("val_click_auc"))
    score = result["click_auc"] - 0.5 * result["time_loss"]
    assert score == pytest.approx(best.score, rel=1e-5)
