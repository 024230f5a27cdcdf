"""Setting of the comparison on flights: recipe, metrics, heads and trees."""

from functools import partial

import keras
import numpy as np
from _flights import load_flights
from _metrics import Metric, calibration_error
from _networks import Recipe
from _training import Setting

import ple_keras as pk

REGRESSION = "arrival_delay"
FLIGHTS = Recipe(
    widths={
        "single": (64, 64),
        "bottom": (224, 64),
        "mmoe": (54, 64),
        "cgc": (54, 64),
        "ple": (56, 56),
        "mmoe-levels": (56, 56),
        "hedged": (50, 64),
    },
    tower=(32,),
    dropout=0.4,
    input_dropout=0.3,
    embedding_width=8,
    learning_rate=5e-3,
    epochs=6,
    batch_size=1024,
)


def flights_setting(rows: int | None = None) -> Setting:
    """Return the setting for all training rows or for the given number of them."""
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    dataset = load_flights(rows)
    delays = dataset.train.labels[REGRESSION]
    mean, deviation = float(np.nanmean(delays)), float(np.nanstd(delays))
    boosting = {
        "max_iter": 100,
        "learning_rate": 0.06,
        # It would validate on rows of the training days, which are correlated.
        "early_stopping": False,
        "categorical_features": range(len(dataset.cardinalities["categories"])),
    }
    classifier = partial(HistGradientBoostingClassifier, **boosting)
    regressor = partial(HistGradientBoostingRegressor, **boosting)
    return Setting(
        dataset=dataset,
        metrics=_metrics(dataset.tasks, deviation),
        head=partial(_head, mean=mean, deviation=deviation),
        trees=lambda task, seed: (regressor if task == REGRESSION else classifier)(
            random_state=seed
        ),
        recipe=FLIGHTS,
    )


def _metrics(tasks: list[str], deviation: float) -> list[Metric]:
    """Return the metrics for model selection, and the calibration errors."""
    from sklearn.metrics import roc_auc_score, root_mean_squared_error

    binary = [task for task in tasks if task != REGRESSION]
    auc = partial(Metric, name="AUC", key="auc", sign=1, score=roc_auc_score)
    rmse = partial(Metric, name="RMSE", key="rmse", sign=-1, score=root_mean_squared_error)
    ece = partial(Metric, name="ECE", key="ece", sign=-1, score=calibration_error, weight=0.0)
    return [
        *(auc(task, digits=4) for task in binary),
        rmse(REGRESSION, weight=1 / deviation, digits=2),
        *(ece(task, digits=4) for task in binary),
    ]


def _head(task: str, tower: pk.ExpertBlock, mean: float, deviation: float) -> pk.Head:
    """Return the head of a task. Minutes have the given mean and standard deviation.

    The regression tower predicts standard deviations from the mean. The activation scales them to
    minutes. The loss weight scales the loss, in squared minutes, to the size of the other losses.
    """
    if task != REGRESSION:
        return pk.BinaryHead(task, tower)
    minutes = partial(_to_minutes, mean=mean, deviation=deviation)
    return pk.RegressionHead(task, tower, activation=minutes, loss_weight=1 / deviation**2)


def _to_minutes(x: keras.KerasTensor, mean: float, deviation: float) -> keras.KerasTensor:
    return mean + deviation * x
