"""What training tasks together is worth."""

import re
from collections.abc import Mapping

from ple_keras._checks import check_known_keys, check_number

MORE_IS_BETTER = {"auc", "accuracy", "acc", "precision", "recall", "f1", "r2", "ndcg", "map", "mrr"}
LESS_IS_BETTER = {"loss", "error", "mse", "rmse", "mae", "mape", "crossentropy", "logloss", "ece"}


def mtl_gain(
    multi: Mapping[str, float],
    single: Mapping[str, float],
    signs: Mapping[str, int] | None = None,
) -> dict[str, float]:
    """By how much a multi-task model betters single-task ones, metric by metric.

    `M_multi - M_single` where more is better, `M_single - M_multi` where less is: a positive gain
    is always good (Tang et al., RecSys 2020, equation 11).

    Args:
        multi: The multi-task model's metrics, such as what `evaluate(return_dict=True)` returns.
        single: The single-task models' under the same keys; others of either are left out.
        signs: 1 where more is better, -1 where less is, by key. For keys that it leaves out the
            last word tells, if it is a known one: "auc" in `click_auc`, "rmse" in
            `watch_time_rmse`, "recall" in `recall_at_5`.

    Returns:
        The gain for each key that both have.

    Raises:
        TypeError: if a metric is no number, or metrics are no dict by name.
        ValueError: if the dicts have no key in common, a sign is neither 1 nor -1 or of an unknown
            key, a metric is not finite, or a key's last word doesn't tell its sign.

    Example:

    >>> mtl_gain({"click_auc": 0.75, "time_rmse": 2.0}, {"click_auc": 0.5, "time_rmse": 3.0})
    {'click_auc': 0.25, 'time_rmse': 1.0}
    """
    for argument, metrics in (("multi", multi), ("single", single)):
        if not isinstance(metrics, Mapping) or not all(isinstance(key, str) for key in metrics):
            raise TypeError(
                f"{argument} must be a dict of metrics by name. Received: {argument}={metrics!r}"
            )
    keys = [key for key in multi if key in single]
    if not keys:
        raise ValueError(
            f"multi and single must have keys in common, single has {list(single)}; with a single "
            f"task Keras leaves the task out of its keys. Received: multi={dict(multi)!r}"
        )
    signs = signs or {}
    check_known_keys(signs, keys, "signs")
    return {
        key: _sign(key, signs)
        * (
            check_number(multi[key], f"multi[{key!r}]")
            - check_number(single[key], f"single[{key!r}]")
        )
        for key in keys
    }


def _sign(key: str, signs: Mapping[str, int]) -> int:
    if key in signs:
        if signs[key] not in (1, -1):
            raise ValueError(f"signs must be 1 or -1. Received: signs[{key!r}]={signs[key]!r}")
        return signs[key]
    words = re.split(r"[^a-z0-9]+", key.lower())
    while words[1:] and (words[-1].isdigit() or words[-1] in ("at", "k")):
        words.pop()
    if words[-1] in MORE_IS_BETTER | LESS_IS_BETTER:
        return 1 if words[-1] in MORE_IS_BETTER else -1
    raise ValueError(
        f"signs must say whether more of {key!r} is better (1) or less (-1). "
        f"Received: signs={dict(signs)!r}"
    )
