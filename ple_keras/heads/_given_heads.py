"""Checks of the heads of a TaskHeads, and the order in which their products are computed."""

from collections.abc import Mapping, Sequence
from typing import Any

from ple_keras._checks import in_dependency_order, task_names
from ple_keras._typing import TaskName
from ple_keras.heads.binary_head import BinaryHead
from ple_keras.heads.head import Head
from ple_keras.heads.product_head import ProductHead


def check_heads(heads: Sequence[Head] | Mapping[TaskName, Head]) -> list[Head]:
    """The heads as a list; tasks and layer names must differ."""
    if isinstance(heads, Mapping):
        task_names(heads, "heads")
        heads = list(heads.values())
    if not isinstance(heads, Sequence) or not all(isinstance(head, Head) for head in heads):
        raise TypeError(f"heads must be a sequence of heads. Received: heads={heads!r}")
    if not heads:
        raise ValueError("heads must hold at least one head. Received: heads=[]")
    for kind, names in (
        ("tasks", [head.task for head in heads]),
        ("layer names", [head.name for head in heads]),
    ):
        if len(set(names)) < len(names):
            raise ValueError(
                f"heads must have different {kind}, not {names}. Received: heads={heads!r}"
            )
    return list(heads)


def sort_products(heads: Sequence[Head]) -> list[Any]:
    """The products among the heads, each after those that it is made of.

    Raises:
        ValueError: if one is made of tasks that are not there or have no probability, or of
            itself.
    """
    by_task = {head.task: head for head in heads}
    products = [head for head in heads if isinstance(head, ProductHead)]
    for head in products:
        for task in head.of:
            _check_factor(head, task, by_task)
    by_task = {head.task: head for head in products}
    factors = {head.task: head.of for head in products}
    message = f"heads must not hold products in a circle. Received: heads with of={factors}"
    return [by_task[task] for task in in_dependency_order(factors, message)]


def _check_factor(product: ProductHead, task: str, by_task: dict[str, Head]) -> None:
    if task not in by_task:
        raise ValueError(
            f"of must name tasks of the same TaskHeads, {list(by_task)}. "
            f"Received: of={product.of} in {product.name!r}"
        )
    head = by_task[task]
    if isinstance(head, ProductHead):
        return
    if head.activity_regularizer is not None:
        raise ValueError(
            "of must name heads without an activity_regularizer, since a product takes their "
            f"logits. Received: of={product.of} in {product.name!r}"
        )
    if not isinstance(head, BinaryHead) or type(head).call is not Head.call:
        raise ValueError(
            "of must name BinaryHeads, or subclasses that leave `call` as it is, and ProductHeads; "
            f"{task!r} is a {type(head).__name__}. Received: of={product.of} in {product.name!r}"
        )
