"""Train a PLE and hedged branches on a data frame: the quickstart of the README, with any seeds.

    pip install -e ".[torch,examples]"
    KERAS_BACKEND=torch python examples/quickstart.py
    KERAS_BACKEND=torch python examples/quickstart.py 0 1 2 3 4  # seeds

In the simulated data, "like" and "stars" follow from the same taste, and 15% of the rows have a
label for "like". "minutes" is unrelated to both. So "like" needs the shared branch, and "minutes"
a branch of its own. Takes half a minute on two cores for each seed.
"""

import os
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")  # more threads take longer on a busy machine

import keras
import numpy as np
import pandas as pd

import ple_keras as pk

TASKS = ["like", "stars", "minutes"]


def make_frame(seed: int, rows: int = 12_288) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    user, film = rng.integers(200, size=rows), rng.integers(100, size=rows)
    users, films = rng.normal(size=(3, 200)), rng.normal(size=(2, 100))
    stars = 3 + users[0][user] + films[0][film] + rng.normal(size=rows)
    like = stars + 0.7 * users[2][user] > 4
    minutes = 60 + 30 * users[1][user] * films[1][film] + 10 * rng.normal(size=rows)
    frame = pd.DataFrame({"user": user, "film": film, "stars": stars, "minutes": minutes})
    frame["like"] = np.where(rng.random(rows) < 0.15, like, np.nan)  # NaN: no label
    return frame


def fit(frame: pd.DataFrame, is_hedged: bool) -> pk.TaskReport:
    """Train on two thirds of the rows, and report on the last ones."""
    train, valid = frame[: 2 * len(frame) // 3], frame[2 * len(frame) // 3 :]
    columns = pk.Columns.infer(train, TASKS, ids=["user", "film"]).fit(train)
    data = [(columns.transform(part), dict(part[TASKS])) for part in (train, valid)]
    network = columns.network(width=8)
    heads = pk.TaskHeads(
        [
            pk.BinaryHead("like"),
            pk.RegressionHead("stars", standardize=True),
            pk.RegressionHead("minutes", standardize=True),
        ]
    )
    if is_hedged:
        features = pk.HedgedBlock(heads, [64, 32], features=network)(network.input)
    else:
        features = pk.PLEBlock(2, heads, [64, 32])(network.output)
    model = pk.MultiTaskModel(network.input, heads(features))
    model.compile(pk.table_optimizer("adam"))
    model.fit(*data[0], validation_data=data[1], batch_size=128, epochs=5, verbose=0)
    return pk.task_report(model, *data[0], validation=data[1])


print("relative errors     PLE    own  shared  mixture")
for seed in map(int, sys.argv[1:] or ["0"]):
    keras.utils.set_random_seed(seed)
    frame = make_frame(seed)
    ple, hedged = [fit(frame, is_hedged) for is_hedged in (False, True)]
    for task in TASKS:
        own, shared = [use.figures.relative_error for use in hedged.branches[task].values()]
        mixture, other = [report.validation[task].relative_error for report in (hedged, ple)]
        print(f"seed {seed}, {task:7}  {other:6.3f} {own:6.3f}  {shared:6.3f}   {mixture:6.3f}")
