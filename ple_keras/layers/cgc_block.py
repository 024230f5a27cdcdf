"""One level of PLE: customized gate control."""

from collections.abc import Mapping
from functools import reduce
from operator import add
from typing import Any

import keras
from keras import ops

from ple_keras._checks import (
    check_bool,
    check_counts,
    check_features,
    check_int,
    check_not_negative,
    check_rate,
    check_width,
    task_names,
)
from ple_keras._keras.building import Shape, Untracked
from ple_keras._keras.copying import output_width
from ple_keras._keras.freezing import FreezableLayer
from ple_keras._keras.quantization import load_modes, save_modes
from ple_keras._keras.registration import register
from ple_keras._keras.saving import check_names, ordered_attribute, save_names
from ple_keras.layers._level.make_bank import expert_bank
from ple_keras.layers._level.observer import observer
from ple_keras.layers._level.small_level import SmallLevel
from ple_keras.layers._level.wiring import Wiring
from ple_keras.layers.gate import Gate, check_temperature
from ple_keras.layers.template import as_template


@register
class CGCBlock(FreezableLayer):
    """One level of experts and gates: Customized Gate Control.

    Each task k has experts of its own, which its gate mixes with the shared ones; the shared
    gate, where there is one, mixes all experts of the level:

        w_k = softmax(W_k g_k(x_k) / T)        x_k' = sum_e w_{k,e} E_e    own, then shared experts
        w_s = softmax(W_s g_s(x_s) / T)        x_s' = sum_e w_{s,e} E_e    all tasks' in task order,
                                                                           then shared experts

    (Tang et al., "Progressive Layered Extraction", RecSys 2020, equations 1 to 6.)

    Args:
        outputs: The tasks: a sequence of names, a sequence of heads, a TaskHeads, or heads by
            task. Only the names are kept.
        expert_block: What each expert is: an int or a sequence of ints (the units of an
            ExpertBlock), or any layer that maps `(..., D)` to `(..., H)`. A layer is a template,
            copied for every expert and never used itself.
        num_task_experts: The number of experts of each task, or a dict of it by task.
        num_shared_experts: The number of shared experts.
        add_shared_gate: Whether a gate of the shared stream mixes all experts, for a next level.
        gate_block: A network that each gate reads its input through, given as `expert_block` is.
        gate_softmax_temperature: T of every gate.
        enable_gate_weights_metrics: Whether the gates keep statistics of their weights, for
            `GateWeightsLogger` or `gate_statistics`.
        gate_dropout: The share of experts that training takes from each gate, see `Gate`.
        expert_balance_regularizer: A coefficient of a loss that makes each gate use all of its
            experts, see `Gate`.
        **kwargs: Keras's own layer arguments.

    Raises:
        TypeError: if an argument is of none of the kinds above.
        ValueError: if there is no task, a task's name is repeated or against the rule, a count is
            negative, a gate would see no expert, `gate_dropout` is outside [0, 1), a coefficient
            negative or not finite, or a template can't be copied.

    Example:

    >>> cgc = CGCBlock(["click", "buy"], expert_block=[64, 32], num_task_experts=2)
    >>> {name: tuple(x.shape) for name, x in cgc(keras.ops.ones((8, 16))).items()}
    {'click': (8, 32), 'buy': (8, 32), 'shared': (8, 32)}
    """

    def __init__(
        self,
        outputs: Any,
        expert_block: Any,
        num_task_experts: int | Mapping[str, int] = 1,
        num_shared_experts: int = 1,
        add_shared_gate: bool = True,
        gate_block: Any = None,
        gate_softmax_temperature: float = 1.0,
        enable_gate_weights_metrics: bool = False,
        gate_dropout: float = 0.0,
        expert_balance_regularizer: float = 0.0,
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
        self._wiring = Wiring(counts, self.num_shared_experts, self.add_shared_gate)
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
    def expert_names(self) -> list[str]:
        """All experts: each task's in task order, then the shared ones ("click/expert_0")."""
        return list(self._wiring.experts)

    @property
    def gate_experts(self) -> dict[str, list[str]]:
        """The experts that each gate mixes, in the order of its weights."""
        return {gate: list(experts) for gate, experts in self._wiring.gates.items()}

    def build(self, input_shape: Any) -> None:
        shapes = {
            stream: check_features(shape, f"inputs[{stream!r}]")
            for stream, shape in self._wiring.by_stream(input_shape).items()
        }
        self._check_ranks(shapes)
        self._widths = Untracked({stream: shape[-1] for stream, shape in shapes.items()})
        bank = expert_bank(self._expert_template, self._wiring.experts, shapes, self.dtype_policy)
        setattr(self, self._bank_attribute, bank)
        self._width = bank.width
        for gate, experts in self._wiring.gates.items():
            self._add_gate(gate, len(experts), shapes[gate])
        self._small_level = SmallLevel(self._wiring, bank, self._gates())
        self._restore_frozen()

    def _add_gate(self, gate: str, num_experts: int, shape: Shape) -> None:
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

    def _check_ranks(self, shapes: Mapping[str, Shape]) -> None:
        if len({len(shape) for shape in shapes.values()}) > 1:
            raise ValueError(
                f"inputs must have the same axes in every stream but the last. "
                f"Received: inputs={shapes}"
            )

    def _read(self, inputs: Any) -> dict[str, Any]:
        """The tensor of each stream, its width checked."""
        if not self.built:
            raise ValueError(
                f"{self.name!r} must be built or called before its experts and gates can be. "
                "Received: built=False"
            )
        if isinstance(inputs, list | tuple):
            raise ValueError(
                f"inputs must be one tensor or a dict by stream. Received: inputs={inputs!r}"
            )
        streams = self._wiring.by_stream(inputs)
        if any(isinstance(tensor, keras.KerasTensor) for tensor in streams.values()):
            raise ValueError(
                "inputs must be tensors, not symbolic ones, for a block's experts and gates are no "
                "layers of a Functional model: run ple_keras.gate_weights(model, x) or "
                "ple_keras.gate_report(model, x) on a built model. "
                f"Received: inputs={inputs!r}"
            )
        self._check_widths({stream: tensor.shape for stream, tensor in streams.items()})
        return streams

    def _check_widths(self, shapes: Mapping[str, Any]) -> None:
        """Refuse other widths than those that the block was built for."""
        for stream, width in self._widths.value.items():
            check_width(shapes[stream], width, f"inputs[{stream!r}]")

    def expert_outputs(self, inputs: Any, training: bool | None = None) -> dict[str, Any]:
        """Return the outputs of every expert.

        Args:
            inputs: As for calling the block, which must be built; not symbolic.
            training: As for calling the block.

        Returns:
            `{expert name: (..., H)}`.

        Raises:
            ValueError: if the block isn't built or the inputs are symbolic.
        """
        streams = self._read(inputs)
        bank = getattr(self, self._bank_attribute)
        outputs: dict[str, Any] = bank(streams, training=training)
        return outputs

    def gate_weights(self, inputs: Any, training: bool | None = None) -> dict[str, Any]:
        """Return the weights of every gate.

        Args:
            inputs: As for calling the block, which must be built; not symbolic.
            training: As for calling the block.

        Returns:
            `{gate: (..., experts)}`: a gate for each task, and "shared" with `add_shared_gate`;
            the experts in the order of `gate_experts`.

        Raises:
            ValueError: if the block isn't built or the inputs are symbolic.
        """
        streams = self._read(inputs)
        gates = self._gates()
        return {gate: gates[gate](streams[gate], training=training) for gate in gates}

    def get_expert(self, name: str) -> Any:
        """Return one expert's layer, for example to freeze or inspect it.

        Files and clones keep it frozen. Experts that are plain ExpertBlocks are slices of one
        variable, which no `trainable` can tell apart. Give the block a subclass instead, be it an
        empty one; `transfer_weights` brings over what was trained.

        Args:
            name: One of `expert_names`.

        Raises:
            ValueError: if the block isn't built, has no such expert, or its experts are stacked.

        Example:

        >>> @keras.saving.register_keras_serializable()
        ... class OwnExpert(ExpertBlock):
        ...     pass
        >>> cgc = CGCBlock(["click", "buy"], OwnExpert([8]))
        >>> _ = cgc(keras.ops.ones((1, 16)))
        >>> cgc.get_expert("shared/expert_0").trainable = False
        """
        if not self.built or name not in self._wiring.experts:
            raise ValueError(
                f"name must be an expert's, of a built block: one of {self.expert_names}. "
                f"Received: name={name!r}, built={self.built}"
            )
        layer = getattr(self, self._bank_attribute).layer(name)
        if layer is None:
            raise ValueError(
                "expert_block must be of a subclass of ExpertBlock, or any other layer, for each "
                "expert to be a layer of its own: plain ExpertBlocks are slices of one variable. "
                f"Received: expert_block={self._expert_template.layer!r}"
            )
        return layer

    def _expert_parts(self) -> dict[str, list[tuple[Any, tuple[int, ...]]]]:
        """What each expert is made of, as `ExpertBank.parts` has it."""
        bank = getattr(self, self._bank_attribute)
        return {expert: bank.parts(expert) for expert in self._wiring.experts}

    def _parts(self) -> dict[str, list[tuple[Any, tuple[Any, ...]]]]:
        """What experts and gates are made of: variables, each with where in it that is."""
        parts: dict[str, list[tuple[Any, tuple[Any, ...]]]] = {**self._expert_parts()}
        for gate, layer in self._gates().items():
            parts |= {
                f"gate/{gate}/{name}": part
                for name, part in layer.parts(self._wiring.gates[gate]).items()
            }
        return parts

    def gate_statistics(self) -> dict[str, dict[str, Any]]:
        """What each gate's weights did since the last reset, see `Gate.statistics`.

        Returns:
            `{gate: {"mean": ..., "entropy": ..., "max": ...}}`.

        Raises:
            ValueError: unless the block is built and has `enable_gate_weights_metrics`.
        """
        if not (self.built and self.enable_gate_weights_metrics):
            raise ValueError(
                "gate statistics are kept only by a built block with "
                "enable_gate_weights_metrics=True. Received: enable_gate_weights_metrics="
                f"{self.enable_gate_weights_metrics}, built={self.built}"
            )
        return {name: gate.statistics() for name, gate in self._gates().items()}

    def reset_gate_statistics(self) -> None:
        """Forget what the gates have tracked so far."""
        for gate in self._gates().values() if self.built else ():
            gate.reset_statistics()

    def _gates(self) -> dict[str, Any]:
        """The gates by name. No property: Keras would look for weights in it."""
        return {gate: getattr(self, name) for gate, name in self._gate_attributes.value.items()}

    def call(self, inputs: Any, training: bool | None = None) -> dict[str, Any]:
        """Run the experts and mix them.

        Args:
            inputs: A tensor `(..., D)` for every stream, or `{task: (..., D_k), "shared":
                (..., D_s)}`; "shared" only with shared experts or a shared gate.
            training: As in Keras; passed to the experts and gates.

        Returns:
            `{task: (..., H)}`, and "shared" with `add_shared_gate`.
        """
        inputs = observer().read(self, inputs)
        streams = self._read(inputs)
        if self._mixes_as_given() and self._small_level.takes(streams):
            return self._small_level(streams, training)
        outputs = self.expert_outputs(inputs, training=training)
        weights = self.gate_weights(inputs, training=training)
        observer().ran(self, weights, outputs)
        return {
            gate: self._mix(weights[gate], [outputs[expert] for expert in experts])
            for gate, experts in self._wiring.gates.items()
        }

    def _mixes_as_given(self) -> bool:
        """Whether no subclass has experts or gates of its own ways."""
        methods = ("expert_outputs", "gate_weights", "_mix")
        return all(getattr(type(self), name) is getattr(CGCBlock, name) for name in methods)

    def _mix(self, weights: Any, experts: list[Any]) -> Any:
        """sum_e w_e E_e as a running sum: nothing of the size (..., E, H) is built."""
        columns = ops.split(weights, len(experts), axis=-1)
        return reduce(add, (w * ops.cast(x, self.compute_dtype) for w, x in zip(columns, experts)))

    def compute_mask(self, inputs: Any, previous_mask: Any) -> dict[str, Any] | None:
        """An output's mask: valid where every stream that its gate mixes is valid."""
        masks = self._wiring.by_stream(previous_mask)
        if all(mask is None for mask in masks.values()):
            return None
        return {
            gate: _all_valid([masks[stream] for stream in self._wiring.sources(gate)])
            for gate in self._wiring.gates
        }

    def compute_output_shape(self, input_shape: Any) -> dict[str, Shape]:
        shapes = self._wiring.by_stream(input_shape)
        if self.built:
            self._check_widths(shapes)
            width = self._width
        else:
            any_expert_stream = next(iter(self._wiring.experts.values()))
            width = output_width(
                self._expert_template.layer, shapes[any_expert_stream], "expert_block"
            )
        return {gate: (*shapes[gate][:-1], width) for gate in self._wiring.gates}

    def save_own_variables(self, store: Any) -> None:
        save_names(store, self._wiring.names)
        save_modes(self, store)

    def load_own_variables(self, store: Any) -> None:
        check_names(store, self._wiring.names, self)
        load_modes(self, store)

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
        }


def _all_valid(masks: list[Any]) -> Any:
    """The masks' conjunction; None stands for valid everywhere."""
    distinct = list({id(mask): mask for mask in masks if mask is not None}.values())
    combined = distinct[0] if distinct else None
    for mask in distinct[1:]:
        combined = ops.logical_and(combined, mask)
    return combined
