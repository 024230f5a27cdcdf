"""What the plotting functions share: matplotlib, which is optional, and the check of `ax`."""

from typing import Any


def pyplot() -> Any:
    """`matplotlib.pyplot`, imported only here, so that the package works without it."""
    try:
        from matplotlib import pyplot as module
    except ModuleNotFoundError as error:
        raise ImportError('plots need matplotlib: pip install "ple-keras[plot]"') from error
    return module


def check_axes(ax: Any, each: str = "") -> Any:
    """`ax`, if it is one matplotlib Axes with two plain axes."""
    if not isinstance(ax, pyplot().Axes) or ax.name != "rectilinear":
        raise TypeError(f"ax must be a matplotlib Axes{each} or None. Received: ax={ax!r}")
    return ax
