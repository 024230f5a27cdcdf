"""A picture of a block: its experts, its gates, and who reads what."""

from typing import TYPE_CHECKING

import keras

from ple_keras.layers.cgc_block import CGCBlock
from ple_keras.layers.sequential_block import SequentialBlock
from ple_keras.plots._pyplot import check_axes, pyplot

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_architecture(ple: keras.Layer, ax: "Axes | None" = None) -> "Axes":
    """Draw the experts, gates and streams of a block, from its input upwards.

    A column is a stream: a task's, or in the middle the shared one. A solid line into a gate comes
    from an expert that the gate mixes, in the color of that expert's stream; a dashed one is what
    the gate reads.

    Args:
        ple: What PLEBlock, MMoEBlock or CGCBlock returns, or any SequentialBlock with CGCBlocks
            in it, whose other layers are left out. It need not be built.
        ax: Matplotlib's Axes to draw into, in letters and lines as large as they have room for
            now. Without them there is a new figure, as large as the block needs, of
            `matplotlib.pyplot`.

    Returns:
        The Axes; `ax.figure.savefig("ple.png")` saves the picture.

    Raises:
        TypeError: if `ple` is neither a CGCBlock nor a SequentialBlock, or `ax` no Axes.
        ValueError: if `ple` holds no CGCBlock.
        ImportError: if matplotlib is not installed.

    Example:

    >>> ax = plot_architecture(PLEBlock(2, ["click", "buy"], [64, 32]))
    >>> [text.get_text() for text in ax.texts if text.get_text().startswith("level")]
    ['level 1', 'level 2']
    """
    blocks = _levels(ple)
    plt = pyplot()
    from ple_keras.plots._architecture_drawing import Picture

    picture = Picture(blocks, title="" if ple is blocks[0] else ple.name)
    if ax is None:
        ax = plt.figure(figsize=picture.size).add_axes((0, 0, 1, 1))
    picture.draw(check_axes(ax))
    return ax


def _levels(ple: keras.Layer) -> list[CGCBlock]:
    """The CGCBlocks of a block, from the first level."""
    if isinstance(ple, CGCBlock):
        return [ple]
    allowed = "ple must be a CGCBlock, or a SequentialBlock with at least one of them"
    if not isinstance(ple, SequentialBlock):
        raise TypeError(f"{allowed}. Received: ple={ple!r}")
    blocks = [layer for layer in ple if isinstance(layer, CGCBlock)]
    if not blocks:
        raise ValueError(f"{allowed}. Received: ple={ple.layers!r}")
    return blocks
