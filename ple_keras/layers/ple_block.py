"""Progressive Layered Extraction, and Multi-gate Mixture-of-Experts."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras

from ple_keras._checks import check_int
from ple_keras._keras.names import automatic_name
from ple_keras._typing import DType, GateInput, LayerLike, Nested, Outputs, StreamLayers, Tensor
from ple_keras.labels.task_names import SHARED
from ple_keras.layers.cgc_block import CGCBlock
from ple_keras.layers.gate import gate_options
from ple_keras.layers.sequential_block import SequentialBlock
from ple_keras.layers.template import as_optional_template, is_by_stream

TaskExperts = int | Mapping[str, int]  # the number of experts of each task


def PLEBlock(
    num_layers: int,
    outputs: Outputs,
    expert_block: StreamLayers | Sequence[StreamLayers],
    num_task_experts: TaskExperts | Sequence[TaskExperts] = 1,
    num_shared_experts: int | Sequence[int] = 1,
    gate_block: LayerLike | None = None,
    gate_softmax_temperature: float = 1.0,
    enable_gate_weights_metrics: bool = False,
    name: str | None = None,
    *,
    gate_kwargs: Mapping[str, object] | None = None,
    isolate_task_experts: bool = False,
    gate_reads: GateInput = "stream",
    stack_experts: bool = True,
    dtype: DType = None,
    trainable: bool = True,
) -> SequentialBlock:
    """Progressive Layered Extraction: a stack of levels, each with experts and gates.

    The gates and experts of level j read the output of level j-1 for their own stream:

        w_k^j = softmax(W_k^j g(x_k^{j-1}) / T)
        x_k^j = sum_e w_{k,e}^j E_e^j

    A level has a shared gate if a later level has shared experts. With `gate_reads="context"` or
    "both", the gates of all levels read the context of the call (see CGCBlock).

    Args:
        num_layers: N, the number of levels.
        outputs: The tasks: a sequence of names, a sequence of heads, a TaskHeads, or a dict of
            heads keyed by task.
        expert_block: As for CGCBlock, or a sequence with the units, layer or dict keyed by stream
            of each of the N levels. `[[64], [32]]` means two levels, and `[64, 32]` one expert with
            two steps. If one dict serves all levels, its "shared" has no effect in levels without
            shared experts.
        num_task_experts: The number of experts per task: an int, a dict keyed by task, or a list
            with one of these per level.
        num_shared_experts: The number of shared experts in each level, or a list of N numbers.
        gate_block: A network between the input and each gate, as for CGCBlock.
        gate_softmax_temperature: The temperature T of every gate.
        enable_gate_weights_metrics: Whether the gates keep statistics of their weights, for
            `GateWeightsLogger`.
        name: The name of the block, by default "ple_block", then "ple_block_1" and so on.
        gate_kwargs: Other arguments of every Gate, such as `{"dropout": 0.1}` (see Gate).
        isolate_task_experts: Whether the shared gates mix `stop_gradient` of the task experts (see
            CGCBlock).
        gate_reads: The input of the gates: "stream", "context" or "both" (see CGCBlock).
        stack_experts: Whether to stack the weights of plain ExpertBlocks in one variable (see
            CGCBlock).
        dtype: The dtype or dtype policy of the levels.
        trainable: Whether the weights are trained.

    Call arguments:
        inputs: A tensor `(..., D)` for all streams, or a dict keyed by stream, `{task: (..., D_k),
            "shared": (..., D_s)}` (see CGCBlock).
        training: Passed to every level.
        gate_context: The context that the gates read, unless `gate_reads="stream"`: a tensor
            `(..., C)` for all gates, or a dict keyed by gate (see CGCBlock).
        return_gate_weights: Whether to also return the gate weights of all levels: a Python bool.

    Returns:
        A SequentialBlock of the CGCBlocks `cgc_block_0` to `cgc_block_{N-1}`. It returns
        `{task: (..., H)}`. With `return_gate_weights`, it returns a tuple of this dict and
        `{"{name}/{level}": {gate: (..., experts)}}` (see SequentialBlock).

    Raises:
        TypeError, ValueError: As for CGCBlock, and if `num_layers` is not an integer of at least
            1, or the length of a sequence with an entry per level is not `num_layers`.

    Reference:

    - Tang, Liu, Zhao, Gong, "Progressive Layered Extraction (PLE): A Novel Multi-Task Learning
      (MTL) Model for Personalized Recommendations", RecSys 2020, equations 5 and 6.
      [doi:10.1145/3383313.3412236](https://doi.org/10.1145/3383313.3412236)

    Example:

    >>> ple = PLEBlock(2, ["click", "buy"], [64, 32], num_task_experts=2, num_shared_experts=2)
    >>> {name: tuple(x.shape) for name, x in ple(keras.ops.ones((8, 16))).items()}
    {'click': (8, 32), 'buy': (8, 32)}
    """
    num_layers = check_int(num_layers, "num_layers", minimum=1)
    task_experts = _by_level(num_task_experts, num_layers, "num_task_experts")
    shared_experts = _by_level(num_shared_experts, num_layers, "num_shared_experts")
    blocks = [
        CGCBlock(
            outputs,
            expert,
            num_task_experts=task_experts[level],
            num_shared_experts=shared_experts[level],
            add_shared_gate=any(shared_experts[level + 1 :]),
            gate_block=_for_level(gate_block, "gate_block", level, dtype),
            gate_softmax_temperature=gate_softmax_temperature,
            enable_gate_weights_metrics=enable_gate_weights_metrics,
            gate_kwargs=gate_options(gate_kwargs, "level", level),
            isolate_task_experts=isolate_task_experts,
            gate_reads=gate_reads,
            stack_experts=stack_experts,
            name=f"cgc_block_{level}",
            dtype=dtype,
            trainable=trainable,
        )
        for level, expert in enumerate(_experts_by_level(expert_block, shared_experts, dtype))
    ]
    name = automatic_name("ple_block") if name is None else name
    return SequentialBlock(blocks, name=name, dtype=dtype, trainable=trainable)


def _by_level(value: Nested, num_layers: int, argument: str) -> list[Tensor]:
    """Return the value of each level, from one for all or a list."""
    if not isinstance(value, list | tuple):
        return [value] * num_layers
    if len(value) != num_layers:
        raise ValueError(
            f"{argument} must have {num_layers} entries, one for each level. "
            f"Received: {argument}={value!r}"
        )
    return list(value)


def _experts_by_level(
    expert_block: StreamLayers | Sequence[StreamLayers], shared_experts: list[int], dtype: DType
) -> list[StreamLayers]:
    """Return the expert template, or dict of templates by stream, of each level, with new seeds."""
    blocks: list[StreamLayers] = [expert_block] * len(shared_experts)
    entries = expert_block if isinstance(expert_block, Sequence) else ()
    if any(isinstance(x, keras.Layer | Mapping | list | tuple) for x in entries):
        blocks = _by_level(list(entries), len(shared_experts), "expert_block")
    elif is_by_stream(expert_block) and any(shared_experts):
        without_shared = {k: x for k, x in expert_block.items() if k != SHARED}
        blocks = [expert_block if count else without_shared for count in shared_experts]
    return [_for_level(block, "expert_block", level, dtype) for level, block in enumerate(blocks)]


def _for_level(block: StreamLayers | None, argument: str, level: int, dtype: DType) -> Any:
    """Return a copy of a template, or one per stream, with the seeds of a level; None for None."""
    if is_by_stream(block):
        return {
            stream: _for_level(each, f"{argument}[{stream!r}]", level, dtype)
            for stream, each in block.items()
        }
    template = as_optional_template(block, argument, dtype)
    return template and template.copy(template.layer.name, "level", level)


def MMoEBlock(
    outputs: Outputs,
    expert_block: LayerLike,
    num_experts: int,
    gate_block: LayerLike | None = None,
    gate_softmax_temperature: float = 1.0,
    enable_gate_weights_metrics: bool = False,
    name: str | None = None,
    *,
    gate_kwargs: Mapping[str, object] | None = None,
    isolate_task_experts: bool = False,
    gate_reads: GateInput = "stream",
    stack_experts: bool = True,
    dtype: DType = None,
    trainable: bool = True,
) -> CGCBlock:
    """Multi-gate Mixture-of-Experts: shared experts and one gate per task.

        x_k' = sum_e softmax(W_k g(x) / T)_e E_e(x)

    W_k has no bias, g is the optional gate block, T the temperature.

    Args:
        outputs: The tasks, as for CGCBlock.
        expert_block: The template of every expert, as for CGCBlock.
        num_experts: The number of experts.
        gate_block: A network between the input and each gate, as for CGCBlock.
        gate_softmax_temperature: The temperature T of every gate.
        enable_gate_weights_metrics: Whether the gates keep statistics of their weights, for
            `GateWeightsLogger`.
        name: The name of the block, by default "mmoe_block", then "mmoe_block_1" and so on.
        gate_kwargs: Other arguments of every Gate, such as `{"dropout": 0.1}` (see Gate).
        isolate_task_experts: Has no effect, since there are no task experts.
        gate_reads: The input of the gates: "stream", "context" or "both" (see CGCBlock).
        stack_experts: Whether to stack the weights of plain ExpertBlocks in one variable (see
            CGCBlock).
        dtype: The dtype or dtype policy of the block.
        trainable: Whether the weights are trained.

    Call arguments:
        inputs: A tensor `(..., D)` for all gates and experts, or a dict keyed by stream (see
            CGCBlock).
        training: Passed to the experts and gates.
        gate_context: The context that the gates read, unless `gate_reads="stream"`: a tensor
            `(..., C)` for all gates, or a dict keyed by task (see CGCBlock).
        return_gate_weights: Whether to also return the gate weights: a Python bool.

    Returns:
        A CGCBlock without task experts and without a shared gate. It returns `{task: (..., H)}`.
        With `return_gate_weights`, it returns a tuple of this dict and `{task: (..., experts)}`.

    Raises:
        TypeError, ValueError: As for CGCBlock, and if `num_experts` is not an integer of at
            least 1.

    Reference:

    - Ma et al., "Modeling Task Relationships in Multi-task Learning with Multi-gate
      Mixture-of-Experts", KDD 2018, equations 6 and 7, which have T = 1 and no g.
      [doi:10.1145/3219819.3220007](https://doi.org/10.1145/3219819.3220007)

    Example:

    >>> mmoe = MMoEBlock(["click", "buy"], expert_block=[64, 32], num_experts=4)
    >>> {name: tuple(x.shape) for name, x in mmoe(keras.ops.ones((8, 16))).items()}
    {'click': (8, 32), 'buy': (8, 32)}
    """
    return CGCBlock(
        outputs,
        expert_block,
        num_task_experts=0,
        num_shared_experts=check_int(num_experts, "num_experts", minimum=1),
        add_shared_gate=False,
        gate_block=gate_block,
        gate_softmax_temperature=gate_softmax_temperature,
        enable_gate_weights_metrics=enable_gate_weights_metrics,
        gate_kwargs=gate_kwargs,
        isolate_task_experts=isolate_task_experts,
        gate_reads=gate_reads,
        stack_experts=stack_experts,
        name=automatic_name("mmoe_block") if name is None else name,
        dtype=dtype,
        trainable=trainable,
    )
