"""Customized Gate Control, one level of PLE."""

from collections.abc import Mapping
from typing import Any

from keras import ops

from ple_keras._checks import (
    check_bool,
    check_counts,
    check_int,
    check_not_negative,
    check_rate,
    task_names,
)
from ple_keras._keras.building import output_width
from ple_keras._keras.freezing import FreezableLayer
from ple_keras._keras.internals import load_error
from ple_keras._keras.quantization import load_modes, save_modes
from ple_keras._keras.registration import register
from ple_keras._keras.saving import (
    check_names,
    ordered_attribute,
    read_text,
    save_names,
    write_text,
)
from ple_keras._keras.untracked import Untracked
from ple_keras._typing import LayerLike, Outputs, Shape, Store, Streams, StreamShapes, Tensor
from ple_keras.layers._level.level import Level, build_bank
from ple_keras.layers._level.level_inspection import LevelInspection
from ple_keras.layers._level.observer import observer
from ple_keras.layers._level.wiring import LevelWiring
from ple_keras.layers.gate import Gate, check_temperature
from ple_keras.layers.template import as_template


@register
class CGCBlock(LevelInspection, FreezableLayer):
    """One level of experts and gates: Customized Gate Control.

    Each task k has its own experts. For each example, gates weight the experts that a stream
    uses:

        w_k = softmax(W_k g_k(x_k) / T)        x_k' = sum_e w_{k,e} E_e
        w_s = softmax(W_s g_s(x_s) / T)        x_s' = sum_e w_{s,e} E_e

    For the gate of a task, e runs over the task's own experts, then over the shared experts. For
    the optional shared gate, e runs over all tasks' experts in task order, then over the shared
    experts.

    (Tang et al., "Progressive Layered Extraction", RecSys 2020, equations 1 to 6.)

    Args:
        outputs: The tasks: a sequence of names, a sequence of heads, a TaskHeads, or a dict of
            heads by task. Only the names are kept.
        expert_block: The template of every expert: an int or a sequence of ints (the units of an
            ExpertBlock), or any layer that maps `(..., D)` to `(..., H)`. A layer is copied for
            every expert and never used itself.
        num_task_experts: The number of experts of each task, or a dict by task.
        num_shared_experts: The number of shared experts.
        add_shared_gate: Whether the block has a shared gate, whose output a next level reads.
        gate_block: A network between the input and each gate: units, or a layer to copy.
        gate_softmax_temperature: The temperature T of every gate.
        enable_gate_weights_metrics: Whether the gates keep statistics of their weights, for
            `GateWeightsLogger` or `gate_statistics`.
        gate_dropout: The probability of dropping an expert in training, see `Gate`.
        expert_balance_regularizer: The coefficient of a loss against unused experts, see `Gate`.
        isolate_task_experts: Whether the shared gate mixes `stop_gradient` of the task experts.
            Then the experts, gates and stream inputs of a task learn from its own loss alone. Other
            tasks affect it through shared experts, and through features that streams have in
            common. It has no effect without a shared gate. (Stopped gradients between tasks: Su et
            al., STEM, AAAI 2024.)
        stack_experts: Whether to stack the weights of plain ExpertBlocks in one variable, which is
            faster. With False, every expert is a layer. Each can then be frozen, regularized or
            trained with LoRA separately, see `get_expert`.
        **kwargs: Arguments of `keras.layers.Layer`.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If there is no task, a task's name is repeated or invalid, a count is negative,
            or a gate has no expert. Also if `gate_dropout` or a coefficient is out of range, or a
            template can't be copied.

    Example:

    >>> cgc = CGCBlock(["click", "buy"], expert_block=[64, 32], num_task_experts=2)
    >>> {name: tuple(x.shape) for name, x in cgc(keras.ops.ones((8, 16))).items()}
    {'click': (8, 32), 'buy': (8, 32), 'shared': (8, 32)}
    """

    def __init__(
        self,
        outputs: Outputs,
        expert_block: LayerLike,
        num_task_experts: int | Mapping[str, int] = 1,
        num_shared_experts: int = 1,
        add_shared_gate: bool = True,
        gate_block: LayerLike | None = None,
        gate_softmax_temperature: float = 1.0,
        enable_gate_weights_metrics: bool = False,
        gate_dropout: float = 0.0,
        expert_balance_regularizer: float = 0.0,
        *,
        isolate_task_experts: bool = False,
        stack_experts: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True
        counts = check_counts(num_task_experts, task_names(outputs), "num_task_experts")
        self.num_shared_experts = check_int(num_shared_experts, "num_shared_experts", minimum=0)
        self.add_shared_gate = check_bool(add_shared_gate, "add_shared_gate")
        self.gate_softmax_temperature = check_temperature(
            gate_softmax_temperature, "gate_softmax_temperature"
        )
        self.enable_gate_weights_metrics = check_bool(
            enable_gate_weights_metrics, "enable_gate_weights_metrics"
        )
        self.gate_dropout = check_rate(gate_dropout, "gate_dropout")
        self.expert_balance_regularizer = check_not_negative(
            expert_balance_regularizer, "expert_balance_regularizer"
        )
        self.stack_experts = check_bool(stack_experts, "stack_experts")
        self.isolate_task_experts = check_bool(isolate_task_experts, "isolate_task_experts")
        self._wiring = LevelWiring(
            counts, self.num_shared_experts, self.add_shared_gate, self.isolate_task_experts
        )
        # The names of these attributes, and of the layers in them, are part of the file format.
        self._bank_attribute = ordered_attribute("experts", self._wiring.names)
        self._gate_attributes = Untracked(
            {
                gate: ordered_attribute(f"gate-{gate}", experts)
                for gate, experts in self._wiring.gates.items()
            }
        )
        self._expert_template = as_template(expert_block, "expert_block", self.dtype_policy)
        self._gate_template = None
        if gate_block is not None:
            self._gate_template = as_template(gate_block, "gate_block", self.dtype_policy)

    @property
    def task_names(self) -> list[str]:
        """The tasks, in order."""
        return list(self._wiring.tasks)

    @property
    def num_task_experts(self) -> dict[str, int]:
        """The number of experts of each task."""
        return dict(self._wiring.task_experts)

    def build(self, input_shape: StreamShapes) -> None:
        shapes = self._wiring.shapes(input_shape)
        widths = {stream: shape[-1] for stream, shape in shapes.items()}
        bank = build_bank(
            self._expert_template,
            self._wiring.experts,
            shapes,
            self.dtype_policy,
            self.stack_experts,
        )
        setattr(self, self._bank_attribute, bank)
        gates = {
            gate: self._add_gate(gate, len(experts), shapes[gate])
            for gate, experts in self._wiring.gates.items()
        }
        self._level = Level(self, self._wiring, widths, bank, gates)
        self._restore_frozen()

    def _add_gate(self, gate: str, num_experts: int, shape: Shape) -> Gate:
        block = self._gate_template and self._gate_template.copy("gate_block", gate)
        layer = Gate(
            num_experts,
            gate_block=block,
            softmax_temperature=self.gate_softmax_temperature,
            track_weights=self.enable_gate_weights_metrics,
            gate_dropout=self.gate_dropout,
            expert_balance_regularizer=self.expert_balance_regularizer,
            dtype=self.dtype_policy,
            name=f"gate-{gate}",
        )
        setattr(self, self._gate_attributes.value[gate], layer)
        layer.build(shape)
        return layer

    def call(self, inputs: Streams, training: bool | None = None) -> dict[str, Tensor]:
        """Compute the experts and mix them.

        Args:
            inputs: A tensor `(..., D)` for all streams, or `{task: (..., D_k), "shared":
                (..., D_s)}`. "shared" is required if there are shared experts or a shared gate, and
                refused otherwise.
            training: Passed to the experts and gates.

        Returns:
            `{task: (..., H)}`, and "shared" with `add_shared_gate`.
        """
        inputs = observer().on_inputs(self, inputs)
        streams = self._level.streams(inputs)
        level = self._level.select_computation(inputs, streams)
        experts = level.experts(training)  # E_{k,i}(x_k), E_{s,i}(x_s)
        weights = level.weights(training)  # softmax(W g(x) / T)
        observer().on_outputs(self, weights, experts)
        return level.mix(weights, experts)  # sum_e w_e E_e

    def compute_mask(
        self, inputs: Streams, previous_mask: Streams | None
    ) -> dict[str, Tensor] | None:
        """Return the masks of the outputs.

        An output is valid where all streams that its gate mixes are valid.
        """
        masks = self._wiring.by_stream(previous_mask)
        if all(mask is None for mask in masks.values()):
            return None
        return {
            gate: _all_valid([masks[stream] for stream in self._wiring.sources(gate)])
            for gate in self._wiring.gates
        }

    def compute_output_shape(self, input_shape: StreamShapes) -> dict[str, Shape]:
        shapes = self._wiring.by_stream(input_shape)
        if self.built:
            self._level.check_widths(shapes)
            width = self._level.bank.width
        else:
            first_expert_stream = next(iter(self._wiring.experts.values()))
            width = output_width(
                self._expert_template.layer, shapes[first_expert_stream], "expert_block"
            )
        return {gate: (*shapes[gate][:-1], width) for gate in self._wiring.gates}

    def save_own_variables(self, store: Store) -> None:
        save_names(store, self._wiring.names)
        write_text(store, "experts", self._level.bank.kind)
        save_modes(self, store)

    def load_own_variables(self, store: Store) -> None:
        check_names(store, self._wiring.names, self)
        self._check_kind(store)
        load_modes(self, store)

    def _check_kind(self, store: Store) -> None:
        """Refuse stacked experts for copied ones, and vice versa. Files of 0.1.0 do not say it."""
        saved, kind = read_text(store, "experts"), self._level.bank.kind
        if saved not in (None, kind):
            reason = (
                f"The file has {saved} experts, but {self.name!r} has {kind} experts. Build the "
                "block with the same stack_experts, expert_block and input widths as in the file. "
                "transfer_weights then copies the weights to other blocks. "
                f"Received: stack_experts={self.stack_experts}"
            )
            raise load_error(self, store, reason)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "outputs": self.task_names,
            "expert_block": self._expert_template.serialize(),
            "num_task_experts": self.num_task_experts,
            "num_shared_experts": self.num_shared_experts,
            "add_shared_gate": self.add_shared_gate,
            "gate_block": self._gate_template and self._gate_template.serialize(),
            "gate_softmax_temperature": self.gate_softmax_temperature,
            "enable_gate_weights_metrics": self.enable_gate_weights_metrics,
            "gate_dropout": self.gate_dropout,
            "expert_balance_regularizer": self.expert_balance_regularizer,
            "isolate_task_experts": self.isolate_task_experts,
            "stack_experts": self.stack_experts,
        }


def _all_valid(masks: list[Tensor]) -> Tensor:
    """Return the conjunction of masks. None means that all positions are valid."""
    distinct = list({id(mask): mask for mask in masks if mask is not None}.values())
    combined = distinct[0] if distinct else None
    for mask in distinct[1:]:
        combined = ops.logical_and(combined, mask)
    return combined
