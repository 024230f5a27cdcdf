"""Customized Gate Control, one level of PLE."""

from collections.abc import Mapping
from typing import Any

from ple_keras._checks import (
    check_bool,
    check_counts,
    check_int,
    check_not_negative,
    check_rate,
    task_names,
)
from ple_keras._keras.freezing import FreezableLayer
from ple_keras._keras.registration import register
from ple_keras._keras.saving import ordered_attribute
from ple_keras._keras.walking import Untracked
from ple_keras._typing import LayerLike, Outputs, Shape, Streams, StreamShapes, Tensor
from ple_keras.layers._level.gate_arguments import TakesGateArguments
from ple_keras.layers._level.gate_inputs import STREAM, GateInputs
from ple_keras.layers._level.level import Level, build_bank
from ple_keras.layers._level.level_files import LevelFiles
from ple_keras.layers._level.level_inspection import LevelInspection
from ple_keras.layers._level.level_shapes import LevelShapes
from ple_keras.layers._level.observer import observer
from ple_keras.layers._level.wiring import LevelWiring
from ple_keras.layers.gate import Gate, check_temperature
from ple_keras.layers.template import as_template


@register
class CGCBlock(TakesGateArguments, LevelInspection, LevelShapes, LevelFiles, FreezableLayer):
    """One level of experts and gates: Customized Gate Control.

    Each task k has its own experts. For each example, gates weight the experts that a stream
    uses:

        w_k  = softmax(W_k g_k(r_k) / T)
        x_k' = sum_e w_{k,e} E_e
        w_s  = softmax(W_s g_s(r_s) / T)
        x_s' = sum_e w_{s,e} E_e

    A gate reads its own stream: r_k = x_k. With `gate_reads`, it reads a context c that experts do
    not read: r_k = c, or both, r_k = [x_k, c].

    For the gate of a task, e runs over the task's own experts, then over the shared experts. For
    the optional shared gate, e runs over all tasks' experts in task order, then over the shared
    experts.

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
            common. It has no effect without a shared gate.
        gate_reads: The input of the gates: "stream", their own streams; "context", the argument
            `gate_context` of a call; or "both", side by side. A context suits features that only
            gates should read, such as a scenario, a country or a device.
        stack_experts: Whether to stack the weights of plain ExpertBlocks in one variable, which is
            faster. With False, every expert is a layer. Each can then be frozen, regularized or
            trained with LoRA separately, see `get_expert`.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: A tensor `(..., D)` for all streams, or a dict by stream, `{task: (..., D_k),
            "shared": (..., D_s)}`. "shared" is required if there are shared experts or a shared
            gate, and refused otherwise.
        training: Passed to the experts and gates.
        gate_context: The context that the gates read, unless `gate_reads="stream"`: a tensor
            `(..., C)` for all gates, or a dict with a key for every task, and "shared" if there is
            a shared gate. Its leading axes are those of the inputs. Its mask is ignored.
        return_gate_weights: Whether to return the gate weights too, a Python bool.

    Returns:
        `{task: (..., H)}`, and "shared" with `add_shared_gate`. With `return_gate_weights`, a tuple
        of this dict and `{gate: (..., experts)}`. The weights are those that mix the experts, after
        gate dropout. They have the order of `gate_experts`.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If there is no task, a task's name is repeated or invalid, a count is negative,
            or a gate has no expert. Also if `gate_dropout` or a coefficient is out of range,
            `gate_reads` has another value, or a template can't be copied.

    Reference:

    - Tang, Liu, Zhao, Gong, "Progressive Layered Extraction (PLE): A Novel Multi-Task Learning
      (MTL) Model for Personalized Recommendations", RecSys 2020, equations 1 to 6.
      [doi:10.1145/3383313.3412236](https://doi.org/10.1145/3383313.3412236)
    - Stopped gradients between tasks: Su et al., "STEM: Unleashing the Power of Embeddings for
      Multi-task Recommendation", AAAI 2024. [arXiv:2308.13537](https://arxiv.org/abs/2308.13537)

    Example:

    >>> cgc = CGCBlock(["click", "buy"], expert_block=[64, 32], num_task_experts=2)
    >>> {name: tuple(x.shape) for name, x in cgc(keras.ops.ones((8, 16))).items()}
    {'click': (8, 32), 'buy': (8, 32), 'shared': (8, 32)}

    Gates that read a country, and their weights as outputs:

    >>> cgc = CGCBlock(["click", "buy"], expert_block=[64, 32], gate_reads="context")
    >>> x, country = keras.ops.ones((8, 16)), keras.ops.one_hot([0, 1] * 4, 2)
    >>> features, weights = cgc(x, gate_context=country, return_gate_weights=True)
    >>> {gate: tuple(w.shape) for gate, w in weights.items()}
    {'click': (8, 2), 'buy': (8, 2), 'shared': (8, 3)}
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
        gate_reads: str = "stream",
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
        self._gate_inputs = GateInputs(gate_reads, self._wiring.gates)
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

    @property
    def gate_reads(self) -> str:
        """The input of the gates: "stream", "context" or "both"."""
        return self._gate_inputs.reads

    def _takes(self, argument: str) -> bool:
        return argument != "gate_context" or self.gate_reads != STREAM

    def build(
        self,
        inputs_shape: StreamShapes | None = None,  # Keras passes none for an empty dict
        gate_context_shape: StreamShapes | None = None,
    ) -> None:
        shapes = self._wiring.shapes(inputs_shape)
        gate_shapes = self._gate_inputs.build(shapes, gate_context_shape)
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
            gate: self._add_gate(gate, len(experts), gate_shapes[gate])
            for gate, experts in self._wiring.gates.items()
        }
        self._level = Level(self, self._wiring, widths, bank, gates, self._gate_inputs)
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

    def call(
        self,
        inputs: Streams,
        training: bool | None = None,
        *,
        gate_context: Streams | None = None,
        return_gate_weights: bool = False,
    ) -> dict[str, Tensor] | tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Compute the experts and mix them."""
        inputs = observer().on_inputs(self, inputs)
        streams = self._level.streams(inputs)
        level = self._level.select_computation(inputs, streams, gate_context)
        experts = level.experts(training)  # E_{k,i}(x_k), E_{s,i}(x_s)
        weights = level.weights(training)  # softmax(W g(x) / T)
        observer().on_outputs(self, weights, experts)
        outputs = level.mix(weights, experts)  # sum_e w_e E_e
        if check_bool(return_gate_weights, "return_gate_weights"):
            return outputs, level.weights_by_gate(weights)
        return outputs

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
            "gate_reads": self.gate_reads,
            "stack_experts": self.stack_experts,
        }
