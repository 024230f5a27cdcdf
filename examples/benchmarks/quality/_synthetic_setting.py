"""Setting of the comparison on synthetic data: recipe, metrics, heads and trees."""

from functools import partial

from _metrics import Metric
from _networks import Recipe
from _synthetic import make_synthetic
from _training import Setting

import ple_keras as pk

SYNTHETIC = Recipe(
    widths={
        "single": (146, 64),
        "bottom": (292, 64),
        "mmoe": (96, 64),
        "cgc": (96, 64),
        "ple": (96, 64),
        "mmoe-levels": (96, 64),
        "hedged": (96, 64),
        "hedged-ple": (42, 64),
    },
    tower=(32,),
    dropout=0.0,
    input_dropout=0.0,
    embedding_width=0,
    learning_rate=5e-3,
    epochs=15,
    batch_size=512,
)


def synthetic_setting(correlation: float, rows: int | None = None) -> Setting:
    """Return the setting for tasks with the given correlation. See `make_synthetic`."""
    from sklearn.ensemble import HistGradientBoostingRegressor
    from sklearn.metrics import root_mean_squared_error

    dataset = make_synthetic(correlation, rows)
    rmse = partial(Metric, name="RMSE", key="rmse", sign=-1, score=root_mean_squared_error)
    trees = partial(
        HistGradientBoostingRegressor,
        max_iter=300,
        learning_rate=0.06,
        early_stopping=True,  # a tenth of the training rows decides when boosting stops
    )
    return Setting(
        dataset=dataset,
        metrics=[rmse(task) for task in dataset.tasks],
        head=pk.RegressionHead,
        trees=lambda task, seed: trees(random_state=seed),
        recipe=SYNTHETIC,
    )
