"""Shared-bottom baseline."""

import keras

from ple_keras._checks import check_features
from ple_keras._keras.building import build_on
from ple_keras._keras.internals import call_keeping_masks
from ple_keras._keras.layers import BaseLayer
from ple_keras._keras.saving import register
from ple_keras._typing import ByName, Config, LayerLike, Outputs, Shape, Tensor
from ple_keras.labels.task_names import task_names
from ple_keras.layers.template import as_template


@register
class SharedBottomBlock(BaseLayer):
    """One network whose output all tasks use: the shared-bottom baseline.

    Args:
        outputs: The tasks, as for CGCBlock.
        bottom_block: The network: units or a layer to copy, like `expert_block` of CGCBlock.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: Features, `(..., D)`.
        training: Passed to the network.

    Returns:
        `{task: (..., H)}`, the same tensor for every task.

    Raises:
        TypeError, ValueError: As for CGCBlock.

    Reference:

    - Caruana, "Multitask Learning", Machine Learning 28, 1997.
      [doi:10.1023/A:1007379606734](https://doi.org/10.1023/A:1007379606734)

    Example:

    >>> bottom = SharedBottomBlock(["click", "buy"], bottom_block=[64, 32])
    >>> {name: tuple(x.shape) for name, x in bottom(keras.ops.ones((8, 16))).items()}
    {'click': (8, 32), 'buy': (8, 32)}
    """

    def __init__(self, outputs: Outputs, bottom_block: LayerLike, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True
        self._task_names = tuple(task_names(outputs))
        self._template = as_template(bottom_block, "bottom_block", self.dtype_policy)

    @property
    def task_names(self) -> list[str]:
        """The tasks, in order."""
        return list(self._task_names)

    def build(self, input_shape: Shape) -> None:
        # `_bottom` is part of the file format.
        self._bottom = self._template.copy("bottom", "bottom")
        shape = check_features(input_shape)
        self.input_spec = keras.InputSpec(min_ndim=2, axes={-1: shape[-1]})
        self._width = build_on(self._bottom, shape, self.compute_dtype, "bottom_block")
        self._restore_frozen()

    def call(self, inputs: Tensor, training: bool | None = None) -> dict[str, Tensor]:
        """Run the network once."""
        return dict.fromkeys(self._task_names, call_keeping_masks(self._bottom, inputs))

    def compute_mask(self, inputs: Tensor, previous_mask: Tensor | None) -> ByName:
        return dict.fromkeys(self._task_names, previous_mask)

    def compute_output_shape(self, input_shape: Shape) -> dict[str, Shape]:
        return dict.fromkeys(self._task_names, (*input_shape[:-1], self._width))

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "outputs": self.task_names,
            "bottom_block": self._template.serialize(),
        }
