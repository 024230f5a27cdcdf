"""A plot of the experts, gates and streams of a block."""

from typing import TYPE_CHECKING

import keras

from ple_keras.layers.cgc_block import CGCBlock
from ple_keras.layers.sequential_block import SequentialBlock
from ple_keras.plots._pyplot import check_axes, pyplot

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_architecture(ple: keras.Layer, ax: "Axes | None" = None) -> "Axes":
    """Plot the experts, gates and streams of a block, with the input at the bottom.

    Each column is a stream: a task's, or the shared stream in the middle. A solid line into a gate
    comes from an expert that the gate mixes, and has the color of that expert's stream. A dashed
    line is the input of the gate: its stream, a context that only gates read, or both.

    Args:
        ple: A PLEBlock, MMoEBlock or CGCBlock, or any SequentialBlock with CGCBlocks; its other
            layers are left out. It need not be built.
        ax: The matplotlib Axes to draw on; texts and lines scale to their current size. By
            default, a new figure of `matplotlib.pyplot`, of the size that the block needs.

    Returns:
        The Axes; `ax.figure.savefig("ple.png")` saves the plot.

    Raises:
        TypeError: If `ple` is neither a CGCBlock nor a SequentialBlock, or `ax` is not an Axes.
        ValueError: If `ple` has no CGCBlock.
        ImportError: If matplotlib is not installed.

    Example:

    >>> ax = plot_architecture(PLEBlock(2, ["click", "buy"], [64, 32]))
    >>> [text.get_text() for text in ax.texts if text.get_text().startswith("level")]
    ['level 1', 'level 2']
    """
    blocks = _levels(ple)
    plt = pyplot()
    from ple_keras.plots._architecture_drawing import ArchitectureDrawing

    drawing = ArchitectureDrawing(blocks, title="" if ple is blocks[0] else ple.name)
    if ax is None:
        ax = plt.figure(figsize=drawing.size).add_axes((0, 0, 1, 1))
    drawing.draw(check_axes(ax))
    return ax


def _levels(ple: keras.Layer) -> list[CGCBlock]:
    """Return the CGCBlocks of a block, from the first level."""
    if isinstance(ple, CGCBlock):
        return [ple]
    allowed = "ple must be a CGCBlock, or a SequentialBlock with at least one CGCBlock"
    if not isinstance(ple, SequentialBlock):
        raise TypeError(f"{allowed}. Received: ple={ple!r}")
    blocks = [layer for layer in ple if isinstance(layer, CGCBlock)]
    if not blocks:
        raise ValueError(f"{allowed}. Received: ple={ple.layers!r}")
    return blocks
