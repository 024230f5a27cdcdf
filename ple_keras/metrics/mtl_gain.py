"""The gain of a multi-task model over single-task models."""

import re
from collections.abc import Mapping

from ple_keras._checks import check_bool, check_keys, check_number, short_repr, warn_user

# Names of metrics and losses of Keras and of this library at the end of a key. "cosine_similarity"
# is missing: higher is better for the metric, lower for the loss.
HIGHER_IS_BETTER = (
    "auc|gauc|accuracy|acc|precision|recall|io_u|f1_score|fbeta_score|r2_score|ndcg|dcg"
    "|sensitivity_at_specificity|specificity_at_sensitivity|concordance_correlation"
    "|pearson_correlation|mean_reciprocal_rank|mean_average_precision|precision_at_k|recall_at_k"
)
LOWER_IS_BETTER = (
    "loss|rmse|(squared|absolute|percentage|logarithmic|calibration)_error|mse|mae|mape|msle"
    "|logcosh|log_cosh|huber|crossentropy|cross_entropy|normalized_entropy|bce|kl_divergence|kld"
    "|poisson|deviance|hinge|dice|tversky"
)
DIRECTED = re.compile(rf"(?i)(^|_)((?P<higher>{HIGHER_IS_BETTER})|{LOWER_IS_BETTER})(_\d+)?$")
# Logs that do not rank models: sums over tasks, calibrations, which are best at 1, and others.
IGNORED = re.compile(
    r"^(val_)?(loss|mtl_score|(gate|hedge)/.*)$|^loss_weight/|(^|_)(calibration|share|learning_rate)(_\d+)?$"
)


def mtl_gain(
    multi: Mapping[str, float],
    single: Mapping[str, float],
    lower_is_better: Mapping[str, bool] | None = None,
) -> dict[str, float]:
    """Return the gain of a multi-task model over single-task models, for each metric.

    Deprecated: subtract the metrics, such as `multi["click_auc"] - single["click_auc"]`.

    The gain is `M_multi - M_single` if higher is better and `M_single - M_multi` if lower is
    better. A positive gain is an improvement.

    Args:
        multi: Metrics of the multi-task model, for example from `evaluate(return_dict=True)`.
        single: Metrics of the single-task models under the same keys. Keys in only one of the dicts
            are ignored. Logs that do not rank models are ignored unless they are in
            `lower_is_better`: "loss" and `MultiTaskScore`, which are sums over all tasks in
            `multi`; calibrations, which are best at 1; the share of a grouped AUC; loss weights,
            gate statistics, the logs of FitHedge and the learning rate.
        lower_is_better: Whether lower is better for a key: False for a metric to maximize. It is
            required for keys that do not end with the name of a metric or loss of Keras or of this
            library, such as "auc" in `val_click_auc`, and overrides such names.

    Returns:
        A dict with the gain for each common key that is not ignored.

    Raises:
        TypeError: If a metric is not a number, or a value of `lower_is_better` is not a bool.
        ValueError: If the dicts have no common key that is not ignored, a metric is not finite, the
            direction of a key is unknown, or `lower_is_better` has an unknown key.

    Warns:
        DeprecationWarning: Always.

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
    warn_user(
        "mtl_gain is deprecated. Subtract the metrics, such as multi['auc'] - single['auc']",
        DeprecationWarning,
    )
    given = {} if lower_is_better is None else lower_is_better
    keys = [key for key in multi if key in single and (key in given or not IGNORED.search(key))]
    if not keys:
        raise ValueError(
            f"multi and single must have common metrics. Received: multi={short_repr(dict(multi))}"
        )
    check_keys(given, keys, "lower_is_better", has_all=False)
    gains = {}
    for key in keys:
        first = check_number(multi[key], f"multi[{key!r}]")
        second = check_number(single[key], f"single[{key!r}]")
        direction = DIRECTED.search(key)
        if key in given:
            is_lower_better = check_bool(given[key], f"lower_is_better[{key!r}]")
        elif direction:
            is_lower_better = direction["higher"] is None
        else:
            raise ValueError(
                f"lower_is_better must have {key!r}, whose direction is unknown. Received: {given=}"
            )
        gains[key] = second - first if is_lower_better else first - second
    return gains
