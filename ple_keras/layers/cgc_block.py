"""Customized Gate Control, one level of PLE."""

from collections import Counter, UserList
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from ple_keras._checks import (
    check_bool,
    check_counts,
    check_int,
    check_known_value,
    check_number,
    check_width,
    short_repr,
)
from ple_keras._keras.layers import Untracked
from ple_keras._keras.saving import check_names, ordered_attribute, register, save_names
from ple_keras._keras.slices import whole_slices
from ple_keras._typing import (
    ByName,
    Config,
    GateInput,
    LayerLike,
    Nested,
    Outputs,
    Shape,
    Store,
    StreamLayers,
    Streams,
    StreamShapes,
    Tensor,
    WeightSlice,
)
from ple_keras.labels.task_names import SHARED, task_names
from ple_keras.layers.connections import GATE_INPUTS, Connections, GateInputs, shape_of
from ple_keras.layers.expert_block import ExpertBlock
from ple_keras.layers.experts import CopiedExperts, Experts, StackedExperts
from ple_keras.layers.gate import Gate, gate_options
from ple_keras.layers.gated_block import GatedBlock
from ple_keras.layers.observer import active_observer
from ple_keras.layers.template import as_optional_template, as_stream_templates


@dataclass(frozen=True)
class BuiltLevel:
    """The layers of a built CGCBlock.

    Attributes:
        experts: The layer of all experts.
        gates: The gates, keyed by name.
        widths: The width of each stream.
    """

    experts: Experts
    gates: dict[str, Gate]
    widths: dict[str, int | None]


@register
class CGCBlock(GatedBlock):
    """One level of experts and gates: Customized Gate Control.

    Each task k has its own experts. For each example, gates weight the experts that a stream
    uses:

        w_k  = softmax(W_k g_k(r_k) / T)
        x_k' = sum_e w_{k,e} E_e
        w_s  = softmax(W_s g_s(r_s) / T)
        x_s' = sum_e w_{s,e} E_e

    By default, a gate reads its own stream: r_k = x_k. With `gate_reads="context"`, it reads a
    context c that experts do not read: r_k = c. With "both", r_k = [x_k, c].

    For the gate of a task, e runs over the task's own experts, then over the shared experts. For
    the optional shared gate, e runs over all tasks' experts in task order, then over the shared
    experts.

    Args:
        outputs: The tasks: a sequence of names, a sequence of heads, a TaskHeads, or a dict of
            heads keyed by task. Only the names are kept.
        expert_block: The template of every expert: an int or a sequence of ints (the units of an
            ExpertBlock), or any layer that maps `(..., D)` to `(..., H)`. A layer is copied for
            every expert and never used itself. For experts of different sizes, pass a dict of
            templates with a key for each task, and "shared" if there are shared experts. All
            experts must have the same output width H.
        num_task_experts: The number of experts per task: an int, or a dict keyed by task.
        num_shared_experts: The number of shared experts.
        add_shared_gate: Whether to add a shared gate, whose output the next level reads. For a
            block without a next level, pass False: nothing would train the gate.
        gate_block: A network between the input and each gate: units, or a layer to copy.
        gate_softmax_temperature: The temperature T of every gate.
        enable_gate_weights_metrics: Whether the gates keep statistics of their weights, for
            `GateWeightsLogger` or `gate_statistics`.
        gate_kwargs: Other arguments of every Gate, such as `{"dropout": 0.1}` (see Gate).
        isolate_task_experts: Whether the shared gate mixes `stop_gradient` of the task experts.
            The experts, gates and stream inputs of a task then learn only from its own loss. Other
            tasks affect it through shared experts, and through features that streams have in
            common. It has no effect without a shared gate.
        gate_reads: The input of the gates: "stream" for their own streams, "context" for the
            `gate_context` of a call, or "both" for their concatenation. A context suits features
            that only gates should read, such as a scenario, a country or a device.
        stack_experts: Whether to stack the weights of plain ExpertBlocks in one variable, which is
            faster. If False, every expert is a layer, which can be frozen, regularized or trained
            with LoRA separately (see `get_expert`).
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: A tensor `(..., D)` for all streams, or a dict keyed by stream, `{task: (..., D_k),
            "shared": (..., D_s)}`. "shared" is required if there are shared experts or a shared
            gate, and refused otherwise.
        training: Passed to the experts and gates.
        gate_context: The context that the gates read, unless `gate_reads="stream"`: a tensor
            `(..., C)` for all gates, or a dict with a key for every task, and "shared" if there is
            a shared gate. It must have the leading axes of the inputs. Its mask is ignored.
        return_gate_weights: Whether to also return the gate weights: a Python bool.

    Returns:
        `{task: (..., H)}`, and "shared" with `add_shared_gate`. With `return_gate_weights`, a tuple
        of this dict and `{gate: (..., experts)}`: the weights that mix the experts, after gate
        dropout, in the order of `gate_experts`.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If there is no task, a task's name is repeated or invalid, a count is negative,
            a gate has no expert, `gate_kwargs` has an unknown key or a value that Gate refuses,
            `gate_reads` is unknown, a template can't be copied, or `expert_block` is a dict whose
            keys are not the streams with experts, or whose experts differ in output width.

    Reference:

    - Tang, Liu, Zhao, Gong, "Progressive Layered Extraction (PLE): A Novel Multi-Task Learning
      (MTL) Model for Personalized Recommendations", RecSys 2020, equations 1 to 6.
      [doi:10.1145/3383313.3412236](https://doi.org/10.1145/3383313.3412236)
    - Stopped gradients between tasks: Su et al., "STEM: Unleashing the Power of Embeddings for
      Multi-task Recommendation", AAAI 2024. [arXiv:2308.13537](https://arxiv.org/abs/2308.13537)

    Example:

    >>> cgc = CGCBlock(["click", "buy"], [64, 32], num_task_experts=2, add_shared_gate=False)
    >>> {name: tuple(x.shape) for name, x in cgc(keras.ops.ones((8, 16))).items()}
    {'click': (8, 32), 'buy': (8, 32)}

    The first of two levels, with gates that read a country, and their weights as outputs:

    >>> cgc = CGCBlock(["click", "buy"], expert_block=[64, 32], gate_reads="context")
    >>> x, country = keras.ops.ones((8, 16)), keras.ops.one_hot([0, 1] * 4, 2)
    >>> features, weights = cgc(x, gate_context=country, return_gate_weights=True)
    >>> {gate: tuple(w.shape) for gate, w in weights.items()}
    {'click': (8, 2), 'buy': (8, 2), 'shared': (8, 3)}
    """

    _fixed = (
        *("num_shared_experts", "add_shared_gate", "gate_softmax_temperature", "gate_reads"),
        *("enable_gate_weights_metrics", "isolate_task_experts", "stack_experts"),
    )

    def __init__(
        self,
        outputs: Outputs,
        expert_block: StreamLayers,
        num_task_experts: int | Mapping[str, int] = 1,
        num_shared_experts: int = 1,
        add_shared_gate: bool = True,
        gate_block: LayerLike | None = None,
        gate_softmax_temperature: float = 1.0,
        enable_gate_weights_metrics: bool = False,
        gate_kwargs: Mapping[str, object] | None = None,
        *,
        isolate_task_experts: bool = False,
        gate_reads: GateInput = "stream",
        stack_experts: bool = True,
        **kwargs: object,
    ) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True
        counts = check_counts(num_task_experts, task_names(outputs), "num_task_experts")
        self.num_shared_experts = check_int(num_shared_experts, "num_shared_experts", minimum=0)
        self.add_shared_gate = check_bool(add_shared_gate, "add_shared_gate")
        self.gate_softmax_temperature = check_number(
            gate_softmax_temperature, "gate_softmax_temperature", above=0
        )
        self.enable_gate_weights_metrics = check_bool(
            enable_gate_weights_metrics, "enable_gate_weights_metrics"
        )
        self._gate_kwargs = Untracked(gate_options(gate_kwargs))
        self.stack_experts = check_bool(stack_experts, "stack_experts")
        self.isolate_task_experts = check_bool(isolate_task_experts, "isolate_task_experts")
        self._connections = self._make_connections(counts)
        self.gate_reads: GateInput = check_known_value(gate_reads, GATE_INPUTS, "gate_reads")
        self._gate_inputs = GateInputs(gate_reads, self._connections.gates)
        streams = [*counts, SHARED] if self.num_shared_experts else [*counts]
        dtype = self.dtype_policy
        self._expert_templates = as_stream_templates(expert_block, streams, "expert_block", dtype)
        self._gate_template = as_optional_template(gate_block, "gate_block", dtype)
        if gate_kwargs:
            self._make_gate(self.task_names[0])  # the constructor checks the values

    def _make_connections(self, task_experts: Mapping[str, int]) -> Connections:
        """Return the connections of experts and gates, which subclasses change.

        The gate of a task mixes its own experts, then the shared ones. The shared gate mixes all.
        """
        experts: dict[str, list[str]] = {}
        streams: dict[str, str] = {}
        for stream, count in {**task_experts, SHARED: self.num_shared_experts}.items():
            experts[stream] = [f"{stream}/expert_{i}" for i in range(count)]
            streams |= dict.fromkeys(experts[stream], stream)
        gates = {task: experts[task] + experts[SHARED] for task in task_experts}
        if self.add_shared_gate:
            gates[SHARED] = [*streams]
        without = [gate for gate, names in gates.items() if not names]
        if without:
            raise ValueError(
                f"every gate must have at least one expert, but {without} have none. "
                f"Received: num_task_experts={dict(task_experts)}, "
                f"num_shared_experts={self.num_shared_experts}"
            )
        return Connections(task_experts, streams, gates, self.isolate_task_experts)

    @property
    def task_names(self) -> list[str]:
        """The tasks, in order."""
        return list(self._connections.tasks)

    @property
    def num_task_experts(self) -> dict[str, int]:
        """The number of experts of each task."""
        counts = Counter(self._connections.experts.values())
        return {task: counts[task] for task in self._connections.tasks}

    @property
    def gate_kwargs(self) -> dict[str, Any]:
        """Other arguments of every gate."""
        return dict(self._gate_kwargs.value)

    @property
    def expert_names(self) -> list[str]:
        """The experts, such as "click/expert_0": task experts in task order, then shared ones."""
        return list(self._connections.experts)

    @property
    def gate_experts(self) -> dict[str, list[str]]:
        """The experts that each gate mixes, in the order of its weights."""
        return {gate: list(experts) for gate, experts in self._connections.gates.items()}

    def _slices(self, task: str) -> list[WeightSlice]:
        """Return the weights of a task's gate, and of the experts that it mixes."""
        experts = [self._level.experts.slices(expert) for expert in self.gate_experts[task]]
        return sum(experts, whole_slices(self._level.gates[task].weights))

    @property
    def layers(self) -> Sequence[keras.Layer]:
        """The experts and gates, once the block is built. Stacked experts are one layer.

        `summary(expand_nested=True)` shows them. They are not a list, since files would then store
        the layers by position, not by attribute.
        """
        if not self.built:
            return UserList()
        experts = self._level.experts.expert_layers().values() or [self._level.experts]
        return UserList([*experts, *self._level.gates.values()])

    def build(
        self,
        inputs_shape: StreamShapes | None = None,  # Keras passes none for an empty dict
        gate_context_shape: StreamShapes | None = None,
    ) -> None:
        shapes = self._connections.shapes(inputs_shape)
        gate_shapes = self._gate_inputs.build(shapes, gate_context_shape)
        templates, streams = self._expert_templates, self._connections.experts
        is_plain = templates.is_common and type(templates.layer) is ExpertBlock
        experts: Experts
        if self.stack_experts and is_plain and len({shapes[x][-1] for x in streams.values()}) == 1:
            experts = StackedExperts(
                templates,
                streams,
                dtype=templates.layer.dtype_policy,
                trainable=templates.layer.trainable,
                activity_regularizer=templates.layer.activity_regularizer,
            )
        else:
            experts = CopiedExperts(templates, streams, dtype=self.dtype_policy)
        experts.build(shapes)
        # The names of these attributes, and of the layers in them, are part of the file format.
        names = [*self._connections.tasks, *self._connections.experts]
        setattr(self, ordered_attribute("experts", names), experts)
        gates = {gate: self._make_gate(gate) for gate in self._connections.gates}
        for gate, layer in gates.items():
            members = [*self._connections.gates[gate], self.gate_reads]
            setattr(self, ordered_attribute(layer.name, members), layer)
            layer.build(gate_shapes[gate])
        widths = {stream: shape[-1] for stream, shape in shapes.items()}
        # Keras tracks the layers as attributes of the block, and not in this object.
        self._level = BuiltLevel(experts, gates, widths)
        self._restore_frozen()

    def _make_gate(self, gate: str) -> Gate:
        return Gate(
            len(self._connections.gates[gate]),
            gate_block=self._gate_template and self._gate_template.copy("gate_block", gate),
            softmax_temperature=self.gate_softmax_temperature,
            track_weights=self.enable_gate_weights_metrics,
            dtype=self.dtype_policy,
            name=f"gate-{gate}",
            **gate_options(self._gate_kwargs.value, gate),
        )

    def call(
        self,
        inputs: Streams,
        training: bool | None = None,
        *,
        gate_context: Streams | None = None,
        return_gate_weights: bool = False,
    ) -> ByName | tuple[ByName, ByName]:
        """Compute the experts and mix them."""
        streams = self._streams(inputs)
        weights = self._weights(streams, gate_context, training)  # softmax(W g(r) / T)
        experts = self._level.experts(streams, training=training)  # E_{k,i}(x_k), E_{s,i}(x_s)
        observer = active_observer()
        if observer:
            observer.receive(self, weights)
        outputs = self._mix(weights, experts)
        if check_bool(return_gate_weights, "return_gate_weights"):
            return outputs, weights
        return outputs

    def _mix(self, weights: ByName, experts: ByName) -> dict[str, Tensor]:
        """Return sum_e w_e E_e for every gate. A subclass can add to it."""
        return self._connections.mix(weights, experts, self.compute_dtype)

    def _streams(self, inputs: Streams) -> dict[str, Tensor]:
        """Return the tensor of each stream after checking its width."""
        is_symbolic = any(isinstance(x, keras.KerasTensor) for x in keras.tree.flatten(inputs))
        if not self.built or isinstance(inputs, list | tuple) or is_symbolic:
            raise ValueError(
                "inputs must be a tensor or a dict keyed by stream, not symbolic, and the block "
                f"must be built. Received: built={self.built}, inputs={short_repr(inputs)}"
            )
        streams = self._connections.by_stream(inputs)
        self._check_widths(shape_of(streams))
        return streams

    def _check_widths(self, shapes: Mapping[str, Shape]) -> None:
        """Check that the streams have the widths that the block was built for."""
        for stream, width in self._level.widths.items():
            check_width(shapes[stream], width, f"inputs[{stream!r}]")

    def _weights(
        self, streams: ByName, gate_context: Streams | None, training: bool | None
    ) -> dict[str, Tensor]:
        """Return the weights of every gate, `{gate: (..., experts)}`."""
        inputs = self._gate_inputs.tensors(streams, gate_context, self.compute_dtype)
        gates = self._level.gates.items()
        return {name: gate(inputs[name], training=training) for name, gate in gates}

    def compute_mask(self, inputs: Streams, previous_mask: Streams | None) -> ByName:
        """Return the masks of the outputs.

        An output is valid where all streams that its gate mixes are valid.
        """
        return self._connections.masks(previous_mask)

    def compute_output_spec(
        self,
        inputs: Streams,
        *args: object,
        gate_context: Streams | None = None,
        return_gate_weights: bool = False,
        **kwargs: object,
    ) -> Nested:
        streams = self._connections.by_stream(shape_of(inputs))
        self._gate_inputs.check(streams, shape_of(gate_context))
        shapes = self.compute_output_shape(streams)
        outputs = {x: keras.KerasTensor(shape, self.compute_dtype) for x, shape in shapes.items()}
        if not check_bool(return_gate_weights, "return_gate_weights"):
            return outputs
        return outputs, {
            gate: keras.KerasTensor((*shapes[gate][:-1], len(experts)), self.compute_dtype)
            for gate, experts in self._connections.gates.items()
        }

    def compute_output_shape(
        self, inputs_shape: StreamShapes, gate_context_shape: StreamShapes | None = None
    ) -> dict[str, Shape]:
        shapes = self._connections.by_stream(inputs_shape)
        self._check_widths(shapes)
        width = self._level.experts.width
        return {gate: (*shapes[gate][:-1], width) for gate in self._connections.gates}

    def expert_outputs(self, inputs: Streams, training: bool | None = None) -> dict[str, Tensor]:
        """Return the outputs of every expert.

        Args:
            inputs: As in a call of the block, which must be built.
            training: As in a call of the block.

        Returns:
            `{expert name: (..., H)}`.

        Raises:
            ValueError: If the block is not built, or the inputs are symbolic.
        """
        streams = self._streams(inputs)
        return dict(self._level.experts(streams, training=training))

    def gate_weights(
        self, inputs: Streams, training: bool | None = None, gate_context: Streams | None = None
    ) -> dict[str, Tensor]:
        """Return the weights of every gate.

        Args:
            inputs: As in a call of the block, which must be built.
            training: As in a call of the block.
            gate_context: As in a call of the block.

        Returns:
            `{gate: (..., experts)}` for every task, and "shared" with `add_shared_gate`. The
            weights have the order of `gate_experts`.

        Raises:
            ValueError: If the block is not built, or the inputs are symbolic.
        """
        return self._weights(self._streams(inputs), gate_context, training)

    def get_expert(self, name: str) -> keras.Layer:
        """Return an expert's layer, for example to freeze or inspect it.

        The block must have `stack_experts=False`, since stacked experts share one variable and
        can't be frozen separately. `transfer_weights` copies the weights of stacked experts to
        experts that are layers. Files and clones keep an expert frozen. After loading, enable LoRA
        again, which Keras merges into the kernels when it saves, and set the regularizers of built
        layers again.

        Args:
            name: One of `expert_names`.

        Raises:
            ValueError: If the block is not built, the name is unknown, or the experts are stacked.

        Example:

        >>> cgc = CGCBlock(["click", "buy"], [8], stack_experts=False)
        >>> _ = cgc(keras.ops.ones((1, 16)))
        >>> cgc.get_expert("shared/expert_0").trainable = False
        """
        layers = self._level.experts.expert_layers() if self.built else {}
        if name not in layers:
            raise ValueError(
                f"name must be one of {self.expert_names} of a built block with "
                f"stack_experts=False. Received: {name=}, built={self.built}, "
                f"stack_experts={self.stack_experts}"
            )
        return layers[name]

    def gate_statistics(self) -> dict[str, dict[str, Any]]:
        """Return the statistics of each gate's weights since the last reset.

        Returns:
            `{gate: {"mean": ..., "entropy": ..., "max": ..., "count": ...}}` (see
            `Gate.statistics`). The dict is empty before the block is built.

        Raises:
            ValueError: If `enable_gate_weights_metrics` is False.
        """
        gates = self._level.gates if self.built else {}
        return {name: gate.statistics() for name, gate in gates.items()}

    def reset_gate_statistics(self) -> None:
        """Reset the statistics of all gates."""
        for gate in self._level.gates.values() if self.built else ():
            gate.reset_statistics()

    def save_own_variables(self, store: Store) -> None:
        save_names(store, self._names_in_files())

    def load_own_variables(self, store: Store) -> None:
        check_names(store, self._names_in_files(), self)

    def _names_in_files(self) -> list[str]:
        """Return the names that a file must contain, in this order, for its weights to fit."""
        kinds = [f"{self._level.experts.kind} experts", f"gates read {self.gate_reads}"]
        return [*self._connections.gates, *self._connections.experts, *kinds]

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "outputs": self.task_names,
            "expert_block": keras.saving.serialize_keras_object(self._expert_templates.layer),
            "num_task_experts": self.num_task_experts,
            "gate_block": self._gate_template and self._gate_template.serialize(),
            "gate_kwargs": keras.saving.serialize_keras_object(self.gate_kwargs),
        }
