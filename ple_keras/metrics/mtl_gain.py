"""The gain of a multi-task model over single-task models."""

import re
from collections.abc import Mapping

from ple_keras._checks import check_known_keys, check_number, short_repr

# Last words, or the last two words, of keys. An entropy of a gate has no direction.
MAXIMIZED = {"auc", "gauc", "accuracy", "acc", "precision", "recall", "f1", "r2", "ndcg"}
MAXIMIZED |= {"map", "mrr"}
MINIMIZED = {"loss", "error", "mse", "rmse", "mae", "mape", "crossentropy", "logloss", "ece"}
MINIMIZED |= {"normalized_entropy"}
TOTALS = {"loss", "val_loss", "mtl_score", "val_mtl_score"}  # sums over the tasks of a model
# Last words of other logs. A calibration is best at 1.
UNDIRECTED = {"share", "calibration", "learning_rate"}
UNDIRECTED_PREFIXES = ("gate/", "val_gate/", "loss_weight/")


def mtl_gain(
    multi: Mapping[str, float],
    single: Mapping[str, float],
    signs: Mapping[str, int] | None = None,
) -> dict[str, float]:
    """Return the gain of a multi-task model over single-task models, for each metric.

    The gain is `M_multi - M_single` if higher is better and `M_single - M_multi` if lower is
    better. A positive gain is an improvement.

    Args:
        multi: Metrics of the multi-task model, such as those of `evaluate(return_dict=True)`.
        single: Metrics of the single-task models under the same keys. Keys of only one of the two
            dicts are ignored. So are logs that do not rank two models, unless they have a sign:
            "loss" and `MultiTaskScore`, which are sums over all tasks in `multi`; calibrations,
            which are best at 1; the share of a grouped AUC; loss weights, gate statistics and the
            learning rate.
        signs: 1 if higher is better, -1 if lower is better, by key. The sign of an omitted key
            follows from its last word, if known: "auc" in `click_auc`, "rmse" in
            `watch_time_rmse`, "recall" in `recall_at_5`.

    Returns:
        A dict with the gain for each common key that is not ignored.

    Raises:
        TypeError: If a metric is not a number, or metrics are not a dict by name.
        ValueError: If the dicts have no common key of this kind, a metric is not finite, or the
            sign of a key is unknown. Also if a given sign is neither 1 nor -1, or has an unknown
            key.

    Reference:

    - Tang, Liu, Zhao, Gong, "Progressive Layered Extraction (PLE): A Novel Multi-Task Learning
      (MTL) Model for Personalized Recommendations", RecSys 2020, equation 11.
      [doi:10.1145/3383313.3412236](https://doi.org/10.1145/3383313.3412236)

    Example:

    >>> mtl_gain({"click_auc": 0.75, "time_rmse": 2.0}, {"click_auc": 0.5, "time_rmse": 3.0})
    {'click_auc': 0.25, 'time_rmse': 1.0}
    """
    for argument, metrics in (("multi", multi), ("single", single)):
        if not isinstance(metrics, Mapping) or not all(isinstance(key, str) for key in metrics):
            raise TypeError(
                f"{argument} must be a dict of metrics by name. "
                f"Received: {argument}={short_repr(metrics)}"
            )
    signs = signs or {}
    keys = [key for key in multi if key in single and (key in signs or _has_direction(key))]
    if not keys:
        raise ValueError(
            "multi and single must have common keys with a direction, unlike 'loss', which is a "
            f"sum over tasks, or a calibration, but single has {list(single)}. With one task, "
            f"Keras omits the task in its keys. Received: multi={short_repr(dict(multi))}"
        )
    check_known_keys(signs, keys, "signs")
    return {
        key: _sign(key, signs)
        * (
            check_number(multi[key], f"multi[{key!r}]")
            - check_number(single[key], f"single[{key!r}]")
        )
        for key in keys
    }


def _has_direction(key: str) -> bool:
    return not (key in TOTALS or key.startswith(UNDIRECTED_PREFIXES) or _endings(key) & UNDIRECTED)


def _endings(key: str) -> set[str]:
    """Return the last word of a key and the last two, without numbers as in "recall_at_5"."""
    words = re.split(r"[^a-z0-9]+", key.lower())
    while words[1:] and (words[-1].isdigit() or words[-1] in ("at", "k")):
        words.pop()
    return {words[-1], "_".join(words[-2:])}


def _sign(key: str, signs: Mapping[str, int]) -> int:
    if key in signs:
        if signs[key] not in (1, -1):
            raise ValueError(f"signs must be 1 or -1. Received: signs[{key!r}]={signs[key]!r}")
        return signs[key]
    endings = _endings(key)
    if endings & (MAXIMIZED | MINIMIZED):
        return 1 if endings & MAXIMIZED else -1
    raise ValueError(
        f"signs must have 1 (higher is better) or -1 (lower is better) for {key!r}. "
        f"Received: signs={dict(signs)!r}"
    )
