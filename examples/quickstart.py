"""Train a TabularModel on a frame, and a PLE on arrays: the data and the snippets of the README.

    pip install -e ".[torch,examples]"
    KERAS_BACKEND=torch python examples/quickstart.py

Takes half a minute on two cores. In the simulated rows, "like" and "stars" follow from the same
taste, 15% of the rows have a label for "like", and "minutes" depends on other things. The weights
of the gates of the PLE are drawn in `gates.png`.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # more threads take longer on a busy machine

import keras
import numpy as np
import pandas as pd

import ple_keras as pk

TASKS = {"like": "binary", "stars": "regression", "minutes": "regression"}


def load_frames(seed=0, rows=12_288):
    """Return a frame of views of films to train on, and one for the test."""
    rng = np.random.default_rng(seed)
    user, film = rng.integers(200, size=rows), rng.integers(100, size=rows)
    users, films = rng.normal(size=(2, 200)), rng.normal(size=(2, 100))
    stars = 3 + users[0][user] + films[0][film] + rng.normal(size=rows)
    minutes = 60 + 20 * users[1][user] * films[1][film] + 10 * rng.normal(size=rows)
    like = np.where(rng.random(rows) < 0.15, stars > 4, np.nan)  # NaN: no label
    columns = {"user": user, "film": film, "like": like, "stars": stars, "minutes": minutes}
    frame = pd.DataFrame(columns)
    return frame[: rows * 2 // 3], frame[rows * 2 // 3 :]


def load_arrays(seed=0, rows=8192, features=16):
    """Return features and the labels of two tasks. Most of "buy" are NaN, which is no label."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, features)).astype("float32")
    seconds = np.exp(1 + 0.5 * x[:, 0] + np.sin(2 * x[:, 1]) + 0.5 * rng.normal(size=rows))
    buy = np.where(rng.random(rows) < 0.1, x[:, 0] + x[:, 2] + rng.normal(size=rows) > 1, np.nan)
    return x, {"buy": buy, "seconds": seconds}


def main():
    train, test = load_frames()
    model = pk.TabularModel(TASKS, ids=["user", "film"], seed=0)
    model.fit(train, verbose=0)
    print(model.report(test))
    print(model.predict([{"user": 7, "film": 3}]))
    model.save("model")

    keras.utils.set_random_seed(0)
    x, y = load_arrays()
    heads = pk.TaskHeads([pk.BinaryHead("buy"), pk.RegressionHead("seconds", standardize=True)])
    inputs = keras.Input((16,))
    block = pk.PLEBlock(2, heads, [64, 32], enable_gate_weights_metrics=True, name="ple")
    model = pk.MultiTaskModel(inputs, heads(block(inputs)))
    model.compile("adam")
    logger = pk.GateWeightsLogger()
    history = model.fit(x, y, validation_split=0.2, epochs=5, callbacks=[logger], verbose=0)
    print(f"\nAUC of buy on validation rows: {history.history['val_buy_auc'][-1]:.3f}")
    pk.plot_gate_history(history).savefig("gates.png")


if __name__ == "__main__":
    main()
