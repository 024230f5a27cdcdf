"""Setting of the comparison on Census-Income: recipe, metrics, heads and trees."""

from functools import partial

from _census import load_census
from _metrics import Metric
from _networks import Recipe
from _training import Setting

import ple_keras as pk

CENSUS = Recipe(
    widths={
        "single": (134, 64),
        "bottom": (292, 64),
        "mmoe": (96, 64),
        "cgc": (96, 64),
        "ple": (96, 64),
        "mmoe-levels": (96, 64),
        "hedged": (96, 64),
        "hedged-ple": (45, 64),
    },
    tower=(32,),
    dropout=0.2,
    input_dropout=0.1,
    embedding_width=8,
    learning_rate=5e-3,
    epochs=6,
    batch_size=1024,
)


def census_setting(rows: int | None = None) -> Setting:
    """Return the setting for all training rows or for the given number of them."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.metrics import roc_auc_score

    dataset = load_census(rows)
    auc = partial(Metric, name="AUC", key="auc", sign=1, score=roc_auc_score)
    trees = partial(
        HistGradientBoostingClassifier,
        max_iter=300,
        learning_rate=0.06,
        early_stopping=True,  # a tenth of the training rows decides when boosting stops
        categorical_features=range(len(dataset.cardinalities["categories"])),
    )
    return Setting(
        dataset=dataset,
        metrics=[auc(task) for task in dataset.tasks],
        head=pk.BinaryHead,
        trees=lambda task, seed: trees(random_state=seed),
        recipe=CENSUS,
    )
