"""Checks of the heads of a TaskHeads, and the order of its ProductHeads."""

from collections.abc import Mapping, Sequence
from typing import Any

from ple_keras._checks import in_dependency_order, task_names
from ple_keras._typing import TaskName
from ple_keras.heads._heads_by_task import HeadsByTask
from ple_keras.heads.binary_head import BinaryHead
from ple_keras.heads.head import Head
from ple_keras.heads.product_head import ProductHead


def check_heads(heads: Sequence[Head] | Mapping[TaskName, Head]) -> list[Head]:
    """Return the heads as a list; check that their tasks and layer names differ."""
    if isinstance(heads, HeadsByTask):
        raise TypeError(
            "heads must not be a TaskHeads, which owns its heads: use it itself, or create new "
            f"heads. Received: heads={heads!r}"
        )
    if isinstance(heads, Mapping):
        task_names(heads, "heads")
        heads = list(heads.values())
    if not isinstance(heads, Sequence) or not all(isinstance(head, Head) for head in heads):
        raise TypeError(
            f"heads must be a sequence of heads or a dict by task. Received: heads={heads!r}"
        )
    if not heads:
        raise ValueError("heads must contain at least one head. Received: heads=[]")
    for kind, names in (
        ("tasks", [head.task for head in heads]),
        ("layer names", [head.name for head in heads]),
    ):
        if len(set(names)) < len(names):
            raise ValueError(
                f"heads must have unique {kind}, not {names}. Received: heads={heads!r}"
            )
    return list(heads)


def sort_products(heads: Sequence[Head]) -> list[Any]:
    """Return the ProductHeads, each after its factors.

    Raises:
        ValueError: If a factor is missing or has no probability, or if ProductHeads form a cycle.
    """
    by_task = {head.task: head for head in heads}
    products = [head for head in heads if isinstance(head, ProductHead)]
    for head in products:
        for task in head.of:
            _check_factor(head, task, by_task)
    by_task = {head.task: head for head in products}
    factors = {head.task: head.of for head in products}

    def message(cycle: list[TaskName]) -> str:
        of = {task: factors[task] for task in cycle}
        return f"heads must not contain a cycle of products. Received: heads with of={of}"

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
            "of must name heads without an activity_regularizer, because a product uses their "
            f"logits. Received: of={product.of} in {product.name!r}"
        )
    if not isinstance(head, BinaryHead) or type(head).call is not Head.call:
        raise ValueError(
            "of must name BinaryHeads, or subclasses that do not override `call`, or ProductHeads; "
            f"{task!r} is a {type(head).__name__}. Received: of={product.of} in {product.name!r}"
        )
