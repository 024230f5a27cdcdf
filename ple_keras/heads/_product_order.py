"""The order in which products of tasks are computed."""

from collections.abc import Sequence
from typing import Any

from ple_keras.heads.binary_head import BinaryHead
from ple_keras.heads.head import Head
from ple_keras.heads.product_head import ProductHead


def in_order(heads: Sequence[Head]) -> list[Any]:
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
    ordered: list[Any] = []
    while len(ordered) < len(products):
        waiting = [head for head in products if head not in ordered]
        open_tasks = {head.task for head in waiting}
        ready = [head for head in waiting if not open_tasks & set(head.of)]
        if not ready:
            circle = {head.task: head.of for head in waiting}
            raise ValueError(
                f"heads must not hold products in a circle. Received: heads with of={circle}"
            )
        ordered += ready
    return ordered


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
