"""`fit` produces the same result with every data format of Keras, with labels by task."""

from operator import itemgetter

import keras
import numpy as np
import pytest

import ple_keras as pk
from tests.helpers import Dataset, features, once
from tests.models import chain, compiled, heads_alone
from tests.refusals import check_refused

ROWS, BATCH = 10, 4  # the last batch is smaller
STEPS = 3


def arrays():
    """Return features, labels of which some are missing, and sample weights, by task."""
    y = {
        "click": (np.arange(ROWS) % 3 > 0).astype("float32"),
        "time": np.linspace(-1, 1, ROWS, dtype="float32"),
    }
    y["time"][[0, 4, 5, 6, 7]] = np.nan  # the second batch has none
    one = np.linspace(0.1, 2, ROWS, dtype="float32")
    weights = {"click": one, "time": one[::-1].copy()}
    return features(ROWS, 3), y, weights


def rows(data):
    """Return the same data as a list of rows."""
    return [keras.tree.map_structure(lambda column, i=i: column[i], data) for i in range(ROWS)]


def tf_data(data):
    tf = pytest.importorskip("tensorflow")
    return tf.data.Dataset.from_tensor_slices(data).batch(BATCH)


def torch_data_loader(data):
    torch_data = pytest.importorskip("torch.utils.data")
    return torch_data.DataLoader(rows(data), batch_size=BATCH)


def grain_dataset(data):
    grain = pytest.importorskip("grain")
    return grain.MapDataset.source(rows(data)).batch(BATCH).repeat()  # endless, `fit` runs STEPS


def grain_data_loader(data):
    grain = pytest.importorskip("grain")
    return grain.DataLoader(
        data_source=rows(data),
        sampler=grain.samplers.SequentialSampler(ROWS),
        operations=[grain.transforms.Batch(BATCH)],
    )


def batches(data):
    parts = [slice(index * BATCH, (index + 1) * BATCH) for index in range(STEPS)]
    return Dataset([keras.tree.map_structure(itemgetter(part), data) for part in parts])


def generator(data):
    """Return exactly the batches that two epochs read."""
    return (batch for _ in range(2) for batch in batches(data).batches)


GRAIN = [grain_dataset, grain_data_loader]  # which give arrays of NumPy
KINDS = [tf_data, torch_data_loader, batches, generator]
KINDS += [pytest.param(kind, marks=once) for kind in GRAIN]


@pytest.fixture(scope="module")
def fit():
    """Return a function that fits one model, always from the same initial weights."""
    keras.utils.set_random_seed(0)
    heads = pk.TaskHeads([pk.BinaryHead("click", metrics=[]), pk.RegressionHead("time")])
    model = chain(pk.PLEBlock(1, heads, [4]), heads)
    compiled(model, keras.optimizers.SGD(0.1), run_eagerly=False)
    start = model.get_weights()

    def run(*data, **kwargs):
        model.set_weights(start)
        return model.fit(*data, epochs=2, shuffle=False, verbose=0, **kwargs).history

    return run


@pytest.fixture(scope="module")
def history_of_arrays(fit):
    """Return the logs of a fit on arrays. Only training uses sample weights."""
    x, y, weights = arrays()
    return fit(x, y, BATCH, sample_weight=weights, validation_data=(x, y))


@pytest.mark.filterwarnings("ignore:Your input ran out of data:UserWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_losses_and_metrics_equal_those_of_arrays(kind, fit, history_of_arrays):
    x, y, weights = arrays()
    steps = STEPS if kind in (grain_dataset, generator) else None
    history = fit(
        kind((x, y, weights)),
        steps_per_epoch=steps,
        validation_data=(batches if kind is generator else kind)((x, y)),
        validation_steps=steps,
    )
    assert {"loss", "click_loss", "time_loss", "time_rmse", "val_time_rmse"} < set(history)
    assert set(history) == set(history_of_arrays)
    for key, values in history_of_arrays.items():
        assert np.isfinite(values).all(), key
        np.testing.assert_allclose(history[key], values, rtol=1e-5, err_msg=key)


@pytest.mark.parametrize("kind", KINDS)
def test_fit_checks_the_labels_of_the_first_batch(kind, fit):
    x, y, _ = arrays()
    y["click"][1] = -1
    message = r"y\['click'\] must lie in \[0, 1\].*create the head with missing_label=-1"
    check_refused(lambda: fit(kind((x, y)), steps_per_epoch=STEPS), ValueError, message)


@once
@pytest.mark.parametrize("kind", KINDS)
def test_fit_adapts_heads_to_datasets_that_can_be_read_twice(kind):
    x, y, _ = arrays()
    heads = pk.TaskHeads([pk.RegressionHead("time", standardize=True)])
    model, message = compiled(heads_alone(heads)), r"Call adapt\(y\).*Received: mean=None"
    check_refused(lambda: model.evaluate(x, y["time"], verbose=0), ValueError, message)

    def fit():
        model.fit(kind((x, y["time"])), steps_per_epoch=STEPS, verbose=0)

    if kind is generator:
        check_refused(fit, ValueError, message)
    else:
        fit()
        assert heads["time"].mean == pytest.approx([np.nanmean(y["time"])], rel=1e-5)
