"""Files of the last release load, with the same predictions, logs and training steps."""

import pickle

import keras
import numpy as np
import pytest

import ple_keras as pk
from ple_keras._keras.batches import Batches
from ple_keras._keras.layers import find_layers
from ple_keras.hedging.branched_model import BranchedModel
from tests.compat.write_files import FOLDER, frame, of_model, step, step_tabular
from tests.helpers import once

BACKEND = keras.backend.backend()


def find_files(pattern):
    """Return files, of which each backend reads its own, and PyTorch all."""
    return [
        pytest.param(
            path, id="-".join(path.parts[-3:]), marks=[] if BACKEND in path.parts else once
        )
        for path in sorted(FOLDER.glob(pattern))
    ]


@pytest.mark.parametrize("file", find_files("0.*/*/*.keras"))
def test_a_file_predicts_and_trains_as_when_it_was_written(file):
    if file.parent.name == BACKEND:
        found = step(keras.models.load_model(file))
    else:  # whose optimizer is not installed, and which draws different random numbers
        model = keras.models.load_model(file, compile=False)
        found = {f"before/{t}": p for t, p in model.predict(of_model(model)[0], verbose=0).items()}
    with np.load(file.with_suffix(".npz")) as expected:
        assert found.keys() <= {*expected}
        for key, value in found.items():
            np.testing.assert_allclose(value, expected[key], rtol=1e-5, atol=1e-5, err_msg=key)


@pytest.mark.parametrize("folder", find_files("0.*/*/tabular"))
def test_a_tabular_model_predicts_and_trains_as_when_it_was_written(folder):
    found = step_tabular(folder)
    with np.load(folder.with_suffix(".npz")) as expected:
        assert found.keys() == {*expected}
        for key, value in found.items():
            if folder.parent.name == BACKEND or key.startswith("before/"):  # other random numbers
                np.testing.assert_allclose(value, expected[key], rtol=1e-5, atol=1e-5, err_msg=key)


@once
def test_the_next_fit_of_a_tabular_model_has_the_networks_of_its_version():
    model = pk.TabularModel.load(FOLDER / "0.8.0" / "torch" / "tabular")
    model.fit(frame(), epochs=0, verbose=0)
    experts = find_layers(model.keras_model, pk.ExpertBlock)
    assert {expert.activation.__name__ for expert in experts} == {"silu"}
    assert len(find_layers(model.keras_model, pk.NumberEmbedding)) == 2
    arguments = {"embedding_dim": 2, "number_embedding_dim": 8, "spare_rows": 0.5}
    assert model.get_params().items() >= arguments.items()


@once
def test_a_pickle_of_a_tabular_model_has_the_new_names_of_arguments():
    state = pk.TabularModel({"like": "binary"}).__getstate__()
    old = {"width": 3, "number_units": None, "spare": 1.0}
    state["_arguments"] = {"tasks": {"like": "binary"}, **old}
    model = pk.TabularModel({"like": "binary"})
    model.__setstate__(state)
    new = {"embedding_dim": 3, "number_embedding_dim": None, "spare_rows": 1.0}
    assert model.get_params() == {"tasks": {"like": "binary"}, **new}


@once
@pytest.mark.parametrize("file", sorted(FOLDER.glob("*/torch/kept.pickle")))
def test_fit_restores_the_best_epochs_of_the_last_release(file):
    model = keras.models.load_model(file.with_name("hedged.keras"))
    data = of_model(model)
    hedge = pk.FitHedge(data)
    hedge.kept = pickle.loads(file.read_bytes())  # of epochs after those of the model
    model.fit(*data, initial_epoch=2, epochs=3, callbacks=[hedge], verbose=0)
    branched = BranchedModel(model)
    losses = branched.losses(branched.read(Batches(*data))).relative
    for group, kept in hedge.kept.items():
        assert kept.epoch == 1
        of_group = [losses[task, group.branch] for task in group.tasks]
        assert sum(of_group) == pytest.approx(kept.loss, rel=1e-5)
