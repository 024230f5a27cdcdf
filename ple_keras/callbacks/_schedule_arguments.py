"""The arguments of a schedule of loss weights."""

import inspect
from collections.abc import Callable, Sequence

POSITION, KEYWORD = "position", "keyword"


def logs_argument(fn: Callable[..., float]) -> str | None:
    """Return how a schedule takes the logs: by position, by keyword, or not (None).

    Raises:
        TypeError: If `fn` can be called neither with a task and an epoch nor with logs in addition.
    """
    message = "fn must be a function fn(task, epoch) or fn(task, epoch, logs)"
    if not callable(fn):
        raise TypeError(f"{message}. Received: fn={fn!r}")
    try:
        signature = inspect.signature(fn)
    except ValueError:  # some builtins have no signature
        return None
    argument = _position_or_keyword([*signature.parameters.values()])
    positions = [None] * (3 if argument == POSITION else 2)
    keywords = {"logs": None} if argument == KEYWORD else {}
    try:
        signature.bind(*positions, **keywords)
    except TypeError as error:
        raise TypeError(f"{message}: {error}. Received: fn={fn!r}") from error
    return argument


def _position_or_keyword(parameters: Sequence[inspect.Parameter]) -> str | None:
    for third in parameters[2:3]:
        is_positional = third.kind in (third.POSITIONAL_ONLY, third.POSITIONAL_OR_KEYWORD)
        if is_positional and (third.name == "logs" or third.default is third.empty):
            return POSITION
    by_keyword = [p for i, p in enumerate(parameters) if i > 2 or p.kind is p.KEYWORD_ONLY]
    is_keyword = any(p.name == "logs" and p.kind is not p.POSITIONAL_ONLY for p in by_keyword)
    return KEYWORD if is_keyword else None
