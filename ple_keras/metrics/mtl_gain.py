"""The gain of a multi-task model over single-task models."""

import re
from collections.abc import Mapping

from ple_keras._checks import check_bool, check_known_keys, check_number, short_repr

# Patterns for the end of a key: the names of the metrics and losses of Keras and of this library.
# "cosine_similarity" is not here: higher is better for the metric, lower for the loss.
HIGHER_IS_BETTER = (
    "auc|gauc|accuracy|acc|precision|recall|io_u|f1_score|fbeta_score|r2_score"
    "|sensitivity_at_specificity|specificity_at_sensitivity"
    "|concordance_correlation|pearson_correlation"
    "|ndcg|dcg|mean_reciprocal_rank|mean_average_precision|precision_at_k|recall_at_k"  # KerasRS
)
LOWER_IS_BETTER = (
    "loss|rmse|normalized_entropy|expected_calibration_error"
    "|mean_squared_error|mean_absolute_error|mean_absolute_percentage_error"
    "|mean_squared_logarithmic_error|mse|mae|mape|msle|logcosh|log_cosh|huber"
    "|crossentropy|cross_entropy|bce|kl_divergence|kld|poisson|hinge|dice|tversky|circle|ctc"
)
# Logs of the library and of Keras that do not rank two models. A calibration is best at 1.
UNDIRECTED = "calibration|share|learning_rate"
UNDIRECTED_PREFIXES = ("gate/", "val_gate/", "loss_weight/")
TOTALS = {"loss", "val_loss", "mtl_score", "val_mtl_score"}  # sums over the tasks of a model


def mtl_gain(
    multi: Mapping[str, float],
    single: Mapping[str, float],
    lower_is_better: Mapping[str, bool] | None = None,
) -> dict[str, float]:
    """Return the gain of a multi-task model over single-task models, for each metric.

    The gain is `M_multi - M_single` if higher is better and `M_single - M_multi` if lower is
    better. A positive gain is an improvement.

    Args:
        multi: Metrics of the multi-task model, such as those of `evaluate(return_dict=True)`.
        single: Metrics of the single-task models under the same keys. Keys of only one of the two
            dicts are ignored. So are logs that do not rank two models, unless `lower_is_better` has
            them: "loss" and `MultiTaskScore`, which are sums over all tasks in `multi`;
            calibrations, which are best at 1; the share of a grouped AUC; loss weights, gate
            statistics and the learning rate.
        lower_is_better: Whether lower is better, by key: False for a metric to maximize. It is
            needed for keys that do not end with the name of a metric or loss of Keras or of this
            library, such as "auc" in `val_click_auc`. A key given here overrides the name.

    Returns:
        A dict with the gain for each common key that is not ignored.

    Raises:
        TypeError: If a metric is not a number, or an argument is not a dict by name, of bools for
            `lower_is_better`.
        ValueError: If the dicts have no common key of this kind, a metric is not finite, the
            direction of a key is unknown, or `lower_is_better` has an unknown key.

    Reference:

    - Tang, Liu, Zhao, Gong, "Progressive Layered Extraction (PLE): A Novel Multi-Task Learning
      (MTL) Model for Personalized Recommendations", RecSys 2020, equation 11.
      [doi:10.1145/3383313.3412236](https://doi.org/10.1145/3383313.3412236)

    Example:

    >>> mtl_gain({"click_auc": 0.75, "time_rmse": 2.0}, {"click_auc": 0.5, "time_rmse": 3.0})
    {'click_auc': 0.25, 'time_rmse': 1.0}
    >>> mtl_gain({"click_lift": 3.0}, {"click_lift": 2.5}, lower_is_better={"click_lift": False})
    {'click_lift': 0.5}
    """
    given = {} if lower_is_better is None else lower_is_better
    arguments = {"multi": multi, "single": single, "lower_is_better": given}
    for argument, by_key in arguments.items():
        if not isinstance(by_key, Mapping) or not all(isinstance(key, str) for key in by_key):
            raise TypeError(
                f"{argument} must be a dict by name of a metric. "
                f"Received: {argument}={short_repr(by_key)}"
            )
    keys = [key for key in multi if key in single and (key in given or _has_direction(key))]
    if not keys:
        raise ValueError(
            "multi and single must have common keys with a direction, unlike 'loss', which is a "
            f"sum over tasks, or a calibration, but single has {list(single)}. With one task, "
            f"Keras omits the task in its keys. Received: multi={short_repr(dict(multi))}"
        )
    check_known_keys(given, keys, "lower_is_better")
    return {
        key: (-1 if _is_lower_better(key, given) else 1)
        * (
            check_number(multi[key], f"multi[{key!r}]")
            - check_number(single[key], f"single[{key!r}]")
        )
        for key in keys
    }


def _has_direction(key: str) -> bool:
    return not (
        key in TOTALS or key.startswith(UNDIRECTED_PREFIXES) or _ends_with_name(key, UNDIRECTED)
    )


def _is_lower_better(key: str, given: Mapping[str, bool]) -> bool:
    if key in given:
        return check_bool(given[key], f"lower_is_better[{key!r}]")
    is_lower = _ends_with_name(key, LOWER_IS_BETTER)
    if is_lower or _ends_with_name(key, HIGHER_IS_BETTER):
        return is_lower
    raise ValueError(
        f"lower_is_better must have True or False for {key!r}, whose direction is unknown. "
        f"Received: lower_is_better={dict(given)!r}"
    )


def _ends_with_name(key: str, names: str) -> bool:
    """Return whether a key is a name or `{task}_{name}`, or this and the number of a second one."""
    return bool(re.search(rf"(^|_)({names})(_\d+)?$", key, re.IGNORECASE))
