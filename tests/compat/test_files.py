"""Files of every released version load, with the same predictions, logs and training steps."""

import keras
import numpy as np
import pytest

from tests.compat.write_files import FOLDER, of_model, step

FILES = sorted(FOLDER.glob("*/*/*.keras"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: "-".join(file.parts[-3:]))
def test_a_file_predicts_and_trains_as_when_it_was_written(file):
    if file.parent.name == keras.backend.backend():
        found = step(keras.models.load_model(file))
    else:  # whose optimizer is not installed, and which draws different random numbers
        model = keras.models.load_model(file, compile=False)
        found = {f"before/{t}": p for t, p in model.predict(of_model(model)[0], verbose=0).items()}
    with np.load(file.with_suffix(".npz")) as expected:
        assert found.keys() <= {*expected}
        for key, value in found.items():
            np.testing.assert_allclose(value, expected[key], rtol=1e-5, atol=1e-5, err_msg=key)
