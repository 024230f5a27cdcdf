"""Multi-gate Mixture-of-Experts."""

from collections.abc import Mapping
from typing import Any

from ple_keras._checks import check_int
from ple_keras._keras.names import automatic_name
from ple_keras._typing import DType, GateInput, LayerLike, Outputs
from ple_keras.layers.cgc_block import CGCBlock
from ple_keras.layers.template import is_by_stream


def MMoEBlock(
    outputs: Outputs,
    expert_block: LayerLike,
    num_experts: int,
    gate_block: LayerLike | None = None,
    gate_softmax_temperature: float = 1.0,
    enable_gate_weights_metrics: bool = False,
    name: str | None = None,
    *,
    gate_kwargs: Mapping[str, Any] | None = None,
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
        expert_block: The template of every expert, as for CGCBlock, but no dict by stream.
        num_experts: The number of experts.
        gate_block: A network between the input and each gate, as for CGCBlock.
        gate_softmax_temperature: The temperature T of every gate.
        enable_gate_weights_metrics: Whether the gates keep statistics of their weights, for
            `GateWeightsLogger`.
        name: The name of the block, by default "mmoe_block", with a number for all but the first.
        gate_kwargs: Further arguments of every Gate, such as `{"dropout": 0.1}`, see CGCBlock.
        isolate_task_experts: Without an effect, since there are no task experts; as for PLEBlock.
        gate_reads: The input of the gates: "stream", "context" or "both", see CGCBlock.
        stack_experts: Whether to stack the weights of plain ExpertBlocks in one variable, see
            CGCBlock.
        dtype: The dtype or dtype policy of the block.
        trainable: Whether the weights are trained.

    Call arguments:
        inputs: A tensor `(..., D)` for all gates and experts, or a dict by stream, see CGCBlock.
        training: Passed to the experts and gates.
        gate_context: The context that the gates read, with `gate_reads`: a tensor `(..., C)` for
            all gates, or a dict by task, see CGCBlock.
        return_gate_weights: Whether to return the gate weights too, a Python bool.

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
    if is_by_stream(expert_block):
        raise TypeError(
            "expert_block must be units or an instance of a Keras layer. All experts of an "
            "MMoEBlock read one stream, so it takes no dict by stream; use a CGCBlock. "
            f"Received: expert_block={expert_block!r}"
        )
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
