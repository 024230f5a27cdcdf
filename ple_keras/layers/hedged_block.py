"""Branches of features for each task, whose predictions TaskHeads mixes."""

from collections import UserList
from collections.abc import Mapping, Sequence
from typing import Any, Self, cast

import keras

from ple_keras._checks import check_keys
from ple_keras._keras.building import symbolic
from ple_keras._keras.internals import call_keeping_masks
from ple_keras._keras.layers import BaseLayer
from ple_keras._keras.saving import register, serialize_layers
from ple_keras._keras.slices import whole_slices
from ple_keras._typing import LayerLike, Nested, NestedShape, Outputs, Shape, Tensor, WeightSlice
from ple_keras.labels.task_names import NAME_RULE, SHARED, is_valid_name, task_names
from ple_keras.layers.cgc_block import CGCBlock
from ple_keras.layers.shared_bottom_block import SharedBottomBlock
from ple_keras.layers.stream_features import StreamFeatures
from ple_keras.layers.template import as_optional_template

OWN = "own"
INPUTS = "input_dtypes"  # a key of StreamFeatures in the config


@register
class HedgedBlock(BaseLayer):
    """Branches for each task, by default a shared one and its own: `{task: {branch: (..., H)}}`.

    TaskHeads adds a tower and an output to every branch, and mixes the logits f of a task:

        f_kb = head_kb(E_b(x_b))
        f_k  = sum_b a_kb f_kb
        prediction_k = activation(f_k)

    Each branch is trained with its own loss, and no gradient passes between branches. The mixture a
    starts with equal weights, and `fit` of a MultiTaskModel fits it on the `validation_data`. The
    model is therefore about as good as the better of single-task networks and a shared bottom,
    however related the tasks are. `docs/hedged_branches.md` has the equations of the fit.

    A plain `keras.Model` with a loss of Keras trains all branches through the mixture. Use
    MultiTaskModel or MultiTaskTraining.

    By default, the branch "shared" is a SharedBottomBlock, and "own" is one expert for each task,
    without a gate. With `features`, each branch of each task has a copy of the feature network.
    Otherwise, all branches train the layers before the block.

    Args:
        outputs: The tasks, as for CGCBlock.
        expert_block: The network of the default branches: units, or a layer to copy, as for
            CGCBlock. Units are of an ExpertBlock with "relu". For tables of numbers,
            `ExpertBlock(units, "silu")` is better, with the `features` of
            `Columns.network(number_embedding_dim={"shared": None, "click": 8})`.
        branches: Blocks keyed by branch, instead of the default branches. Each, such as a PLEBlock,
            maps the inputs to `{task: (..., H)}`. Blocks must not share layers. Branch names follow
            the rule for task names, but can be "shared".
        features: The feature network: a layer or model that maps a tensor, or a dict of columns, to
            a tensor. It is copied for each task's own branch and for the shared one, as by
            StreamFeatures, or for each of `branches`. A dict of networks is keyed by task and
            "shared", for example with smaller tables for own branches, or by branch with
            `branches`.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: With `features`, a tensor or a dict of columns, as for the feature network.
            Otherwise, a tensor `(..., D)` for all streams, or a dict keyed by stream, `{task:
            (..., D_k), "shared": (..., D_s)}`. Blocks in `branches` get the inputs unchanged, or
            their copy's features.
        training: Passed to the branches.

    Returns:
        `{task: {branch: (..., H)}}`, with the branches in alphabetical order. Their widths H can
        differ.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If not exactly one of `expert_block` and `branches` is given, there are fewer
            than two branches, a branch has an invalid name, two blocks have the same name, or a
            block does not return features for every task. See also CGCBlock and StreamFeatures.

    Example:

    >>> inputs = {"item": keras.Input((), dtype="int32"), "price": keras.Input((1,))}
    >>> item = keras.layers.Embedding(1000, 8)(inputs["item"])
    >>> network = keras.Model(inputs, keras.layers.Concatenate()([item, inputs["price"]]))
    >>> hedged = HedgedBlock(["click", "buy"], expert_block=[64, 32], features=network)
    >>> outputs = hedged({"item": np.arange(8), "price": np.ones((8, 1))})
    >>> {branch: tuple(x.shape) for branch, x in outputs["click"].items()}
    {'own': (8, 32), 'shared': (8, 32)}
    >>> heads = TaskHeads([BinaryHead("click"), BinaryHead("buy")])
    >>> {task: tuple(x.shape) for task, x in heads(outputs).items()}
    {'click': (8, 1), 'buy': (8, 1)}
    """

    def __init__(
        self,
        outputs: Outputs,
        expert_block: LayerLike | None = None,
        branches: Mapping[str, keras.Layer] | None = None,
        features: keras.Layer | Mapping[str, keras.Layer] | None = None,
        **kwargs: Any,
    ) -> None:
        dtypes = kwargs.pop(INPUTS, None)  # a key of configs
        super().__init__(**kwargs)
        self.supports_masking = True
        self._task_names = tasks = tuple(task_names(outputs))
        if (expert_block is None) == (branches is None):
            raise ValueError(
                "Exactly one of expert_block and branches must be given. "
                f"Received: expert_block={expert_block!r}, branches={branches!r}"
            )
        self._template = as_optional_template(expert_block, "expert_block", self.dtype_policy)
        if self._template:
            expert, dtype = self._template.layer, self.dtype_policy
            branches = {
                SHARED: SharedBottomBlock(tasks, expert, dtype=dtype, name=SHARED),
                # A gate over one expert has no weights.
                OWN: CGCBlock(tasks, expert, 1, 0, add_shared_gate=False, dtype=dtype, name=OWN),
            }
        blocks = _check_branches(branches)
        self._features: StreamFeatures | None = None  # the name is part of the file format
        if features is not None:
            streams = tasks if self._template else [b for b in blocks if b != SHARED]
            dtype, shared = self.dtype_policy, SHARED in blocks
            options = {"shared": shared, "dtype": dtype, "name": "features", INPUTS: dtypes}
            self._features = StreamFeatures(streams, features, **options)
            self.autocast = False  # the features cast their inputs, or need all digits
        self._branch_names = tuple(blocks)
        for branch, block in blocks.items():
            # The name of the attribute is part of the file format. No other one contains a "-".
            setattr(self, f"branch-{branch}", block)

    @property
    def task_names(self) -> list[str]:
        """The tasks, in order."""
        return list(self._task_names)

    @property
    def branch_names(self) -> list[str]:
        """The branches, in order."""
        return list(self._branch_names)

    def __getitem__(self, branch: str) -> keras.Layer:
        """Return the block of a branch.

        Raises:
            KeyError: If the branch is unknown.
        """
        if branch not in self._branch_names:
            raise KeyError(f"branch must be one of {self.branch_names}. Received: {branch=}")
        return cast(keras.Layer, getattr(self, f"branch-{branch}"))

    @property
    def layers(self) -> Sequence[keras.Layer]:
        """The features, and the blocks of the branches. `summary(expand_nested=True)` shows them.

        They are not a list, since files would then store the layers by position, not by attribute.
        """
        features = [self._features] if self._features else []
        return UserList([*features, *self._blocks()])

    def _blocks(self) -> list[keras.Layer]:
        return [self[branch] for branch in self._branch_names]

    def _slices(self, task: str, branch: str) -> list[WeightSlice]:
        """Return the weights of a task's branch, and of its copy of the features."""
        block = self[branch]
        found = block._slices(task) if isinstance(block, CGCBlock) else whole_slices(block.weights)
        if self._features:
            found += self._features._slices(task if self._template and branch == OWN else branch)
        return found

    def _input_streams(self, task: str, branch: str) -> list[str]:
        """Return the streams of the inputs that a task's branch reads; none with features."""
        if self._template and not self._features:
            return [task if branch == OWN else branch]
        return [] if self._features else [*self._task_names, SHARED]

    def __call__(self, inputs: Nested, *args: object, **kwargs: object) -> Nested:
        """Record the dtypes of the columns, which `build` does not receive, and call the layer."""
        if self._features:
            self._features._record_dtypes(inputs)
        return super().__call__(inputs, *args, **kwargs)

    def build(self, inputs_shape: NestedShape) -> None:
        dtypes = self._features and self._features._dtypes.value
        self._by_task("__call__", symbolic(inputs_shape, self.compute_dtype, dtypes))
        self._restore_frozen()

    def call(self, inputs: Nested, training: bool | None = None) -> dict[str, dict[str, Tensor]]:
        """Call the block of every branch once."""
        return self._by_task("__call__", inputs)

    def _by_task(self, method: str, inputs: Nested) -> dict[str, dict[str, Tensor]]:
        """Call a method of each layer with the inputs of the branches.

        Files identify outputs by position. On PyTorch, Keras does not sort nested dicts, so without
        sorted branches a model would swap them under another backend.
        """
        if self._features:
            inputs = getattr(self._features, method)(inputs)
        by_branch: Any = dict.fromkeys(self._branch_names, inputs)
        if self._features and not self._template:
            by_branch = inputs
        if self._template and isinstance(inputs, Mapping):
            check_keys(inputs, [*self._task_names, SHARED], "inputs")
            own = {task: inputs[task] for task in self._task_names}
            by_branch = {SHARED: inputs[SHARED], OWN: own}
        outputs = {
            branch: call_keeping_masks(getattr(self[branch], method), x)
            for branch, x in by_branch.items()
        }
        for branch, found in outputs.items():
            if not isinstance(found, Mapping) or not set(self._task_names) <= set(found):
                raise ValueError(
                    f"branches must map the inputs to a dict with the tasks {self.task_names}. "
                    f"Received: branches[{branch!r}]={self[branch]!r}, which returns {found}"
                )
        return {task: {b: outputs[b][task] for b in sorted(outputs)} for task in self._task_names}

    def compute_mask(self, inputs: Nested, previous_mask: Nested) -> None:
        """Return None, since the blocks set the masks of their outputs."""
        return None

    def compute_output_spec(self, inputs: Nested, training: bool | None = None) -> Nested:
        return self._by_task("compute_output_spec", inputs)

    def compute_output_shape(self, inputs_shape: NestedShape) -> dict[str, dict[str, Shape]]:
        return self._by_task("compute_output_shape", inputs_shape)

    def get_config(self) -> dict[str, Any]:
        blocks = None
        if not self._template:
            blocks = dict(zip(self._branch_names, serialize_layers(self._blocks())))
        features = self._features and self._features.get_config()
        config = {
            **super().get_config(),
            "outputs": self.task_names,
            "expert_block": self._template and self._template.serialize(),
            "branches": blocks,
            "features": features and features["feature_block"],
        }
        return {**config, INPUTS: features[INPUTS]} if features else config

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        branches = keras.saving.deserialize_keras_object(config["branches"])
        return super().from_config({**config, "branches": branches})


def _check_branches(branches: Mapping[str, keras.Layer] | None) -> dict[str, keras.Layer]:
    if not isinstance(branches, Mapping) or not all(
        isinstance(block, keras.Layer) for block in branches.values()
    ):
        raise TypeError(f"branches must be a dict of Keras layers. Received: branches={branches!r}")
    invalid = [branch for branch in branches if not is_valid_name(branch)]
    names = [block.name for block in branches.values()]
    if len(branches) < 2 or invalid or len(set(names)) < len(names):
        raise ValueError(
            f"branches must contain at least two blocks with different names, not {names}. A key "
            f"must be {NAME_RULE}. Received: branches={branches!r}"
        )
    return dict(branches)
