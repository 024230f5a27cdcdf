"""Import of matplotlib, which is optional, and the check of `ax`."""

from typing import Any


def pyplot() -> Any:
    """Return `matplotlib.pyplot`, imported here so that the package works without matplotlib."""
    try:
        from matplotlib import pyplot as module
    except ModuleNotFoundError as error:
        raise ImportError('plots require matplotlib: pip install "ple-keras[plot]"') from error
    return module


def check_axes(ax: Any, each: str = "") -> Any:
    """Check that `ax` is one matplotlib Axes with a rectilinear projection; return it."""
    if not isinstance(ax, pyplot().Axes) or ax.name != "rectilinear":
        raise TypeError(f"ax must be a matplotlib Axes{each} or None. Received: ax={ax!r}")
    return ax
