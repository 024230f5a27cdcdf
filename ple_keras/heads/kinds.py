"""The kinds of tasks: names of heads, or unbuilt heads."""

from functools import partial
from typing import Any

from ple_keras._checks import short_repr
from ple_keras._typing import LayerLike
from ple_keras.families.family import Family
from ple_keras.heads.binary_heads import BinaryHead
from ple_keras.heads.head import Head
from ple_keras.heads.multiclass_head import MulticlassHead
from ple_keras.heads.regression_heads import CountHead, RegressionHead, TweedieHead

KINDS: dict[str, Any] = {
    "binary": BinaryHead,
    "regression": partial(RegressionHead, standardize=True),
    "count": partial(CountHead, standardize=True),
    "amount": partial(TweedieHead, standardize=True),
    "multiclass": MulticlassHead,
}


def new_head(
    kind: str | Head, task: str = "task", tower: LayerLike | None = None, num_classes: int = 2
) -> Head:
    """Return a new head of a kind, or the head itself."""
    if isinstance(kind, Head):
        return kind
    options = {"num_classes": num_classes} if kind == "multiclass" else {}
    head: Head = KINDS[kind](task, tower=tower, **options)
    return head


def is_kind(kind: Any) -> bool:
    """Return whether an object is the name of a kind, or an unbuilt head."""
    return not kind.built if isinstance(kind, Head) else kind in [*KINDS]


def row_family(kind: Any, task: str, argument: str, rule: str = "") -> Family:
    """Return the family of a kind whose rows have losses, for arrays.

    Args:
        kind: A name, or an unbuilt head of the task.
        task: The task.
        argument: The name of the argument that has the kind.
        rule: What the argument can be otherwise.
    """
    head = new_head(kind) if is_kind(kind) else None
    family = head and head._row_family()
    if not family or getattr(kind, "task", task) != task:
        raise ValueError(
            f"{argument} must be one of {[*KINDS]}{rule}, or an unbuilt head of {task!r} with the "
            f"loss of one of them. Received: {argument}={short_repr(kind)}"
        )
    return family
